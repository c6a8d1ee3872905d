"""The main job: every rate figure of the theory, from closed forms and from simulation.

``python -m analysis.plot_rates`` writes NAME.png, NAME.pdf and NAME.json of every figure into ``figures/`` and prints
the fitted slopes next to those of the closed form. ``analysis.programs`` holds one file for each figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from analysis import command

if TYPE_CHECKING:
    from analysis.figure import Program

EXPONENT_TOLERANCE = 0.02  # of a slope at sigma_T >= 1e6 from the exponent: the slow approach at eta = 0.5 fits in it


def programs() -> tuple[Program, ...]:
    """The figures of this command, in the order in which they are written."""
    from analysis.programs import discretization, eta, guidance, paths, sampler_error, stable_diffusion, ve, vp

    return tuple(
        module.PROGRAM for module in (paths, ve, vp, sampler_error, eta, stable_diffusion, discretization, guidance)
    )


def main(
    quick: command.Quick = False,
    out: command.Out = Path("figures"),
    seed: command.Seed = 0,
    device: command.Device = "cpu",
    only: command.Only = None,
) -> None:
    """Regenerate the rate figures: PNG, PDF, and JSON of the plotted numbers."""
    from analysis import job

    console = command.console()
    found = job.figures(programs(), out, only, console, quick, seed, device)
    report(found, console)


def report(found: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the slopes and the exponents, as far as the figures measured some.

    Raises:
        SystemExit: a slope of an exact curve at sigma_T >= 1e6 misses its exponent.
    """
    fits = [fit for data in found.values() for fit in data.get("fits", [])]
    if fits:
        console.print(slope_table(fits))
        inside = sum(fit["inside"] for fit in fits)
        console.print(
            f"{inside} of {len(fits)} intervals hold the closed form's slope; {0.95 * len(fits):.0f} are expected, and "
            "those of one panel go together: its eta share their noise.",
            highlight=False,
            soft_wrap=True,
        )
    exact = fits + [entry for data in found.values() for entry in data.get("exponents", [])]
    if not exact:
        return
    worst = max(exact, key=_miss)
    text = (
        f"{len(exact)} slopes of exact curves between sigma_T = 1e6 and 1e7 miss the exponent by at most "
        f"{_miss(worst):.1g} ({worst['panel']}, eta = {worst['eta']:g})"
    )
    if _miss(worst) > EXPONENT_TOLERANCE:
        raise SystemExit(f"{text}, more than the {EXPONENT_TOLERANCE:g} allowed")
    console.print(text + ".", highlight=False, soft_wrap=True)


def slope_table(fits: Sequence[dict[str, Any]]) -> Table:
    """One row for each fit: measured slope, closed form's slope over the same points and weights, exponent."""
    table = Table(title="Slopes against log T (VE) or -log alpha_bar_T (VP); closed form: same points and weights")
    table.add_column("panel", no_wrap=True)
    for name in ("eta", "fitted slope", "95 % interval", "closed form", "inside", "T to infinity"):
        table.add_column(name, justify="right")
    for k, fit in enumerate(fits):
        low, high = fit["interval"]
        last = k + 1 == len(fits) or fits[k + 1]["panel"] != fit["panel"]
        table.add_row(
            fit["panel"],
            f"{fit['eta']:g}",
            f"{fit['slope']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{fit['closed_form_slope']:.3f}",
            "yes" if fit["inside"] else "no",
            f"{fit['exponent']:g}",
            end_section=last,
        )
    return table


def _miss(entry: dict[str, Any]) -> float:
    return abs(float(entry["exponent_measured"]) - float(entry["exponent"]))


if __name__ == "__main__":
    command.run(main, "python -m analysis.plot_rates")
