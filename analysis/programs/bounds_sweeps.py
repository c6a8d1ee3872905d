"""Bounds against the exact gap of two modes: over sigma_T, over eta, over the distance between the modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.bound_looks import EXACT, LOOKS, handles
from analysis.figure import Program, Progress, Settings
from analysis.series import plain_ticks, vp
from analysis.style import PAGE, REFERENCE, panels, shared_legend, title

SIGMA_T, ETA, DISTANCE = 5.0, 0.7, 2.0  # what stays while another moves
VARIANCE = 0.3
REWARD = gb.Bump(1.2, 1.0)  # bounded, Lipschitz and smooth: every bound applies
HUGE = 1e6  # a bound beyond is kept as None


def modes(distance: float) -> gb.GaussianMixture:
    """Two modes of equal width, the higher one the heavier."""
    return gb.GaussianMixture([0.35, 0.65], [-distance / 2, distance / 2], VARIANCE)


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Exact gaps and every bound along the three axes."""
    n = 5 if settings.quick else 25
    axes = {"sigma_T": np.geomspace(1.5, 60, n), "eta": np.linspace(0.1, 3, n), "distance": np.linspace(0.2, 7, n)}
    found: dict[str, Any] = {}
    for i, (name, values) in enumerate(axes.items()):
        rows = []
        for k, value in enumerate(values):
            rows.append(row(**{"sigma_T": SIGMA_T, "eta": ETA, "distance": DISTANCE, name: float(value)}))
            progress((i + (k + 1) / n) / len(axes))
        found[name] = {"x": values, **{key: [row[key] for row in rows] for key in rows[0]}}
    return {"fixed": {"sigma_T": SIGMA_T, "eta": ETA, "distance": DISTANCE, "variance": VARIANCE}, "sweeps": found}


def row(sigma_T: float, eta: float, distance: float) -> dict[str, float | None]:
    """The exact gap and every bound on it; None where one does not apply."""
    question = modes(distance), vp(sigma_T), REWARD, eta
    bounds = gb.bounds.best(*question).bounds
    limits = {name: bounds[name].gap if name in bounds else None for name in LOOKS}
    return {"gap": gb.reward_gap(*question).value} | {
        name: float(limit) if limit is not None and limit < HUGE else None for name, limit in limits.items()
    }


def draw(data: dict[str, Any]) -> Figure:
    """Values above, ratios to the exact gap below."""
    figure, axes = panels(2, 3, PAGE, 2.2, sharex="col")
    labels = {"sigma_T": r"$\sigma_T$", "eta": r"$\eta$", "distance": "distance between the modes"}
    for column, (name, sweep) in enumerate(data["sweeps"].items()):
        _draw_values(axes[0, column], sweep)
        _draw_ratios(axes[1, column], sweep)
        axes[1, column].set_xlabel(labels[name])
    axes[1, 0].set_xscale("log")
    plain_ticks(axes[1, 0].xaxis, (2, 5, 10, 20, 50))
    axes[0, 2].text(4.0, 1.2e-3, "the gap\nchanges sign", fontsize=7)
    axes[0, 0].text(50, 1.2, "range of the reward", fontsize=7, ha="right", color="0.3")
    fixed = data["fixed"]
    title(axes[0, 0], "a", rf"$\eta$ = {fixed['eta']:g}, distance {fixed['distance']:g}")
    title(axes[0, 1], "b", rf"$\sigma_T$ = {fixed['sigma_T']:g}, distance {fixed['distance']:g}")
    title(axes[0, 2], "c", rf"$\sigma_T$ = {fixed['sigma_T']:g}, $\eta$ = {fixed['eta']:g}")
    for letter, panel in zip("def", axes[1], strict=True):
        title(panel, letter, "bound / exact gap")
    axes[0, 0].set_ylabel("|gap| and its bounds")
    axes[1, 0].set_ylabel("ratio")
    shared_legend(figure, handles())
    return figure


def _draw_values(axes: Axes, sweep: dict[str, Any]) -> None:
    for name, look in LOOKS.items():
        axes.plot(sweep["x"], _numbers(sweep[name]), **look.line)
    axes.plot(sweep["x"], np.abs(sweep["gap"]), **EXACT, zorder=4)
    axes.axhline(1.0, color=REFERENCE, linewidth=0.8)
    axes.set(yscale="log", ylim=(max(1e-5, np.abs(sweep["gap"]).min() / 2), 5))


def _draw_ratios(axes: Axes, sweep: dict[str, Any]) -> None:
    for name, look in LOOKS.items():
        axes.plot(sweep["x"], _numbers(sweep[name]) / np.abs(sweep["gap"]), **look.line)
    axes.axhline(1.0, **EXACT)
    axes.set(yscale="log", ylim=(0.8, 100))


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


PROGRAM = Program("bounds_sweeps", compute, draw)
