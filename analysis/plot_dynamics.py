"""How training moves the gap: ``python -m analysis.plot_dynamics`` writes its figures into ``figures/``.

It prints five findings on two published claims, "reward gaps narrow over training" and "more stochastic training
improves the ODE"; the numbers are read from the figure's own data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from analysis import job
from analysis.figure import Program
from analysis.programs import dynamics, dynamics_phase

PROGRAMS: tuple[Program, ...] = tuple(module.PROGRAM for module in (dynamics, dynamics_phase))


def main(
    quick: job.Quick = False,
    out: job.Out = Path("figures"),
    seed: job.Seed = 0,
    only: Annotated[str | None, job.only(PROGRAMS)] = None,
) -> None:
    """Regenerate the figures about training: PNG, PDF, and JSON of the plotted numbers."""
    output = job.console()
    found = job.figures(PROGRAMS, out, only, output, quick, seed)
    if dynamics_phase.PROGRAM.name in found:
        for number, sentence in enumerate(dynamics_phase.findings(found[dynamics_phase.PROGRAM.name]), 1):
            output.print(f"{number}. {sentence}", highlight=False)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m analysis.plot_dynamics")
