"""How tight the bounds are: ``python -m analysis.plot_bounds`` writes their figures into ``figures/``.

``analysis.tightness`` measures them on thousands of random cases; that takes longer and is a command of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from analysis import job
from analysis.figure import Program, Settings
from analysis.programs import bounds_limits, bounds_sweeps, bounds_winner, learned_scores

PROGRAMS: tuple[Program, ...] = tuple(
    module.PROGRAM for module in (bounds_sweeps, bounds_winner, bounds_limits, learned_scores)
)


def main(
    quick: Annotated[bool, tyro.conf.arg(help="A coarse run, below 30 seconds.")] = False,
    out: Annotated[Path, tyro.conf.arg(help="Folder of the files; made if it is not there.")] = Path("figures"),
    seed: Annotated[int, tyro.conf.arg(help="Of everything random.")] = 0,
    only: Annotated[str | None, tyro.conf.arg(help=f"One figure alone: {job.names(PROGRAMS)}.")] = None,
) -> None:
    """Regenerate the figures about bounds: PNG, PDF, and JSON of the plotted numbers."""
    settings = Settings(quick=quick, seed=job.checked_seed(seed))
    chosen = job.checked_programs(PROGRAMS, only)
    job.run(chosen, job.checked_folder(out), settings, job.console())


if __name__ == "__main__":
    tyro.cli(main, prog="python -m analysis.plot_bounds")
