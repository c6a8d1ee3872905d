"""How training moves the gap: ``python -m analysis.plot_dynamics`` writes its figures into ``figures/``.

It prints five findings on two published claims, "reward gaps narrow over training" and "more stochastic training
improves the ODE"; the numbers are read from the figure's own data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis import command

if TYPE_CHECKING:
    from analysis.figure import Program


def programs() -> tuple[Program, ...]:
    """The figures of this command, in the order in which they are written."""
    from analysis.programs import dynamics, dynamics_phase

    return tuple(module.PROGRAM for module in (dynamics, dynamics_phase))


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    only: command.Only = None,
) -> None:
    """Regenerate the figures about training: PNG, PDF, and JSON of the plotted numbers."""
    from analysis import job
    from analysis.programs.dynamics_phase import findings

    output = command.console()
    found = job.figures(programs(), out, only, output, quick, seed)
    if "dynamics_phase" in found:
        for number, sentence in enumerate(findings(found["dynamics_phase"]), 1):
            output.print(f"{number}. {sentence}", highlight=False)


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_dynamics")
