"""The sampler as a policy: what its network says at a step, and the mean and std of that step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from empirical.meter.pipelines import denoiser, without_adapters
from empirical.schedulers import stochastic
from empirical.schedulers.tail import tail, tail_steps
from empirical.training.condition import Condition, prepare
from empirical.training.guards import require_finite
from gapbound._validate import count
from gapbound.updates import kl_rescaling

LEAST_STD = 0.01  # of a step that is trained


@dataclass
class Policy:
    """A pipeline that samples by ``steps`` steps at ``eta``; rollout and replay call the same functions.

    Args:
        pipeline: of a class that the meter knows, in eval mode.
        steps: how many.
        eta: a number, or one value for each step.
        guidance: in rollout and replay alike; 1 for none.
        sampler: a name of ``empirical.schedulers``.
        size: of the images in pixels, None for the pipeline's own.
        network: what to call for the denoiser, such as a wrapper that averages gradients; the denoiser itself if None.
        reference: a frozen copy of the denoiser; None where switching the LoRA off gives it.
        flash: a second-order ODE solver takes the deterministic steps at the end, in at most so many; None to leave
            them.

    Raises:
        ValueError: a scheduler without a stochastic form, a profile of the wrong length, an unknown sampler; a flash
            where no deterministic step is left, or of a scheduler that clips.
    """

    pipeline: DiffusionPipeline
    steps: int
    eta: float | Sequence[float] = 1.0
    guidance: float = 1.0
    sampler: str = "gddim"
    size: int | None = None
    network: Any = None
    reference: nn.Module | None = None
    flash: int | None = None
    scheduler: Any = field(init=False)
    dtype: torch.dtype = field(init=False)
    doubled: bool = field(init=False)

    def __post_init__(self) -> None:
        """Make the scheduler and set its grid."""
        count("steps", self.steps)
        self.scheduler = stochastic(self.pipeline.scheduler, self.sampler, self.eta)
        self.dtype = next(denoiser(self.pipeline).parameters()).dtype  # adapters may be wider
        self.network = denoiser(self.pipeline) if self.network is None else self.network
        with torch.no_grad():
            self.doubled = self.condition([""]).doubled  # sets the grid, and refuses what cannot be before any work
        self.solver()

    def use(self, eta: float | Sequence[float]) -> None:
        """Go on with another eta, or profile of eta.

        Raises:
            ValueError: a profile of the wrong length, or one that leaves no step to ``flash``.
        """
        self.eta = eta
        self.scheduler.set_eta(eta)
        self.solver()

    def condition(self, prompts: Sequence[str]) -> Condition:
        """Everything that the denoiser has to know of these prompts; each is encoded once, however often it occurs."""
        texts = list(dict.fromkeys(prompts))
        found = prepare(self.pipeline, self.scheduler, texts, self.steps, self.guidance, self.size)
        return found.of([texts.index(prompt) for prompt in prompts])

    def output(self, x: Tensor, k: int, condition: Condition, network: Any = None) -> Tensor:
        """What the network predicts at step ``k``, guided, float32, the shape of ``x``.

        .. math:: o = o_u + w (o_c - o_u)

        Raises:
            TrainingStopped: NaN or an infinity, with the prompt.
        """
        batch = torch.cat([x, x]) if condition.doubled else x
        time = self.scheduler.timesteps[k].to(x.device).expand(len(batch))
        time = time if condition.divisor == 1 else time / condition.divisor
        inputs = {condition.sample: batch.to(self.dtype), "timestep": time, **condition.inputs}
        found = (self.network if network is None else network)(**inputs)[0].float()
        require_finite(f"the network at step {k} of {self.steps}", found.detach(), condition.prompts)
        if not condition.doubled:
            return found
        unconditional, conditional = found.chunk(2)
        return unconditional + condition.guidance * (conditional - unconditional)

    def moments(
        self, x: Tensor, k: int, condition: Condition, outcome: Tensor, network: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and std of step ``k`` from ``x``, float32; ``outcome`` is what the step led to."""
        found = self.scheduler.step(
            self.output(x, k, condition, network), self.scheduler.timesteps[k], x, prev_sample=outcome
        )
        return found.prev_mean, found.std

    def reference_mean(self, x: Tensor, k: int, condition: Condition, outcome: Tensor) -> Tensor:
        """The mean of step ``k`` under the model before training, without gradient."""
        with torch.no_grad():
            if self.reference is not None:
                return self.moments(x, k, condition, outcome, self.reference)[0]
            with without_adapters(self.pipeline):
                return self.moments(x, k, condition, outcome, denoiser(self.pipeline))[0]

    @property
    def stochastic_steps(self) -> tuple[int, ...]:
        """Those with noise, in float32."""
        return tuple(int(k) for k in np.flatnonzero(self.scheduler.stds.astype(np.float32) > 0))

    @property
    def trunk(self) -> int:
        """How many deterministic steps come before the first stochastic one."""
        return next(iter(self.stochastic_steps), self.steps)

    def solver(self) -> tuple[list[int], Any]:
        """The steps from which the solver of ``flash`` takes its own, and that solver; none and None without it."""
        if self.flash is None:
            return [], None
        first = max(self.stochastic_steps, default=-1) + 1
        starts = tail_steps(self.steps, first, min(self.flash, max(self.steps - first, 1)))
        return starts, tail(self.scheduler, starts)

    @property
    def trainable_steps(self) -> tuple[int, ...]:
        """The stochastic steps, without the last and those of a std below ``LEAST_STD``.

        Deterministic steps have no density. The last step ends at clean data, or, for Stable Diffusion, at its first
        training level with a std of about .02 eta, where rounding alone moves a log-density by more than clips allow.
        On the grids of flow matching the step before it ends at t = .001, with a std of .001: its KL, which goes like
        1 / std^2, would drown that of all others.

        Raises:
            ValueError: there are none.
        """
        found = tuple(k for k in self.stochastic_steps if k < self.steps - 1 and self.scheduler.stds[k] >= LEAST_STD)
        if not found:
            raise ValueError(
                f"no step can be trained: with eta = {self.eta} and {self.steps} steps every step but the last is "
                f"deterministic, or has a std below {LEAST_STD:g}; raise eta, or widen its profile"
            )
        return found

    def weight(self, k: int, power: float) -> float:
        r"""Of step ``k`` in the loss: ``std_k^power`` over its mean over the trainable steps.

        The gradient of a log-density is xi / std times that of the mean: without a weight the steps of least noise,
        where it says least of the reward, drown all others.
        """
        stds = self.scheduler.stds
        return float(stds[k] ** power / np.mean([stds[j] ** power for j in self.trainable_steps]))

    def rescaling(self, k: int) -> float | None:
        """What turns the KL of step ``k`` into that of eta = 1; None where there is no formula for it."""
        sigma, eta = self.scheduler.levels.sigma, np.broadcast_to(self.scheduler.config.eta, self.steps)
        if self.sampler != "gddim" or not np.isfinite(sigma[k]) or not sigma[k + 1] > 0:
            return None
        return float(kl_rescaling(sigma[k], sigma[k + 1], eta[k]))
