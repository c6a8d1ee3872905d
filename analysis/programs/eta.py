"""How much stochasticity makes the gap, and at which noise levels it has to act."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import (
    DASHED,
    FAMILY,
    GAP,
    REWARD,
    TARGET,
    draw_points,
    kind_handles,
    simulated,
)
from analysis.style import PAGE, eta_handles, look, panels, shared_legend, title

TIMES = (3.0, 5.0, 10.0, 30.0)
ETA_CURVE = np.linspace(0.0, 2.25, 91)
ETA_POINTS = np.linspace(0.25, 2.25, 9)

WINDOW_ETAS = (0.5, 1.0, 2.0)
WINDOW_T = 10.0
FACTOR = 2.0  # from the lower end of a window to the upper
WINDOW_CURVE = np.geomspace(0.05, WINDOW_T / FACTOR, 81)  # lower ends of windows
WINDOW_POINTS = np.geomspace(0.1, WINDOW_T / FACTOR, 7)

MIX_STEPS, MIX_WIDTH = 25, 4
MIX_PROCESS = gb.VP.stable_diffusion(MIX_STEPS, "trailing")
MIX_POINTS = np.array([1, 2, 3, 4, 6, 8, 11, 15, 22])  # first stochastic steps, counted from 1


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Gaps against eta at several T, against the place of one window, and against MixGRPO's window."""
    n = 30_000 if settings.quick else 600_000
    against_eta = []
    for k, T in enumerate(TIMES):
        against_eta.append(_against_eta(T, n, settings))
        progress(0.6 * (k + 1) / len(TIMES))
    windows = _windows(n, settings)
    progress(0.8)
    mixed = _mixed(n, settings)
    progress(1.0)
    return {"against_eta": against_eta, "windows": windows, "mixed": mixed, "n": n}


def _against_eta(T: float, n: int, settings: Settings) -> dict[str, Any]:
    process = gb.VE(T)
    ode = gb.terminal_law(TARGET, process, 0.0)
    return {
        **simulated(T, ETA_POINTS, process, ETA_POINTS, n, settings),
        "curve_x": ETA_CURVE,
        "curve": gb.reward_gap(TARGET, process, REWARD, ETA_CURVE),
        "error_of_ode": REWARD.expectation(ode) - REWARD.expectation(TARGET),
    }


def _windows(n: int, settings: Settings) -> dict[str, Any]:
    process = gb.VE(WINDOW_T)
    found = []
    for eta in WINDOW_ETAS:
        points, curve = (
            [gb.Windows([(low, FACTOR * low, eta)]) for low in lows] for lows in (WINDOW_POINTS, WINDOW_CURVE)
        )
        centre = FACTOR**0.5
        found.append(simulated(eta, WINDOW_POINTS * centre, process, points, n, settings))
        found[-1] |= {"curve_x": WINDOW_CURVE * centre, "curve": _exact(process, curve)}
    return {"T": WINDOW_T, "factor": FACTOR, "series": found}


def _mixed(n: int, settings: Settings) -> dict[str, Any]:
    levels = gb.grid(MIX_PROCESS, MIX_STEPS, "trailing")
    all_places = np.arange(1, MIX_STEPS - MIX_WIDTH + 2)
    found = []
    for eta in WINDOW_ETAS:
        points, curve = (
            [gb.Windows([(levels[k - 1 + MIX_WIDTH], levels[k - 1], eta)]) for k in places]
            for places in (MIX_POINTS, all_places)
        )
        found.append(simulated(eta, MIX_POINTS, MIX_PROCESS, points, n, settings))
        found[-1] |= {"curve_x": all_places, "curve": _exact(MIX_PROCESS, curve)}
        found[-1]["all_steps"] = gb.reward_gap(TARGET, MIX_PROCESS, REWARD, eta)
    return {"steps": MIX_STEPS, "width": MIX_WIDTH, "sigmas": levels, "series": found}


def _exact(process: gb.Process, profiles: list[gb.Windows]) -> list[float]:
    return [float(gb.reward_gap(TARGET, process, REWARD, profile)) for profile in profiles]


def draw(data: dict[str, Any]) -> Figure:
    """Gap against eta, against a window's place in sigma, and against its place among the steps."""
    figure, axes = panels(1, 3, PAGE, 2.6)
    _draw_eta(axes[0, 0], data["against_eta"])
    _draw_windows(axes[0, 1], data["windows"])
    _draw_mixed(axes[0, 2], data["mixed"])
    shared_legend(figure, [*eta_handles(WINDOW_ETAS), *kind_handles()])
    return figure


def _draw_eta(axes: Axes, found: list[dict[str, Any]]) -> None:
    for shape, points in zip(FAMILY, found, strict=True):
        axes.axhline(points["error_of_ode"], color=shape.color, linewidth=0.6, linestyle=":", zorder=1)
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        draw_points(axes, points, shape)
        end = (points["curve_x"][-1], points["curve"][-1])
        axes.annotate(f"$T$ = {points['label']:g}", end, (4, 4), textcoords="offset points", ha="right", fontsize=7)
    axes.set(xlabel=r"stochasticity $\eta$", ylabel=GAP, ylim=(0, None))
    title(axes, "a", "it saturates at the ODE's error")


def _draw_windows(axes: Axes, windows: dict[str, Any]) -> None:
    for points in windows["series"]:
        shape = look(points["label"])
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        draw_points(axes, points, shape)
    root = float(np.sqrt(TARGET.cov[0]))
    axes.axvline(root, **DASHED)
    place: dict[str, Any] = dict(xycoords=("data", "axes fraction"), textcoords="offset points", va="top")
    axes.annotate(r"$\sqrt{v}$", (root, 1.0), (-3, 0), ha="right", **place)
    axes.set(xscale="log", ylim=(0, None), xlabel=rf"centre $\sigma$ of the window ($T$ = {windows['T']:g})")
    title(axes, "b", r"noise at $\sigma \ll \sqrt{v}$ makes no gap")


def _draw_mixed(axes: Axes, mixed: dict[str, Any]) -> None:
    for points in mixed["series"]:
        shape = look(points["label"])
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        draw_points(axes, points, shape)
    axes.set(ylim=(0, None), xlabel=f"first of {mixed['width']} stochastic steps of {mixed['steps']}")
    axes.set_xticks([1, 5, 10, 15, 20])
    title(axes, "c", "early windows make the most")


PROGRAM = Program("gap_eta", compute, draw)
