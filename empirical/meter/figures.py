"""The report's figures, drawn from the summary alone: gap against eta, gap against steps, rewards beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.style import LOOKS, PAGE, REFERENCE, Look, panels, shared_legend, title
from empirical.meter.summary import select

Summary = Mapping[str, Any]
MARKERS = ("o", "s", "^", "D", "v", "P")
APART = 0.014  # between the etas of one step count, as a part of the axis
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def looks(values: Sequence[float]) -> dict[float, Look]:
    """A look for each of an ordered list: that of the other figures where all have one, else steps of their colours."""
    if all(value in LOOKS for value in values):
        return {value: LOOKS[value] for value in values}
    shades = colormaps["plasma"](np.linspace(0.05, 0.8, len(values)))
    return {
        value: Look(to_hex(shade), marker, "-")
        for value, shade, marker in zip(values, shades, cycle(MARKERS), strict=False)
    }


def gap_against_eta(summary: Summary) -> Figure:
    """A panel for each reward and guidance; a curve for each step count, hollow and dashed for the reference."""
    rows = summary["gaps"]
    steps = sorted({row["steps"] for row in rows})
    shades = _by_steps(steps)
    figure, grid = _grid(rows)
    for axes, (reward, guidance) in zip(grid.flat, _places(rows), strict=True):
        for n, role in ((n, role) for n in steps for role in ("model", "reference")):
            points = select(rows, reward=reward, guidance=guidance, steps=n, role=role)
            shift = 0.02 * (steps.index(n) - (len(steps) - 1) / 2) + (0.008 if role == "reference" else 0)
            _errorbars(axes, [row["eta"] + shift for row in points], points, shades[n], role)
        _finish(axes, r"$\eta$ of the SDE", f"gap in {reward}")
        axes.set_xticks(sorted({row["eta"] for row in rows}))
    handles = [_handle(shades[n], f"{n} steps") for n in steps]
    _legend(figure, handles, rows)
    return figure


def gap_against_steps(summary: Summary) -> Figure:
    """A panel for each reward and guidance; a curve for each eta over 1/N, ending in its extrapolated limit at 0."""
    rows, limits = summary["gaps"], summary["limits"]
    etas = sorted({row["eta"] for row in rows})
    shades, steps = looks(etas), sorted({row["steps"] for row in rows})
    figure, grid = _grid(rows)
    for axes, (reward, guidance) in zip(grid.flat, _places(rows), strict=True):
        for eta, role in ((eta, role) for eta in etas for role in ("model", "reference")):
            points = select(rows, reward=reward, guidance=guidance, eta=eta, role=role)
            shift = APART / steps[0] * (etas.index(eta) - (len(etas) - 1) / 2 + (0.35 if role == "reference" else 0))
            x = [1 / row["steps"] + shift for row in points]
            _errorbars(axes, x, points, shades[eta], role)
            for limit in select(limits, reward=reward, guidance=guidance, eta=eta, of=role):
                _errorbars(axes, [shift], [limit], Look(shades[eta].color, "*", "none"), role)
                axes.plot([shift, x[-1]], [limit["value"], points[-1]["value"]], color=shades[eta].color, linestyle=":")
        _finish(axes, "steps N, spaced as 1/N", f"gap in {reward}")
        axes.set_xticks([0, *(1 / n for n in reversed(steps))], [r"$\infty$", *map(str, reversed(steps))])
    _legend(figure, [_handle(shades[eta], rf"$\eta$ = {eta:g}") for eta in etas], rows)
    return figure


def rewards_side_by_side(summary: Summary) -> Figure:
    """Rewards of ODE and SDE, model and reference, at the guidance in use and the most steps: did both improve?"""
    rows = summary["rewards"]
    guidance, steps = max(row["guidance"] for row in rows), max(row["steps"] for row in rows)
    shown = select(rows, guidance=guidance, steps=steps)
    rewards = list(dict.fromkeys(row["reward"] for row in rows))
    figure, grid = panels(1, len(rewards), height=2.6)
    etas = sorted({row["eta"] for row in shown})
    shades = looks(etas)
    for axes, letter, reward in zip(grid.flat, LETTERS, rewards, strict=False):
        for role in ("model", "reference"):
            for eta in etas:
                points = select(shown, reward=reward, role=role, eta=eta)
                offset = 0.12 * (1 if role == "reference" else -1) if len({row["role"] for row in rows}) > 1 else 0
                _errorbars(axes, [etas.index(eta) + offset] * len(points), points, shades[eta], role)
        title(axes, letter, f"guidance {guidance:g}, {steps} steps")
        axes.set_xticks(range(len(etas)), ["ODE" if eta == 0 else f"SDE {eta:g}" for eta in etas])
        axes.set_xlim(-0.5, len(etas) - 0.5)
        axes.set_ylabel(reward)
    _legend(figure, [_handle(Look("0.2", "o", "none"), "model")], rows)
    return figure


def _grid(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, Any]:
    places = _places(rows)
    columns = len({guidance for _, guidance in places})
    width = PAGE if columns > 1 else 0.7 * PAGE
    figure, grid = panels(len(places) // columns, columns, width=width, height=2.5, sharex=True, sharey="row")
    for axes, letter, (_, guidance) in zip(grid.flat, LETTERS, places, strict=False):
        title(axes, letter, "no guidance" if guidance == 1 else f"guidance {guidance:g}")
    return figure, grid


def _places(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((row["reward"], row["guidance"]) for row in rows))


def _by_steps(steps: Sequence[int]) -> dict[int, Look]:
    shades = colormaps["viridis"](np.linspace(0.0, 0.75, len(steps)))
    return {
        n: Look(to_hex(shade), marker, "-") for n, shade, marker in zip(steps, shades, cycle(MARKERS), strict=False)
    }


def _errorbars(axes: Axes, x: Sequence[float], points: Sequence[Mapping[str, Any]], shade: Look, role: str) -> None:
    """Points with their intervals where there are any, joined by a line."""
    if not points:
        return
    y = np.array([row["value"] for row in points])
    ends = np.array([row["interval"] or (row["value"],) * 2 for row in points])
    hollow = {"markerfacecolor": "white", "linestyle": (0, (2, 1.5)), "alpha": 0.8} if role == "reference" else {}
    line = {"linestyle": "-", **hollow}
    axes.errorbar(x, y, np.stack([y - ends[:, 0], ends[:, 1] - y]), color=shade.color, marker=shade.marker, **line)


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.axhline(0, color=REFERENCE, linewidth=0.8, zorder=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.label_outer()


def _handle(shade: Look, label: str) -> Line2D:
    return Line2D([], [], color=shade.color, marker=shade.marker, linestyle=shade.linestyle, label=label)


def _legend(figure: Figure, handles: list[Line2D], rows: Sequence[Mapping[str, Any]]) -> None:
    if any(row["role"] == "reference" for row in rows):
        grey = Look("0.4", "o", (0, (2, 1.5)))
        reference = _handle(grey, "reference")
        reference.set_markerfacecolor("white")
        handles = [*handles, reference]
    shared_legend(figure, handles)
