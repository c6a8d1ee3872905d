"""Fine-tune a text-to-image diffusion model by DDPO: ``python empirical/train_ddpo.py``.

Without arguments it trains the model that this repository brings, on a CPU. ``--model`` takes any diffusers folder or
hub id of Stable Diffusion 1.x, 2.x or XL, ``--reward`` any of ``empirical.rewards``. Killed, it goes on from its last
checkpoint with the same command and ends as if it had not been. Several processes: ``accelerate launch
empirical/train_ddpo.py``. An epoch is: rollout, score, advantage, update; every so often: evaluate, save.

References: Training Diffusion Models with Reinforcement Learning (Black et al., 2023),
https://arxiv.org/abs/2305.13301; the sampler's steps are those of ``gapbound.kernel``, the updates of
``gapbound.updates``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: its own folder is on the path, and the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.command import graceful, quieten
from empirical.training.command import obey, read
from empirical.training.ddpo_config import DDPOConfig
from empirical.training.settings import PUBLISHED


def main(config: DDPOConfig) -> None:
    """Train, with clear words for what cannot be."""
    from empirical.training.ddpo import train

    obey(config, train)


def cli(arguments: Sequence[str] | None = None) -> DDPOConfig:
    """Read the command line; what it leaves open depends on the model."""
    return read(DDPOConfig, PUBLISHED, "python empirical/train_ddpo.py", __doc__, arguments)


if __name__ == "__main__":
    quieten()
    with graceful():
        main(cli())
