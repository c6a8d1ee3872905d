"""Variance preserving: the gap falls as sqrt(alpha_bar_T), and as alpha_bar_T where the reward is centred.

The coordinate in which these are straight lines is B = int_0^T beta = -log alpha_bar_T: T^2 for beta = 2t, T for
beta = 1, 10.05 T for DDPM's linear beta. The axes are linear in B and labelled with T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.rates import CURVE, FAR, Array, Case, draw_gaps, draw_guide, draw_key, draw_slopes, measure, signed
from analysis.style import PAGE, title

#: final time as a function of B, and labels of the axis
RATES: dict[str, tuple[Callable[[Any], Array], tuple[float, ...]]] = {
    "2t": (np.sqrt, (1, 1.5, 2, 2.5, 3)),
    "constant": (np.asarray, (1, 3, 5, 7, 9)),
    "linear": (lambda B: np.asarray(B) / 10.05, (0.1, 0.3, 0.5, 0.7, 0.9)),
}
SHORT = {"2t": r"$\beta = 2t$", "constant": r"$\beta = 1$", "linear": "DDPM"}
XLABEL = {
    "2t": r"final time $T$, linear in $T^2 = -\log\,\bar\alpha_T$",
    "constant": r"final time $T = -\log\,\bar\alpha_T$",
    "linear": r"final time $T$, $10.05\,T = -\log\,\bar\alpha_T$",
}
#: the centred gap is negative, so its opposite is drawn
YLABEL = {"uncentred": r"$E\,r$(ODE) $-$ $E\,r$(SDE)", "centred": r"$E\,r$(SDE) $-$ $E\,r$(ODE)"}
GUIDE = {"uncentred": r"$\propto \sqrt{\bar\alpha_T}$", "centred": r"$\propto \bar\alpha_T$"}
FAR_B = 2 * np.log(FAR)  # alpha_bar_T = sigma_T^-2 there, to 1e-12
SPAN = {"uncentred": ((2.5, 9.0), (0.7, 9.9)), "centred": ((1.5, 5.0), (0.7, 5.6))}  # B of the points, of the lines
BEST = {"uncentred": -0.7, "centred": 0.7}
MEAN = 0.7


def _case(name: str, beta: str) -> Case:
    final, _ = RATES[beta]
    points, limits = SPAN[name]
    return Case(
        name=f"VP {beta}, {name}",
        mean=MEAN,
        best=BEST[name],
        process=lambda T: gb.VP(T, beta),
        times=final(np.linspace(*points, 8)),
        limits=(float(final(limits[0])), float(final(limits[1]))),
        abscissa=lambda T: gb.VP(T, beta).integrated_beta(T),
        far=(float(final(FAR_B[0])), float(final(FAR_B[1]))),
        scale="log-linear",
    )


CASES = {(name, beta): _case(name, beta) for name in SPAN for beta in RATES}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """The six cases: closed form, simulation, fits. Centred gaps are negative: the SDE earns more."""
    largest, smallest = (60_000, 40_000) if settings.quick else (8_000_000, 800_000)
    found = []
    for k, ((name, beta), case) in enumerate(CASES.items()):
        panel = measure(case, largest, smallest, settings, lambda done, k=k: progress((k + done) / len(CASES)))
        found.append({"case": name, "beta": beta, **panel})
    return {"panels": found, "fits": [fit for panel in found for fit in panel.pop("fits")]}


def draw(data: dict[str, Any]) -> Figure:
    """A row for each case and a column for each beta; below, the slopes of each row."""
    figure = Figure(figsize=(PAGE, 6.2))
    cells = figure.add_gridspec(3, 6, height_ratios=(1, 1, 0.9))
    for k, (letter, panel) in enumerate(zip("abcdef", data["panels"], strict=True)):
        row, column = divmod(k, 3)
        first = figure.axes[3 * row] if column else None
        ax = figure.add_subplot(cells[row, 2 * column : 2 * column + 2], sharey=first)
        _gap(ax, panel)
        title(ax, letter, signed(f"{SHORT[panel['beta']]}, {panel['case']}: $c$ = {panel['best']:g}"))
        if first is None:
            ax.set_ylabel(YLABEL[panel["case"]])
        else:
            ax.tick_params(labelleft=False)
    for k, (letter, case) in enumerate(zip("gh", SPAN, strict=True)):
        ax = figure.add_subplot(cells[2, 3 * k : 3 * k + 3])
        names = [panel["panel"] for panel in data["panels"] if panel["case"] == case]
        draw_slopes(ax, *([fit for fit in data["fits"] if fit["panel"] == name] for name in names))
        title(ax, letter, f"slopes of panels {'abc' if k == 0 else 'def'}, left to right")
        ax.set_xlabel(r"stochasticity $\eta$")
    figure.axes[6].set_ylabel(r"slope in $-\log\,\bar\alpha_T$")
    figure.suptitle("VP: gap between ODE and SDE on N(0.7, 0.5), prior N(0, 1), reward $-(x - c)^2$")
    draw_key(figure, data["panels"])
    return figure


def _gap(ax: Axes, panel: dict[str, Any]) -> None:
    ax.set_yscale("log")
    draw_gaps(ax, panel)
    x, leading = (np.array(panel[name])[CURVE // 3 :] for name in ("curve_x", "curve_leading"))
    draw_guide(ax, x, 0.25 * np.abs(leading), GUIDE[panel["case"]])
    beta = panel["beta"]
    ticks = np.array(RATES[beta][1])
    position = CASES[panel["case"], beta].abscissa(ticks)
    inside = (position >= panel["curve_x"][0]) & (position <= panel["curve_x"][-1])
    ax.set_xticks(position[inside], [f"{tick:g}" for tick in ticks[inside]])
    ax.set_xlabel(XLABEL[beta])


PROGRAM = Program("gap_vp", compute, draw)
