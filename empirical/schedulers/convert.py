"""Which schedulers have a stochastic form, and which class gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers

from empirical.schedulers.diffusion import GDDIMScheduler
from empirical.schedulers.flow import FlowGDDIMScheduler

#: Schedulers of variance-preserving models, by their class; subclasses included.
DIFFUSION = tuple(known.name for known in KarrasDiffusionSchedulers if known.name != "EDMEulerScheduler")
FLOW = (FlowMatchEulerDiscreteScheduler.__name__,)


def stochastic(
    scheduler: Any, sampler: str = "gddim", eta: float | Sequence[float] = 1.0
) -> GDDIMScheduler | FlowGDDIMScheduler:
    """The stochastic scheduler of a pipeline's own: same process, same timesteps, same last step.

    Args:
        scheduler: of a pipeline; it is left as it is.
        sampler: one of ``empirical.schedulers.SAMPLERS``.
        eta: a number, or one value for each step.

    Raises:
        ValueError: a scheduler that cannot be converted, or whose settings cannot be honoured; an unknown sampler; a
            negative eta.
    """
    names = {ancestor.__name__ for ancestor in type(scheduler).__mro__}
    if names & set(FLOW):
        converted = FlowGDDIMScheduler.from_config(scheduler.config, eta=eta, sampler=sampler)
        converted.set_shift(scheduler.shift)
        return converted
    if names & set(DIFFUSION):
        return GDDIMScheduler.from_config(scheduler.config, eta=eta, sampler=sampler)
    raise ValueError(
        f"cannot convert {type(scheduler).__name__} to a stochastic scheduler; "
        f"these can be: {', '.join(DIFFUSION + FLOW)}"
    )
