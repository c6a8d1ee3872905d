"""What every stochastic scheduler has: its eta, and one step of a kernel of ``gapbound`` at a timestep of its grid."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from empirical.schedulers.levels import Levels, split
from gapbound import kernel
from gapbound._validate import Array, choice
from gapbound.eta import checked
from gapbound.updates import log_prob

Generators = torch.Generator | list[torch.Generator] | None


def _asks_once(name: str) -> bool:
    """Whether a sampler needs nothing but one evaluation of the model in a step, as pipelines give it."""
    return not kernel.SAMPLERS[name].covariance_aware and kernel.step(name, 2.0, 1.0, 0.0).again is None


SAMPLERS: tuple[str, ...] = tuple(filter(_asks_once, kernel.SAMPLERS))


@dataclass
class StepOutput(BaseOutput):
    """What a step returns.

    Attributes:
        prev_sample: the next sample, the shape and dtype of the sample.
        pred_original_sample: the prediction of x_0, likewise.
        prev_mean: mean of the step, float32 (float64 for a float64 sample).
        std: its standard deviation, likewise; no axes, or (batch, 1, ...) where every sample has its own timestep.
        log_prob: log-density of ``prev_sample``, summed over all entries of a sample, shape (batch,); None if it was
            not asked for, and where std is 0.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    prev_mean: Tensor
    std: Tensor
    log_prob: Tensor | None = None


