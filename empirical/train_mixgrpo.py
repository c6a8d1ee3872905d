"""Fine-tune a flow-matching or diffusion model by MixGRPO: ``python empirical/train_mixgrpo.py``.

Only the steps of a window are stochastic, and only they are trained; before and after it the sampler is the ODE.
Without arguments it trains the flow-matching model that this repository brings, on a CPU. ``--model`` takes any
diffusers folder or hub id of Stable Diffusion 1.x to 3, XL or FLUX. Everything else is as in ``train_ddpo``: guards,
resume, processes, evaluation. An iteration, called epoch there, is: window, rollout, score, advantage, update.

By settings it is also: Flow-GRPO (``--window None --sampler flow-grpo --eta 0.5``, its noise level a over sqrt(2)),
Flow-GRPO-Fast (the same with ``--window 1`` or 2, ``--position random``), DanceGRPO (``--window None --sampler
dance-grpo``), CPS (``--window None --sampler cps``), MixGRPO-Flash (``--flash 8``).

Reference: MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE (Li et al., 2025),
https://arxiv.org/abs/2507.21802
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: its own folder is on the path, and the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.command import graceful, quieten
from empirical.training.command import obey, read
from empirical.training.mixgrpo_config import PUBLISHED, MixGRPOConfig


def main(config: MixGRPOConfig) -> None:
    """Train, with clear words for what cannot be."""
    from empirical.training.mixgrpo import train

    obey(config, train)


def cli(arguments: Sequence[str] | None = None) -> MixGRPOConfig:
    """Read the command line; what it leaves open depends on the model."""
    return read(MixGRPOConfig, PUBLISHED, "python empirical/train_mixgrpo.py", __doc__, arguments)


if __name__ == "__main__":
    quieten()
    with graceful():
        main(cli())
