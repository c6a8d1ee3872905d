"""The settings of DDPO, beside those that every trainer has; loads no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from empirical.training.settings import Common


@dataclass(frozen=True)
class DDPOConfig(Common):
    """DDPO's own settings, beside those of every trainer."""

    algorithm: ClassVar[str] = "DDPO"

    advantage: Annotated[
        Literal["prompt", "group"],
        tyro.conf.arg(help="Rewards less their mean over their std: of a prompt's latest rewards, or of its group."),
    ] = "group"
    advantage_clamp: Annotated[float, tyro.conf.arg(help="Largest absolute advantage from a prompt's rewards.")] = 5.0
