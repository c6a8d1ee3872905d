"""Variance exploding: the gap falls as 1/T, and as 1/T^2 where target and prior share their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.rates import (
    CURVE,
    FAR,
    Case,
    draw_gaps,
    draw_guide,
    draw_key,
    draw_shares,
    draw_slopes,
    measure,
    signed,
)
from analysis.series import plain_ticks
from analysis.style import PAGE, panels, title

CASES = tuple(
    Case(name, mean, best, gb.VE, times, limits, abscissa=np.asarray, far=FAR, scale="log-log")
    for name, mean, best, times, limits in [
        ("VE, uncentred", 0.7, -0.7, np.geomspace(4, 80, 7), (1.5, 200.0)),
        ("VE, centred", 0.0, 0.0, np.geomspace(2, 9, 7), (1.2, 15.0)),
    ]
)
TICKS = {"uncentred": (2, 5, 10, 20, 50, 100), "centred": (2, 4, 8)}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Both cases: closed form, simulation, fits."""
    largest, smallest = (100_000, 60_000) if settings.quick else (12_000_000, 1_000_000)
    found = [
        measure(case, largest, smallest, settings, lambda done, k=k: progress((k + done) / len(CASES)))
        for k, case in enumerate(CASES)
    ]
    return {"panels": found, "fits": [fit for panel in found for fit in panel.pop("fits")]}


def draw(data: dict[str, Any]) -> Figure:
    """A row for each case: the gap, its share of the leading term, and the slopes."""
    figure, axes = panels(2, 3, PAGE, 2.1)
    for row, letters, panel in zip(axes, ("abc", "def"), data["panels"], strict=True):
        fits = [fit for fit in data["fits"] if fit["panel"] == panel["panel"]]
        exponent = fits[0]["exponent"]
        constant = panel["leading"][0] * panel["x"][0] ** -exponent
        _gap(row[0], panel, exponent)
        row[1].set_xscale("log")
        draw_shares(row[1], panel)
        row[1].set_ylim(0, 1.45)
        draw_slopes(row[2], fits)
        name = panel["panel"].removeprefix("VE, ")
        title(row[0], letters[0], signed(f"{name}: $m$ = {panel['target']['mean']:g}, $c$ = {panel['best']:g}"))
        title(row[1], letters[1], f"share of ${constant:.2f}/T" + ("$" if exponent == -1 else "^2$"))
        title(row[2], letters[2], f"slope of panel {letters[0]}")
        for ax in row[:2]:
            plain_ticks(ax.xaxis, TICKS[name])
    for ax, label in zip(axes[1], [r"final time $T = \sigma_T$"] * 2 + [r"stochasticity $\eta$"], strict=True):
        ax.set_xlabel(label)
    figure.suptitle("VE: gap between ODE and SDE on N($m$, 0.5), prior N(0, $T^2$), reward $-(x - c)^2$")
    draw_key(figure, data["panels"])
    return figure


def _gap(ax: Axes, panel: dict[str, Any], exponent: float) -> None:
    ax.set(xscale="log", yscale="log", ylabel=r"$E\,r$(ODE) $-$ $E\,r$(SDE)")
    draw_gaps(ax, panel)
    x, leading = (np.array(panel[name])[CURVE // 3 :] for name in ("curve_x", "curve_leading"))
    draw_guide(ax, x, 0.3 * leading, signed(f"slope {exponent:g}"))


PROGRAM = Program("gap_ve", compute, draw)
