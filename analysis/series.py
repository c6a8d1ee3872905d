"""What several figures share: one target and reward, and a series of simulated gaps next to its closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

import gapbound as gb
from analysis.figure import Settings
from analysis.style import REFERENCE, Look

TARGET = gb.Gaussian(0.7, 0.5)
REWARD = gb.Quadratic(1.0, -0.7)  # r = -(x + 0.7)^2
EXACT: dict[str, Any] = {"sampler": "exact", "steps": 2}  # no integrator error at any number of steps
GAP = r"gap: $E\,r$(ODE) $-$ $E\,r$(SDE)"
DASHED: dict[str, Any] = {"color": REFERENCE, "linestyle": "--", "linewidth": 0.9, "zorder": 1}

#: Looks of a family that is not eta: dark to light, so that the order survives without colour.
FAMILY = (
    Look("#073b4c", "o", "-"),
    Look("#11788a", "s", (0, (5, 1.2))),
    Look("#2fb0a0", "D", (0, (6, 1, 1, 1, 1, 1))),
    Look("#9bd35a", "v", (0, (2, 1))),
)


def vp(sigma_T: float) -> gb.VP:
    """The VP process, beta = 2t, that starts at ``sigma_T``."""
    return gb.VP(np.sqrt(np.log1p(sigma_T**2)))


def simulated(label: str | float, x: Any, process: gb.Process, etas: Any, n: int, settings: Settings) -> dict[str, Any]:
    """Gaps in continuous time, simulated with the exact kernel: one point for each of ``etas``, drawn at ``x``."""
    closed_form = [float(gb.reward_gap(TARGET, process, REWARD, eta)) for eta in etas]
    return series(label, x, [{"process": process, "eta": eta, **EXACT} for eta in etas], closed_form, n, settings)


def series(
    label: str | float, x: Any, runs: Sequence[dict[str, Any]], closed_form: Any, n: int, settings: Settings
) -> dict[str, Any]:
    """Points at ``x``: the gaps that ``gb.estimate_gap`` finds for ``runs``, each with a seed of its own."""
    seeds = [settings.seed_for(str(label), float(run["process"].sigma_T), k) for k, run in enumerate(runs)]
    found = [
        gb.estimate_gap(TARGET, reward=REWARD, n=n, seed=seed, device=settings.device, **run)
        for run, seed in zip(runs, seeds, strict=True)
    ]
    fields = {name: [getattr(one, name) for one in found] for name in ("gap", "standard_error", "interval")}
    return {"label": label, "x": x, **fields, "closed_form": closed_form, "seeds": seeds}


def draw_points(axes: Axes, points: dict[str, Any], shape: Look) -> None:
    """Simulated gaps with their intervals."""
    half_width = np.diff(np.array(points["interval"]), axis=-1)[:, 0] / 2
    axes.errorbar(
        points["x"], points["gap"], half_width, **shape.points, markeredgecolor="white", markeredgewidth=0.4,
        elinewidth=0.9, zorder=3,
    )  # fmt: skip


def kind_handles(closed: str = "closed form") -> list[Line2D]:
    """Entries of a legend for what is a line and what is a point."""
    bar = Line2D([], [], color="black", marker="|", markersize=8, linestyle="none", label="simulation, 95 % interval")
    return [Line2D([], [], color="black", label=closed), bar]


def family_handles(labels: Sequence[str], shapes: Sequence[Look] = FAMILY) -> list[Line2D]:
    """One entry for each member of a family drawn with ``shapes``."""
    return [
        Line2D([], [], color=shape.color, linestyle=shape.linestyle, marker=shape.marker, label=label)
        for shape, label in zip(shapes, labels, strict=False)
    ]


def plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