def undeclared(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Leave an argument out of the signature that a function declares; it can still be given."""

    def hide(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        kept = [parameter for key, parameter in signature.parameters.items() if key != name]
        function.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return function

    return hide


class StochasticScheduler:
    """Mixin over a diffusers scheduler: one step of a named kernel at any eta.

    eta multiplies the noise's standard deviation, as everywhere in ``gapbound``: 0 is the ODE, 1 the time reversal. It
    is a number, or a profile: one value for each step, with 0 outside a window of stochastic steps. It belongs to the
    configuration, and is saved with it. **A pipeline's own argument** ``eta`` **is not consulted**: pipelines pass 0
    to every scheduler that declares the argument, unless told otherwise. Use ``set_eta``.

    A step depends on its arguments and the grid alone, so that stored steps can be scored again in any order.

    Attributes:
        NEEDED: the key that tells a configuration of this kind.
        REFUSED: settings of other schedulers that this one cannot honour, with what they would mean.
    """

    NEEDED: ClassVar[str]
    REFUSED: ClassVar[Mapping[str, str]]

    _levels: Levels | None = None
    _coefficients: kernel.Step
    _positions: Mapping[float, int]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler that steps the process of another scheduler's ``config``; ``kwargs`` take precedence.

        Values that the other scheduler took by default are kept too, where diffusers would put its own defaults.

        Raises:
            ValueError: the configuration of another kind of process, or one that sets what cannot be honoured.
            TypeError: ``config`` is not a mapping.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"config must be a mapping such as pipe.scheduler.config, got {type(config).__name__}")
        merged = {**config, **kwargs}
        if cls.NEEDED not in merged:
            raise ValueError(
                f"{cls.__name__} needs the configuration of a scheduler with {cls.NEEDED!r}, got the keys "
                f"{sorted(key for key in merged if not key.startswith('_'))}"
            )
        for key, meaning in cls.REFUSED.items():
            if merged.get(key):
                raise ValueError(f"{cls.__name__} cannot honour {key}={merged[key]!r}: {meaning}; pass {key}=False")
        own = {key: value for key, value in config.items() if key != "_use_default_values" and key not in kwargs}
        return super().from_config(own, return_unused_kwargs, **kwargs)  # type: ignore[misc]

    def set_eta(self, eta: float | Sequence[float]) -> Self:
        """Change eta: a number, or one value for each step; returns the scheduler.

        Raises:
            ValueError: a negative or infinite eta, a profile of the wrong length once the grid is set, or an eta that
                the sampler does not admit on that grid.
            TypeError: eta is neither a number nor a sequence of them.
        """
        value = np.asarray(checked(eta))
        if value.ndim > 1 or not value.size:
            raise ValueError(f"eta must be a number or one value a step, got an array of shape {value.shape}")
        if self._levels is not None:
            self._coefficients = self._checked(self._levels, value)
        self.register_to_config(eta=value.tolist())  # type: ignore[attr-defined]
        return self

    @property
    def levels(self) -> Levels:
        """The grid's.

        Raises:
            ValueError: there is no grid yet.
        """
        if self._levels is None:
            raise ValueError("call set_timesteps before step")
        return self._levels

    @property
    def stds(self) -> Array:
        """Standard deviation of the noise of each step, shape (steps,); 0 where a step has no density.

        Raises:
            ValueError: there is no grid yet.
        """
        return self.levels.signal[1:] * self._coefficients.std

    @undeclared("eta")
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float | None = None,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        prev_sample: Tensor | None = None,
        return_log_prob: bool = False,
        return_dict: bool = True,
    ) -> StepOutput | tuple[Tensor | None, ...]:
        r"""One step, ``x' = signal' (D + carry eps + std xi)``, with the coefficients of ``gapbound.kernel``.

        Computed in float32 (float64 for float64). ``prev_sample`` is rounded to the sample's dtype, and ``log_prob`` is
        that of the rounded value: scored again from the same model output, its ratio is exactly 1. In half precision
        this rounding biases log-densities, at small std beyond the usual clips: train on float32 samples.

        ``log_prob`` has no gradient through ``prev_sample``: its gradient is the score function of the policy.

        Args:
            model_output: of the network, shape (batch, ...), what the configuration says it predicts.
            timestep: one of ``timesteps``, or a tensor with one for each sample.
            sample: the current sample, the same shape.
            eta: of this call; None for the scheduler's own.
            generator: one, or one a sample. A step with std > 0 draws one standard normal float32 tensor, whatever eta.
            variance_noise: xi itself, instead of drawing it.
            prev_sample: an outcome to score, instead of drawing it; returned as it is.
            return_log_prob: whether to compute ``log_prob``.
            return_dict: whether to return a ``StepOutput`` or a tuple of its five entries.

        Raises:
            ValueError: no grid yet, a timestep that is not of it, shapes that do not fit, values that are not finite,
                an eta that is negative or that the sampler does not admit, more than one source of the outcome, or a
                batch in which only some steps have a density to return.
        """
        k = self._position(timestep, len(sample))
        self._check_call(model_output, sample, generator, variance_noise, prev_sample)
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        D, mean, std, stochastic = self._transition(model_output.to(x.dtype), x, k, eta)
        if prev_sample is None:
            drawn = mean + std * _increment(x, generator, variance_noise) if stochastic else mean
            prev_sample = drawn.to(sample.dtype)
            self._step_index = int(np.max(k)) + 1  # what inpainting with flow matching asks
        scored = None
        if return_log_prob and stochastic:
            scored = log_prob(prev_sample.detach().to(x.dtype), mean, std, event_dims=x.ndim - 1).total
        values = prev_sample, D.to(sample.dtype), mean, std, scored
        return StepOutput(*values) if return_dict else values

    def _configure(self, eta: float | Sequence[float], sampler: str) -> None:
        """The last part of a scheduler's ``__init__``.

        Raises:
            ValueError: an unknown sampler, or one that asks more than one model output in a step; see ``set_eta``.
        """
        if choice("sampler", sampler, kernel.SAMPLERS) not in SAMPLERS:
            raise ValueError(
                f"sampler {sampler!r} cannot be a scheduler: it needs "
                + ("a Gaussian target" if kernel.SAMPLERS[sampler].covariance_aware else "a second model evaluation")
                + f" in each step; use one of {', '.join(SAMPLERS)}"
            )
        self.set_eta(eta)

    def _start(self, levels: Levels) -> None:
        """The last part of a scheduler's ``set_timesteps``: take the grid, or raise and have none."""
        self._levels = None
        positions = {timestep: k for k, timestep in enumerate(self.timesteps.tolist())}
        if len(positions) != len(levels.signal) - 1:
            raise ValueError(f"the timesteps must all differ, got {self.timesteps.tolist()}")
        if self._prediction == "epsilon" and not levels.signal[0]:
            raise ValueError(
                "a network that predicts the noise says nothing of x_0 at pure noise (rescale_betas_zero_snr with "
                f"{self.config.timestep_spacing!r} spacing starts there); it must predict v or x_0"
            )
        self._coefficients = self._checked(levels, np.asarray(self.config.eta))
        self._levels, self._positions = levels, positions

    def _checked(self, levels: Levels, eta: Array) -> kernel.Step:
        """Coefficients of every step; refuses a profile of the wrong length, or an eta that the grid does not admit."""
        steps = len(levels.signal) - 1
        if eta.ndim and len(eta) != steps:
            raise ValueError(f"eta has {len(eta)} values for {steps} steps; give a number, or one value for each step")
        found = kernel.step(self.config.sampler, levels.sigma[:-1], levels.sigma[1:], eta)
        return kernel.Step(*(np.broadcast_to(part, (steps,)) for part in (found.carry, found.std)))

    def _transition(self, output: Tensor, x: Tensor, k: Any, eta: float | None) -> tuple[Tensor, Tensor, Tensor, bool]:
        """D, the mean and the std of step ``k`` from x, and whether it has any noise in float32."""
        levels, step = self.levels, self._kernel(k, eta)
        signal, noise = _beside(levels.signal[k], x), _beside(levels.noise[k], x)
        D, eps = split(self._prediction, output, x, signal, noise)
        D, after = self._bounded(D), levels.signal[np.add(k, 1)]
        mean = _beside(after, x) * D + _beside(after * step.carry, x) * eps
        self._check_finite(mean, output, k)
        std = np.asarray(after * step.std)
        return D, mean, _beside(std, x), bool((std.astype(np.float32) > 0).any())

    def _kernel(self, k: Any, eta: float | None) -> kernel.Step:
        own = self._coefficients
        if eta is None:
            return kernel.Step(own.carry[k], own.std[k])
        if np.ndim(eta):
            raise ValueError(f"a step takes one eta, got {eta!r}; set_eta takes a profile")
        sigma = self.levels.sigma
        return kernel.step(self.config.sampler, sigma[k], sigma[np.add(k, 1)], np.asarray(checked(eta)))

    def _position(self, timestep: float | Tensor, batch: int) -> Any:
        """Which step starts at ``timestep``: a number, or an array of shape (batch,)."""
        steps = len(self.levels.signal) - 1
        wanted = torch.as_tensor(timestep).flatten().tolist()
        if len(wanted) not in (1, batch):
            raise ValueError(f"give one timestep, or one for each of the {batch} samples, got {len(wanted)}")
        unknown = [value for value in wanted if value not in self._positions]
        if unknown:
            first, last = self.timesteps[0].item(), self.timesteps[-1].item()
            raise ValueError(
                f"timestep {unknown[0]} is not one of the {steps} of this grid, {first:g} ... {last:g}; "
                "pass the entries of scheduler.timesteps as they are, in their own precision"
            )
        found = [self._positions[value] for value in wanted]
        return found[0] if len(found) == 1 else np.array(found)

    def _check_call(
        self, output: Tensor, sample: Tensor, generator: Generators, noise: Tensor | None, outcome: Tensor | None
    ) -> None:
        given = {"model_output": output, "variance_noise": noise, "prev_sample": outcome}
        for name, value in given.items():
            if value is not None and value.shape != sample.shape:
                raise ValueError(f"{name} must have the sample's shape {tuple(sample.shape)}, got {tuple(value.shape)}")
        sources = {"generator": generator, "variance_noise": noise, "prev_sample": outcome}
        named = [name for name, value in sources.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"the outcome of a step has one source, got {' and '.join(named)}; give one of them")
        if isinstance(generator, list) and len(generator) != len(sample):
            raise ValueError(f"got {len(generator)} generators for {len(sample)} samples; give one, or one a sample")

    def _check_finite(self, mean: Tensor, output: Tensor, k: Any) -> None:
        if bool(torch.isfinite(mean).all()):
            return
        broken = "the model's output" if not bool(torch.isfinite(output).all()) else "the sample"
        row = int((~torch.isfinite(mean)).flatten(1).any(1).nonzero()[0])
        step = int(np.broadcast_to(k, len(mean))[row])
        raise ValueError(
            f"{broken} is not finite in step {step} (timestep {self.timesteps[step].item():g}), sample {row} of "
            f"{len(mean)}; half precision overflows on some models: use bfloat16 or float32"
        )

    @property
    def _prediction(self) -> str:
        """One of ``levels.PREDICTIONS``."""
        raise NotImplementedError

    def _bounded(self, D: Tensor) -> Tensor:
        """The prediction of x_0 as the configuration clips it."""
        return D


def _beside(values: Any, x: Tensor) -> Tensor:
    """A number, or one for each sample, as a tensor that broadcasts with x."""
    tensor = torch.as_tensor(np.asarray(values), dtype=x.dtype, device=x.device)
    return tensor.reshape(-1, *[1] * (x.ndim - 1)) if tensor.ndim else tensor


def _increment(x: Tensor, generator: Generators, given: Tensor | None) -> Tensor:
    if given is not None:
        return given.to(x)
    return randn_tensor(x.shape, generator=generator, device=x.device, dtype=torch.float32).to(x)
