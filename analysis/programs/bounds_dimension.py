"""Bounds of two modes from two dimensions to the size of an image: reduced, they are the same numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.bound_looks import EXACT, LABELS, LOOKS
from analysis.figure import Program, Progress, Settings
from analysis.series import vp
from analysis.style import PAGE, REFERENCE, panels, title
from gapbound.bounds.best import THEOREMS
from gapbound.bounds.problem import unreduced

ETA, SIGMA_T, VARIANCE = 1.2, 3.0, 0.25
DIMENSIONS = (2, 3, 64, 16_384)
WHOLE = (2, 3, 16, 64, 256)  # where the full law is bounded too, by sums over d x d matrices
PAIRS, PAIRS_OF_AN_IMAGE = 20_000, 1500
STEPS = 40  # of stochastic Heun, uniform in sigma
READS = {"along": (1.0, 0.0, 1.3), "across": (0.8, 0.6, 1.4)}  # w on the line of the modes and off it, threshold


def question(d: int, read: str, seed: int = 0) -> tuple[gb.GaussianMixture, gb.Process, gb.HalfSpace]:
    """Two modes on a random line in d dimensions, a half-space that reads it, and |mean|^2 of 0.1 for each of the rest.

    Two orthonormal directions u, v are drawn. The modes are at 0.5 u and 2 u, both shifted by 0.6 v.
    """
    rng = np.random.default_rng(seed)
    u, v = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    rest = math.sqrt(0.1) * rng.choice([-1.0, 1.0], d)
    rest = rest - (rest @ u) * u - (rest @ v) * v if d > 2 else np.zeros(d)
    means = np.array([0.5 * u, 2.0 * u]) + 0.6 * v + rest
    first, second, threshold = READS[read]
    return gb.GaussianMixture([0.3, 0.7], means, VARIANCE), vp(SIGMA_T), gb.HalfSpace(first * u + second * v, threshold)


def simulated(d: int, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Gaps of both rewards from the same paired runs in all d dimensions, with their standard errors."""
    target, process, _ = question(d, "along")
    ends = [
        gb.simulate(target, process, "stochastic-heun", eta, STEPS, n, seed, grid="sigma", chunk=256).samples
        for eta in (0.0, ETA)
    ]
    found = {}
    for read in READS:
        reward = question(d, read)[2]
        ode, sde = (reward(end).numpy() for end in ends)
        differences = ode.astype(float) - sde
        found[read] = {"gap": differences.mean(), "standard_error": differences.std(ddof=1) / math.sqrt(n)}
    return found


def bounds_of(d: int, read: str) -> dict[str, float]:
    """All bounds on the gap."""
    found = gb.bounds.best(*question(d, read), ETA)
    return {name: bound.gap for name, bound in found.bounds.items()}


def whole(d: int, read: str) -> float:
    """B1 of the full law, without the reduction."""
    return THEOREMS["chi_square"](unreduced(*question(d, read), ETA)).gap


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Exact gap, bounds and simulation at every dimension."""
    dimensions, whole_d = (DIMENSIONS[:3], WHOLE[:4]) if settings.quick else (DIMENSIONS, WHOLE)
    runs = []
    for k, d in enumerate(dimensions):
        n = 1000 if settings.quick else PAIRS if d < max(DIMENSIONS) else PAIRS_OF_AN_IMAGE
        runs.append(simulated(d, n, settings.seed_for("bounds_dimension", d)))
        progress(0.9 * (k + 1) / len(dimensions))
    result: dict[str, Any] = {"d": dimensions, "eta": ETA, "sigma_T": SIGMA_T, "whole_d": whole_d}
    for read in READS:
        exact = gb.reward_gap(*question(dimensions[-1], read), ETA)
        limits = [bounds_of(d, read) for d in dimensions]
        gap = abs(float(exact.value))
        result[read] = {
            "gap": gap,
            "error": float(exact.error),
            "method": exact.method,
            "bounds": {name: [one[name] for one in limits] for name in limits[0]},
            "over_the_gap": {name: [one[name] / gap for one in limits] for name in limits[0]},
            "whole": [whole(d, read) for d in whole_d],
            "simulated": {key: [abs(run[read][key]) for run in runs] for key in ("gap", "standard_error")},
        }
    return result


def draw(data: dict[str, Any]) -> Figure:
    """The reward along the line of the modes, and off it."""
    figure, axes = panels(1, 2, PAGE, 2.9)
    _draw(axes[0, 0], data, "along")
    title(axes[0, 0], "a", "reads the line of the modes: reduced to $d = 1$")
    _draw(axes[0, 1], data, "across")
    title(axes[0, 1], "b", "reads another direction: reduced to $d = 2$")
    return figure


def _draw(axes: Axes, data: dict[str, Any], read: str) -> None:
    found, d = data[read], data["d"]
    for name, limits in found["bounds"].items():
        shape = LOOKS[name]
        axes.plot(d, limits, **shape.line, marker=shape.marker, markersize=3, label=LABELS[name])
    axes.plot(data["whole_d"], found["whole"], color=LOOKS["chi_square"].color, linewidth=0.8, label="B1, full law")
    axes.plot([d[0], d[-1]], [found["gap"]] * 2, **EXACT, label="exact" if read == "along" else "gap in $d = 2$")
    axes.errorbar(
        d, found["simulated"]["gap"], 1.96 * np.array(found["simulated"]["standard_error"]), fmt="o", color="black",
        markersize=3, markerfacecolor="white", zorder=5, label="simulated in all $d$",
    )  # fmt: skip
    axes.axhline(1.0, color=REFERENCE, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel="|gap| and its bounds", ylim=(0.08, 12))
    axes.set_xticks(d, [f"{value:,}" for value in d], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=6, loc="upper right", ncols=2)


PROGRAM = Program("bounds_dimension", compute, draw)
