"""What an iteration of ``train_mixgrpo`` costs: ``python -m analysis.benchmarks.mixgrpo``, minutes on an idle machine.

The same trajectory of 25 steps with SDE everywhere, with a window of 4 steps at several places, and with a second-order
solver after it; each beside its share of the first, by time and by network passes, and what it takes beyond the passes,
every tenth iteration's checkpoint included, and the decoder's part of that.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tyro
from rich.table import Table

from analysis.benchmarks.ddpo import beyond_passes
from analysis.command import console, run
from empirical.training import mixgrpo as train_mixgrpo
from empirical.training.mixgrpo_config import MixGRPOConfig
from empirical.training.plan import network_passes
from empirical.training.run import start

FLASH = 6
BACKWARD = 2.0  # passes that a backward pass takes


def cases() -> dict[str, MixGRPOConfig]:
    """Settings by name; the first is what the others are compared with."""
    base = MixGRPOConfig(tracker="none", kl_weight=0.0, position="fixed", also=())
    places = {f"window at {first}": replace(base, first=first) for first in (0, 10, 20)}
    return {
        "SDE everywhere": replace(base, window=None, shared_noise=False),
        **places,
        **{f"{name}, flash {FLASH}": replace(config, flash=FLASH) for name, config in places.items()},
    }


def cost(config: MixGRPOConfig, repeat: int) -> dict[str, Any]:
    """Seconds of an iteration, its passes with a backward pass as two, and what it takes beyond them."""
    with tempfile.TemporaryDirectory() as out:
        run = start(replace(config, out=Path(out), epochs=repeat + 2), lambda text: None)
        seconds, beyond, decoder = beyond_passes(run, train_mixgrpo.iteration, repeat)
        passes = network_passes(run)
    work = passes["rollout"] + (1 + BACKWARD) * passes["gradient"]
    return {"seconds": seconds, "beyond": beyond, "decoder": decoder, "passes": work}


def main(repeat: Annotated[int, tyro.conf.arg(help="Iterations that count, of each case.")] = 10) -> None:
    """Measure and print."""
    found = {name: cost(config, repeat) for name, config in cases().items()}
    whole = next(iter(found.values()))
    shown = Table(title="an iteration of 64 samples, 25 steps, guidance 1, the embedded flow model")
    for column in ("", "seconds", "of SDE everywhere", "passes, of SDE everywhere", "beyond passes", "decoder"):
        shown.add_column(column, justify="right" if column else "left")
    for name, one in found.items():
        shares = (f"{one[key] / whole[key]:.0%}" for key in ("seconds", "passes"))
        shown.add_row(name, f"{one['seconds']:.2f}", *shares, f"{one['beyond']:.1%}", f"{one['decoder']:.1%}")
    console().print(shown)


if __name__ == "__main__":
    run(main, "python -m analysis.benchmarks.mixgrpo")
