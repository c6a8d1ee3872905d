"""gDDIM for flow matching: Stable Diffusion 3, FLUX and their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import SchedulerMixin as SchedulerMixin  # a loading pipeline looks for it beside the class
from diffusers.configuration_utils import register_to_config

from empirical.schedulers.levels import Levels
from empirical.schedulers.stochastic import StochasticScheduler


class FlowGDDIMScheduler(StochasticScheduler, FlowMatchEulerDiscreteScheduler):
    r"""Any pipeline that FlowMatchEulerDiscreteScheduler serves, at every eta >= 0: at 0 it is that scheduler.

    .. math:: x' = (1 - t') D + t' k \, \epsilon + t' \sqrt{1 - k^2} \, \xi, \quad k = (\sigma'/\sigma)^{\eta^2},
        \quad \sigma = t / (1 - t)

    t is what FlowMatchEulerDiscreteScheduler calls sigma, shifted as it does. At t = 1 sigma is infinite: there every
    eta > 0 of "gddim" draws all the noise anew. Other samplers by name: "flow-grpo" is Flow-GRPO's step, with its noise
    level a = sqrt(2) eta; "dance-grpo" and "cps" take their own units for eta; "euler-maruyama" cannot start at t = 1.

    The pipelines of SD3 and FLUX give a scheduler no generator: called unchanged, their steps draw from torch's global
    one (``torch.manual_seed``), and their own ``generator`` decides x_T alone.

    Args:
        num_train_timesteps: this and what follows up to ``time_shift_type`` as in FlowMatchEulerDiscreteScheduler.
        shift: see there.
        use_dynamic_shifting: see there.
        base_shift: see there.
        max_shift: see there.
        base_image_seq_len: see there.
        max_image_seq_len: see there.
        shift_terminal: see there.
        use_karras_sigmas: see there.
        use_exponential_sigmas: see there.
        use_beta_sigmas: see there.
        time_shift_type: see there.
        eta: a number, or one value for each step.
        sampler: one of ``empirical.schedulers.SAMPLERS``.

    Raises:
        ValueError: see ``set_eta``; an unknown sampler.
    """

    _compatibles: ClassVar[list[str]] = ["FlowMatchEulerDiscreteScheduler"]
    NEEDED = "shift"
    REFUSED: ClassVar[Mapping[str, str]] = {
        "invert_sigmas": "its time runs from data to noise",
        "stochastic_sampling": "it draws all the noise anew in every step, and here eta decides",
    }

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: str = "exponential",
        eta: float | Sequence[float] = 1.0,
        sampler: str = "gddim",
    ) -> None:
        """See the class."""
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            shift=shift,
            use_dynamic_shifting=use_dynamic_shifting,
            base_shift=base_shift,
            max_shift=max_shift,
            base_image_seq_len=base_image_seq_len,
            max_image_seq_len=max_image_seq_len,
            shift_terminal=shift_terminal,
            use_karras_sigmas=use_karras_sigmas,
            use_exponential_sigmas=use_exponential_sigmas,
            use_beta_sigmas=use_beta_sigmas,
            time_shift_type=time_shift_type,
        )
        self._configure(eta, sampler)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """The times of FlowMatchEulerDiscreteScheduler, with the same arguments, and their noise levels.

        Raises:
            ValueError: what that scheduler refuses; times that rise, repeat or leave [0, 1]; an eta that does not fit
                the grid (see ``set_eta``).
        """
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        t = self.sigmas.double().cpu().numpy()
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"times of flow matching lie in [0, 1], got {t.min():g} to {t.max():g}")
        self._start(Levels(1 - t, t))

    @property
    def _prediction(self) -> str:
        return "flow"
