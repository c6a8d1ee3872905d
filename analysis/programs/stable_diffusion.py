"""The gap on Stable Diffusion 1.5's own schedule: spacing and step count move the start, and the integrator adds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import (
    DASHED,
    FAMILY,
    GAP,
    REWARD,
    TARGET,
    draw_points,
    family_handles,
    kind_handles,
    plain_ticks,
    series,
    simulated,
)
from analysis.style import PAGE, Look, panels, shared_legend, title

ETA_CURVE = np.linspace(0.0, 2.0, 81)
ETA_POINTS = np.linspace(0.25, 2.0, 8)
STARTS = (10, 50, None)  # steps of "leading" spacing; None: the whole schedule
SPACINGS = ("leading", "linspace", "trailing")
COUNTS = np.arange(5, 101)
DIVISORS = (5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250)  # of 1000: other counts start lower still
GDDIM_POINTS = (10, 20, 50, 100, 250)
ETA = 1.0
LOOKS = {"leading": FAMILY[0], "trailing": FAMILY[2]}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Gap against eta from three starts, the start against the steps, and the gap against the steps at ``ETA``."""
    n = 30_000 if settings.quick else 600_000
    against_eta = [_against_eta(steps, n, settings) for steps in STARTS]
    progress(0.4)
    starts = {
        spacing: [gb.VP.stable_diffusion(int(steps), spacing).sigma_T for steps in COUNTS] for spacing in SPACINGS
    }
    against_steps = []
    for k, spacing in enumerate(LOOKS):
        against_steps.append(_against_steps(spacing, n, settings))
        progress(0.4 + 0.3 * (k + 1))
    return {
        "sigma_T": gb.VP.stable_diffusion().sigma_T,
        "against_eta": against_eta,
        "steps": COUNTS,
        "starts": starts,
        "eta": ETA,
        "against_steps": against_steps,
        "n": n,
    }


def _against_eta(steps: int | None, n: int, settings: Settings) -> dict[str, Any]:
    """The initial mismatch alone: the exact kernel, from where the pipeline starts down to the data."""
    process = gb.VP.stable_diffusion(steps)
    return {
        **simulated("whole" if steps is None else f"leading {steps}", ETA_POINTS, process, ETA_POINTS, n, settings),
        "steps": steps,
        "sigma_T": process.sigma_T,
        "mean_left": process.scale(process.T),
        "curve_x": ETA_CURVE,
        "curve": _gap(process, ETA_CURVE),
    }


def _against_steps(spacing: str, n: int, settings: Settings) -> dict[str, Any]:
    """As the pipeline runs: gDDIM on the scheduler's levels, beside continuous time from the same start."""
    runs = [
        {"process": gb.VP.stable_diffusion(steps, spacing), "eta": ETA, "steps": steps, "grid": spacing}
        for steps in GDDIM_POINTS
    ]
    closed_form = [_gddim_gap(spacing, steps) for steps in GDDIM_POINTS]
    return {
        **series(spacing, GDDIM_POINTS, runs, closed_form, n, settings),
        "curve_x": DIVISORS,
        "curve": [_gddim_gap(spacing, steps) for steps in DIVISORS],
        "continuous": [_gap(gb.VP.stable_diffusion(steps, spacing), ETA) for steps in DIVISORS],
    }


def _gap(process: gb.VP, eta: Any) -> Any:
    return gb.reward_gap(TARGET, process, REWARD, eta)


def _gddim_gap(spacing: str, steps: int) -> float:
    process = gb.VP.stable_diffusion(steps, spacing)
    ode, sde = (
        REWARD.expectation(gb.discrete_law(TARGET, process, "gddim", eta, steps, grid=spacing)) for eta in (0.0, ETA)
    )
    return float(ode - sde)


def draw(data: dict[str, Any]) -> Figure:
    """Gap against eta, start against steps, gap against steps."""
    figure, axes = panels(1, 3, PAGE, 2.6)
    _draw_eta(axes[0, 0], data)
    _draw_starts(axes[0, 1], data)
    _draw_steps(axes[0, 2], data)
    shared_legend(figure, kind_handles("exact"))
    return figure


def _draw_eta(axes: Axes, data: dict[str, Any]) -> None:
    for shape, points in zip(FAMILY, data["against_eta"], strict=False):
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        draw_points(axes, points, shape)
    names = ["whole" if points["steps"] is None else f"{points['steps']} steps" for points in data["against_eta"]]
    labels = [f"{name}: {points['sigma_T']:.2f}" for name, points in zip(names, data["against_eta"], strict=True)]
    axes.legend(handles=family_handles(labels), title=r"start $\sigma_T$", title_fontsize=7, loc="lower right")
    axes.set(xlabel=r"stochasticity $\eta$", ylabel=GAP, ylim=(0, None))
    title(axes, "a", "fewer steps, larger gap")


def _draw_starts(axes: Axes, data: dict[str, Any]) -> None:
    steps = np.array(data["steps"])
    axes.axhline(data["sigma_T"], **DASHED)
    axes.annotate(
        rf"trailing, linspace: {data['sigma_T']:.2f}", (steps[-1], data["sigma_T"]), (2, 3),
        textcoords="offset points", ha="right", va="bottom", fontsize=7,
    )  # fmt: skip
    start = np.array(data["starts"]["leading"])
    axes.plot(steps, start, color=LOOKS["leading"].color, linewidth=0.9)
    for count in (10, 50):
        value = start[steps == count][0]
        axes.plot(count, value, **LOOKS["leading"].points)
        axes.annotate(f"{value:.2f}", (count, value), (-4, 3), textcoords="offset points", ha="right", fontsize=7)
    axes.set(xscale="log", xlabel="steps", ylabel=r"$\sigma$ at the first step", ylim=(4, 16))
    plain_ticks(axes.xaxis, (5, 10, 20, 50, 100))
    title(axes, "b", "leading spacing starts low")


def _draw_steps(axes: Axes, data: dict[str, Any]) -> None:
    for points in data["against_steps"]:
        shape = LOOKS[points["label"]]
        axes.plot(points["curve_x"], points["continuous"], color=shape.color, linestyle="--", linewidth=0.9)
        axes.plot(points["curve_x"], points["curve"], color=shape.color)
        draw_points(axes, points, Look(shape.color, shape.marker, "-"))
    axes.legend(handles=_step_handles(), loc="upper right")
    axes.set(
        xscale="log", ylim=(0, 0.24), xlabel="steps (divisors of 1000)", ylabel=rf"gap at $\eta$ = {data['eta']:g}"
    )
    plain_ticks(axes.xaxis, (5, 10, 20, 50, 100, 250))
    title(axes, "c", "few gDDIM steps hide it")


def _step_handles() -> list[Line2D]:
    spacings = [
        Line2D([], [], color=shape.color, marker=shape.marker, label=f"gDDIM, {spacing}")
        for spacing, shape in LOOKS.items()
    ]
    return [*spacings, Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="no integrator error")]


PROGRAM = Program("gap_stable_diffusion", compute, draw)
