"""How training moves the gap: ``python -m analysis.plot_dynamics`` writes its figures into ``figures/``.

It prints five findings on two published claims, "reward gaps narrow over training" and "more stochastic training
improves the ODE"; the numbers are read from the figure's own data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from analysis import job
from analysis.figure import Program, Settings
from analysis.programs import dynamics, dynamics_phase

PROGRAMS: tuple[Program, ...] = tuple(module.PROGRAM for module in (dynamics, dynamics_phase))


def main(
    quick: Annotated[bool, tyro.conf.arg(help="A coarse run, below 30 seconds.")] = False,
    out: Annotated[Path, tyro.conf.arg(help="Folder of the files; made if it is not there.")] = Path("figures"),
    seed: Annotated[int, tyro.conf.arg(help="Of everything random.")] = 0,
    only: Annotated[str | None, tyro.conf.arg(help=f"One figure alone: {job.names(PROGRAMS)}.")] = None,
) -> None:
    """Regenerate the figures about training: PNG, PDF, and JSON of the plotted numbers."""
    settings = Settings(quick=quick, seed=job.checked_seed(seed))
    chosen = job.checked_programs(PROGRAMS, only)
    output = job.console()
    found = job.run(chosen, job.checked_folder(out), settings, output)
    if dynamics_phase.PROGRAM.name in found:
        for number, sentence in enumerate(dynamics_phase.findings(found[dynamics_phase.PROGRAM.name]), 1):
            output.print(f"{number}. {sentence}", highlight=False)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m analysis.plot_dynamics")
