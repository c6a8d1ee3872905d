"""What finite steps do: ``python -m analysis.plot_discretization`` writes the figures about them into ``figures/``.

It prints the gap's budget in the figure, and the order at which each sampler's error falls at the longest chains there;
the numbers are read from the figure's own data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from analysis import command

if TYPE_CHECKING:
    from analysis.figure import Program


def programs() -> tuple[Program, ...]:
    """The figures of this command, in the order in which they are written."""
    from analysis.programs import budget, discretization

    return (discretization.PROGRAM, budget.PROGRAM)


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    device: command.Device = "cpu",
    only: command.Only = None,
) -> None:
    """Regenerate the figures of N-step samplers: PNG, PDF, and JSON of the plotted numbers."""
    from analysis import job

    output = command.console()
    found = job.figures(programs(), out, only, output, quick, seed, device)
    if "gap_budget" in found:
        data = found["gap_budget"]
        output.print(budget_table(data))
        output.print(order_table(data["family"]))


def budget_table(data: Mapping[str, Any]) -> Table:
    """The parts of the gap of each pair of step counts, their sum, and the same gap simulated."""
    from analysis.programs import budget

    table = Table(title=f"The gap's parts: Stable Diffusion's schedule, eta = {data['eta']:g}, w = {data['scale']:g}")
    for name in ("ODE / SDE steps", *budget.WORDS.values(), "total", "simulated, 95 %"):
        table.add_column(name, justify="right", no_wrap=name not in budget.WORDS.values())
    pairs = data["pairs"]
    for k, (ode, sde) in enumerate(pairs["x"]):
        parts = [f"{pairs['budgets'][k][name]:+.4f}" for name in budget.WORDS]
        low, high = pairs["interval"][k]
        table.add_row(f"{ode} / {sde}", *parts, f"{pairs['closed_form'][k]:+.4f}", f"{low:+.4f} to {high:+.4f}")
    return table


def order_table(family: Mapping[str, Any]) -> Table:
    """Errors of E r at the first and the last step count, and the order between the last count and a quarter of it."""
    steps = np.array(family["steps"])
    quarter = int(np.abs(np.log(steps / (steps[-1] / 4))).argmin())
    table = Table(title="|error of E r| of each sampler")
    for name in ("sampler", f"{steps[0]} steps", f"{steps[-1]} steps", "order"):
        table.add_column(name, justify="left" if name == "sampler" else "right")
    for name, errors in family["errors"].items():
        order = -np.log(errors[-1] / errors[quarter]) / np.log(steps[-1] / steps[quarter])
        table.add_row(name, f"{errors[0]:.2g}", f"{errors[-1]:.2g}", f"{order:.2f}")
    return table


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_discretization")
