"""How tight the bounds are: ``python -m analysis.plot_bounds`` writes their figures into ``figures/``.

``analysis.tightness`` measures them on thousands of random cases; that takes longer and is a command of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis import command

if TYPE_CHECKING:
    from analysis.figure import Program


def programs() -> tuple[Program, ...]:
    """The figures of this command, in the order in which they are written."""
    from analysis.programs import bounds_dimension, bounds_limits, bounds_sweeps, bounds_winner, learned_scores

    modules = (bounds_sweeps, bounds_winner, bounds_limits, bounds_dimension, learned_scores)
    return tuple(module.PROGRAM for module in modules)


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    only: command.Only = None,
) -> None:
    """Regenerate the figures about bounds: PNG, PDF, and JSON of the plotted numbers."""
    from analysis import job

    job.figures(programs(), out, only, command.console(), quick, seed)


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_bounds")
