"""How tight the bounds are: ``python -m analysis.plot_bounds`` writes their figures into ``figures/``.

``analysis.tightness`` measures them on thousands of random cases; that takes longer and is a command of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from analysis import job
from analysis.figure import Program
from analysis.programs import bounds_limits, bounds_sweeps, bounds_winner, learned_scores

PROGRAMS: tuple[Program, ...] = tuple(
    module.PROGRAM for module in (bounds_sweeps, bounds_winner, bounds_limits, learned_scores)
)


def main(
    quick: job.Quick = False,
    out: job.Out = Path("figures"),
    seed: job.Seed = 0,
    only: Annotated[str | None, job.only(PROGRAMS)] = None,
) -> None:
    """Regenerate the figures about bounds: PNG, PDF, and JSON of the plotted numbers."""
    job.figures(PROGRAMS, out, only, job.console(), quick, seed)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m analysis.plot_bounds")
