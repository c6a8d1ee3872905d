"""gDDIM for variance-preserving diffusion: Stable Diffusion 1.x, 2.x, XL and their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers import SchedulerMixin as SchedulerMixin  # a loading pipeline looks for it beside the class
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from empirical.schedulers.levels import Levels
from empirical.schedulers.stochastic import StochasticScheduler
from gapbound._validate import choice

_GRID = "its noise levels are not those of timesteps"


class GDDIMScheduler(StochasticScheduler, DDIMScheduler):
    r"""Any pipeline that DDIMScheduler serves, at every eta >= 0: at 0 it is DDIM, at 1 DDIM with eta = 1.

    .. math:: x' = \sqrt{\bar\alpha'} (D + \sigma' k \, \epsilon + \sigma' \sqrt{1 - k^2} \, \xi), \quad
        k = (\sigma'/\sigma)^{\eta^2}, \quad \sigma^2 = (1 - \bar\alpha) / \bar\alpha

    The noise levels are the ``alphas_cumprod`` and ``timesteps`` of diffusers. Every step ends where the next begins;
    DDIMScheduler misses that by a rounding for "linspace", and for "trailing" where the number of steps does not divide
    that of the training steps. The last step goes where DDIMScheduler's goes: to sigma = 0 with ``set_alpha_to_one``,
    else to the first training level, where noise is left and the step has a density.

    Args:
        num_train_timesteps: this and what follows up to ``rescale_betas_zero_snr`` as in DDIMScheduler, except that
            ``clip_sample`` is False unless asked for: schedulers that lack the setting do not clip.
        beta_start: see there.
        beta_end: see there.
        beta_schedule: see there.
        trained_betas: see there.
        clip_sample: see there; a clipped x_0 leaves the noise prediction as it is.
        set_alpha_to_one: see there.
        steps_offset: see there.
        prediction_type: see there.
        thresholding: see there.
        dynamic_thresholding_ratio: see there.
        clip_sample_range: see there.
        sample_max_value: see there.
        timestep_spacing: see there.
        rescale_betas_zero_snr: see there.
        eta: a number, or one value for each step.
        sampler: one of ``empirical.schedulers.SAMPLERS``; "dance-grpo" and "cps" take their own units for eta.

    Raises:
        ValueError: see ``set_eta``; an unknown sampler, spacing or prediction.
    """

    NEEDED = "beta_schedule"
    REFUSED: ClassVar[Mapping[str, str]] = {
        "use_karras_sigmas": _GRID,
        "use_exponential_sigmas": _GRID,
        "use_beta_sigmas": _GRID,
        "use_lu_lambdas": _GRID,
        "use_flow_sigmas": "it is flow matching in another scheduler's words",
    }

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        clip_sample: bool = False,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        eta: float | Sequence[float] = 1.0,
        sampler: str = "gddim",
    ) -> None:
        """See the class."""
        super().__init__(
            num_train_timesteps,
            beta_start,
            beta_end,
            beta_schedule,
            trained_betas,
            clip_sample,
            set_alpha_to_one,
            steps_offset,
            choice("prediction_type", prediction_type, ("epsilon", "sample", "v_prediction")),
            thresholding,
            dynamic_thresholding_ratio,
            clip_sample_range,
            sample_max_value,
            choice("timestep_spacing", timestep_spacing, ("leading", "trailing", "linspace")),
            rescale_betas_zero_snr,
        )
        self._configure(eta, sampler)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """See ``StochasticScheduler.from_config``; ``final_sigmas_type`` "sigma_min" is ``set_alpha_to_one`` False."""
        if hasattr(config, "get") and config.get("final_sigmas_type") == "sigma_min":
            config = {"set_alpha_to_one": False, **config}
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """The timesteps of DDIMScheduler and their noise levels.

        "trailing" sometimes rounds to one timestep more than was asked for, at -1, clean data: it is left out.

        Raises:
            ValueError: more steps than training steps, timesteps past the last training step, an eta that does not fit
                the grid (see ``set_eta``), noise prediction at pure noise.
        """
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps[self.timesteps >= 0]
        trained, timesteps = self.config.num_train_timesteps, self.timesteps.cpu().numpy()
        if timesteps[0] >= trained:
            raise ValueError(
                f"{self.config.timestep_spacing!r} with {num_inference_steps} steps and steps_offset="
                f"{self.config.steps_offset} starts at timestep {timesteps[0]}, past the last, {trained - 1}; use "
                "fewer steps"
            )
        alphas, beyond = self.alphas_cumprod.double().cpu().numpy(), timesteps[-1] - trained // num_inference_steps
        last = alphas[beyond] if beyond >= 0 else float(self.final_alpha_cumprod)
        kept = np.append(alphas[timesteps], last)
        self._start(Levels(np.sqrt(kept), np.sqrt(1 - kept)))

    @property
    def _prediction(self) -> str:
        return self.config.prediction_type

    def _bounded(self, D: Tensor) -> Tensor:
        if self.config.thresholding:
            return self._threshold_sample(D)
        if self.config.clip_sample:
            return D.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return D
