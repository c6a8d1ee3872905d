"""What RL converges to, and how an ODE can use it: ``python -m analysis.plot_optimum`` writes the figures of both.

It prints the gap that the optimum leaves, what the transfer weight does to it, and the etas at which there is none; the
numbers are read from the figures' own data.
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

LAW = ("mean", "variance")
REFERENCE_ETAS = (0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 2.0)
GUESSES, CAPS = (0.5, 2.0), (2.0, 5.0, 20.0)


def programs() -> tuple[Program, ...]:
    """The figures of this command, in the order in which they are written."""
    from analysis.programs import matched, optimum, optimum_transfer

    return (optimum.PROGRAM, optimum_transfer.PROGRAM, matched.PROGRAM)


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    device: command.Device = "cpu",
    only: command.Only = None,
) -> None:
    """Regenerate the figures about the RL optimum: PNG, PDF, and JSON of the plotted numbers."""
    from analysis import job

    output = command.console()
    found = job.figures(programs(), out, only, output, quick, seed, device)
    if "optimum" in found:
        output.print(gap_table(found["optimum"]))
    if "optimum_transfer" in found:
        output.print(references_table(found["optimum_transfer"]["references"]))
        output.print(transfer_table(found["optimum_transfer"]))
        output.print(mixture_table(found["optimum_transfer"]["mixture"]))
    if "matched_eta" in found:
        output.print(matched_table(found["matched_eta"]))


def gap_table(data: Mapping[str, Any]) -> Table:
    """Laws and gap of the optimum at each eta, with the gap simulated, and how far the best window gets."""
    gaps, target = data["gaps"], data["target"]
    title = f"RL optimum at sigma_T = {data['sigma_T']:g}; the tilted law is N({target['mean']:.3f}, "
    table = Table(title=f"{title}{target['variance']:.3f})")
    for name in ("eta", "SDE", "ODE", "gap", "simulated, 95 %", "best window's share of the shift"):
        table.add_column(name, justify="right")
    for k, eta in enumerate(gaps["x"]):
        at = [np.interp(eta, gaps["curve_x"], gaps["laws"][who][what]) for who in ("sde", "ode") for what in LAW]
        low, high = gaps["interval"][k]
        gap = np.interp(eta, gaps["curve_x"], gaps["curve"])
        shift = max(data["windows"][k]["sde"])
        table.add_row(
            f"{eta:g}", f"N({at[0]:.3f}, {at[1]:.3f})", f"N({at[2]:.3f}, {at[3]:.3f})", f"{gap:+.4f}",
            f"{low:+.4f} to {high:+.4f}", f"{shift:.3f}",
        )  # fmt: skip
    return table


def references_table(data: Mapping[str, Any]) -> Table:
    """Gaps against the trained SDE and the tilted target's ODE, without and with the weight."""
    table = Table(title=f"Gaps from sigma_T = {float(data['sigma_T']):.2f}: to the trained SDE, to the tilted ODE")
    for name in ("eta", "SDE: before", "after", "tilted ODE: before", "after", "wider"):
        table.add_column(name, justify="right")
    for eta in REFERENCE_ETAS:
        k = int(np.abs(np.asarray(data["eta"]) - eta).argmin())
        gaps = [float(data[name][k]) for name in ("before", "after", "before_target", "after_target")]
        cells = (f"{round(gap, 4) + 0.0:+.4f}" for gap in gaps)
        table.add_row(f"{eta:g}", *cells, "yes" if data["widens"][k] else "")
    return table


def matched_table(data: Mapping[str, Any]) -> Table:
    """Matched eta in N steps of each family, and in continuous time."""
    table = Table(title="Matched eta, linear reward")
    steps = data["families"][0]["steps"]
    for name in ("family", "v", *(f"{n} steps" for n in steps), "continuous"):
        table.add_column(name, justify="right")
    for one in data["families"]:
        curve = next(curve for curve in data["starts"] if curve["v"] == one["v"])
        limit = np.interp(float(data["sigma_T"]), curve["sigma_T"], curve["eta"]) if "SD 1.5" in one["family"] else 1.0
        table.add_row(one["family"], f"{one['v']:g}", *(f"{eta:.3f}" for eta in one["eta"]), f"{limit:.3f}")
    return table


def transfer_table(data: Mapping[str, Any]) -> Table:
    """What is left of the gap for a Gaussian: with the right variance, a wrong one, and capped weights."""
    table = Table(title="Share of a Gaussian's gap to the trained SDE that the transfer weight leaves")
    table.add_column("eta", justify="right")
    for name in ("gap", "weight", *(f"v x {factor:g}" for factor in GUESSES), *(f"w <= {cap:g}" for cap in CAPS)):
        table.add_column(name, justify="right")
    for one in data["gaussian"]:
        guessed = [np.interp(np.log(factor), np.log(one["factor"]), one["misjudged"]) for factor in GUESSES]
        capped = [np.interp(np.log(cap), np.log(one["cap"]), one["capped"]) for cap in CAPS]
        left = (one["exact"], *guessed, *capped)
        table.add_row(f"{one['eta']:g}", f"{one['plain']:+.4f}", *(f"{share:+.4f}" for share in left))
    return table


def mixture_table(mixture: Mapping[str, Any]) -> Table:
    """Gaps on two modes: without a weight, with that of the whole law's variance, with that of a mode's."""
    table = Table(title=f"Gaps on two modes (numerical error {mixture['error']:.1g})")
    table.add_column("eta", justify="right")
    for kind in mixture["gap"]:
        table.add_column(kind, justify="right")
    for k, eta in enumerate(mixture["eta"]):
        table.add_row(f"{eta:g}", *(f"{values[k]:+.4f}" for values in mixture["gap"].values()))
    return table


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_optimum")
