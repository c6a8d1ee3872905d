"""MixGRPO's window: ``python -m analysis.plot_window`` writes what each place of it learns, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from analysis import command

if TYPE_CHECKING:
    from analysis.figure import Program

SHOWN = 4  # every so manieth place is printed


def programs() -> tuple[Program, ...]:
    """The figures of this command, in the order in which they are written."""
    from analysis.programs import window, window_embedded

    return (window.PROGRAM, window_embedded.PROGRAM)


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    only: command.Only = None,
) -> None:
    """Regenerate the figures about windows: PNG, PDF, and JSON of the plotted numbers."""
    from analysis import job

    output = command.console()
    found = job.figures(programs(), out, only, output, quick, seed)
    if "window" in found:
        for one in found["window"]["etas"]:
            output.print(table(found["window"], one))
            output.print(moving(found["window"], one))
    if "window_embedded" in found:
        output.print(shares(found["window_embedded"]))


def table(data: Mapping[str, Any], one: Mapping[str, Any]) -> Table:
    """Of one eta, by the window's place: signal of a pass, and the optimum's shift under the sampler and the ODE."""
    found = Table(title=f"eta {one['eta']:g}, windows of {data['width']} of {data['steps']} steps")
    for name in ("first step", "passes", "signal of a pass / SDE everywhere", "shift / p*: sampler", "ODE"):
        found.add_column(name, justify="right")
    whole = one["everywhere"]
    each = whole["signal"] / whole["passes"]
    for k in range(0, len(one["start"]), SHOWN):
        signal = one["signal"][k] / one["passes"][k] / each
        found.add_row(
            str(one["start"][k]), f"{one['passes'][k]:.1f}", f"{signal:.2f}", f"{one['sde'][k]:.3f}",
            f"{one['ode'][k]:.3f}",
        )  # fmt: skip
    found.add_row("everywhere", f"{whole['passes']:.0f}", "1.00", f"{whole['sde']:.3f}", f"{whole['ode']:.3f}")
    return found


def moving(data: Mapping[str, Any], one: Mapping[str, Any]) -> Table:
    """Print what windows trained in turn converge to, by their number; last, a window that slides by one step."""
    found = Table(title=f"eta {one['eta']:g}, windows trained in turn: the ODE's shift / that of p*")
    for name in ("windows", f"{data['steps']} steps", "many steps", "factor of beta", "with it"):
        found.add_column(name, justify="right")
    rows = one["moving"]
    for k, number in enumerate(rows["windows"]):
        found.add_row(str(number), *(f"{rows[key][k]:.2f}" for key in ("ode", "limit", "factor", "corrected")))
    sliding = (f"{one['sliding'][key]:.2f}" for key in ("ode", "limit", "factor", "corrected"))
    found.add_row(f"{data['width']} steps, sliding", *sliding)
    return found


def shares(data: Mapping[str, Any]) -> Table:
    """Of the embedded model: how much of the reward's variance the window's noise decides."""
    found = Table(title=f"share of the reward's variance that a window decides, {data['model']}, eta {data['eta']:g}")
    found.add_column("first step", justify="right")
    for name in data["rewards"]:
        found.add_column(name, justify="right")
    for k, start in enumerate(data["start"]):
        cells = [
            f"{one['share'][k]:.2f} ({one['low'][k]:.2f}, {one['high'][k]:.2f})" for one in data["rewards"].values()
        ]
        found.add_row(str(start), *cells)
    return found


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_window")
