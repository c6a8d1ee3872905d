"""Which bound is the smallest where, and how close: maps over sigma_T and eta for three distances of two modes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.bound_looks import LABELS, LOOKS
from analysis.figure import Program, Progress, Settings
from analysis.programs.bounds_sweeps import row
from analysis.series import plain_ticks
from analysis.style import PAGE, panels, title

DISTANCES = (0.5, 2.0, 5.0)
GENERAL = ("chi_square", "total_variation", "wasserstein", "duhamel")  # those that need no closed value function
RATIOS = (1.0, 30.0)  # of the colour scale


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Exact gaps and bounds on a grid (sigma_T, eta) for every distance."""
    n = 3 if settings.quick else 12
    sigma_T, eta = np.geomspace(1.5, 60, n), np.linspace(0.1, 3, n)
    maps = []
    for i, distance in enumerate(DISTANCES):
        rows = []
        for k, (s, e) in enumerate(itertools.product(sigma_T, eta)):
            rows.append(row(float(s), float(e), distance))
            progress((i + (k + 1) / n**2) / len(DISTANCES))
        maps.append({"distance": distance, **{key: [found[key] for found in rows] for key in rows[0]}})
    return {"sigma_T": sigma_T, "eta": eta, "maps": maps}


def draw(data: dict[str, Any]) -> Figure:
    """The smallest of B1 to B4 above; the smallest of all over the gap below."""
    figure, axes = panels(2, len(DISTANCES), PAGE, 2.2, sharex=True, sharey=True)
    mesh = None
    for column, found in enumerate(data["maps"]):
        values = _grid(data, found)
        _draw_winner(axes[0, column], data, values)
        mesh = _draw_ratio(axes[1, column], data, values)
        title(axes[0, column], "abc"[column], f"distance {found['distance']:g}: best of B1-B4")
        title(axes[1, column], "def"[column], "smallest of all / |gap|")
        axes[1, column].set(xlabel=r"$\sigma_T$")
    axes[0, 0].set_xscale("log")
    plain_ticks(axes[0, 0].xaxis, (2, 5, 10, 20, 50))
    for panel in axes[:, 0]:
        panel.set_ylabel(r"$\eta$")
    figure.colorbar(mesh, ax=axes[1, :], ticks=[1, 2, 5, 10, 30], format="%g", pad=0.02)
    patches = [Patch(color=LOOKS[name].color, label=LABELS[name]) for name in GENERAL]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches))
    return figure


def _grid(data: dict[str, Any], found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every field as (eta, sigma_T), inf where a bound does not apply."""
    shape = len(data["sigma_T"]), len(data["eta"])
    names = ("gap", *LOOKS)
    return {
        name: np.array([np.inf if entry is None else entry for entry in found[name]]).reshape(shape).T for name in names
    }


def _draw_winner(axes: Axes, data: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    winner = np.argmin([values[name] for name in GENERAL], axis=0)
    colours = ListedColormap([LOOKS[name].color for name in GENERAL])
    limits = BoundaryNorm(np.arange(len(GENERAL) + 1) - 0.5, len(GENERAL))
    axes.pcolormesh(data["sigma_T"], data["eta"], winner, cmap=colours, norm=limits, shading="nearest", rasterized=True)
    axes.grid(False)


def _draw_ratio(axes: Axes, data: dict[str, Any], values: dict[str, np.ndarray]) -> Any:
    ratio = np.min([values[name] for name in LOOKS], axis=0) / np.abs(values["gap"])
    mesh = axes.pcolormesh(
        data["sigma_T"], data["eta"], ratio.clip(*RATIOS), cmap="viridis", norm=LogNorm(*RATIOS), shading="nearest",
        rasterized=True,
    )  # fmt: skip
    axes.grid(False)
    return mesh


PROGRAM = Program("bounds_winner", compute, draw)
