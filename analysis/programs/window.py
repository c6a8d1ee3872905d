"""MixGRPO's window on a Gaussian, in closed form: what each place of it draws, learns and converges to."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import DASHED
from analysis.style import PAGE, REFERENCE, eta_handles, look, panels, shared_legend, title
from gapbound import training
from gapbound.regulator import rl_optimum_discrete

LAW, REWARD, BETA = gb.Gaussian(0.0, 0.5), gb.Linear(1.0), 2.0
PROCESS = gb.FlowMatching(0.98)
STEPS, WIDTH, GROUP = 25, 4, 8
ETAS = (0.5, 1.0, 1.5)
BACKWARD = 2.0  # passes that a backward pass takes


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """For each eta, by the step at which the window starts; and of the sampler that is stochastic throughout."""
    found = []
    for k, eta in enumerate(ETAS):
        found.append({"eta": eta, **_by_start(eta)})
        progress((k + 1) / len(ETAS))
    return {
        "t_max": PROCESS.t_max, "variance": LAW.cov[0], "beta": BETA, "steps": STEPS, "width": WIDTH, "group": GROUP,
        "sigma": gb.grid(PROCESS, STEPS), "etas": found,
    }  # fmt: skip


def _by_start(eta: float) -> dict[str, Any]:
    starts = range(STEPS - WIDTH)  # the last window ends before the last step
    windows = [window(start, eta) for start in starts]
    whole = gb.grid(PROCESS, STEPS)
    everywhere = gb.Windows([(whole[-2], np.inf, eta)])  # but the last step, which is not trained
    return {
        "start": [*starts],
        "passes": [passes(start) for start in starts],
        **_columns([_one(own) for own in windows]),
        "everywhere": {"passes": STEPS + (1 + BACKWARD) * (STEPS - 1), **_one(everywhere)},
    }


def window(start: int, eta: float) -> gb.Windows:
    """eta in ``WIDTH`` steps from ``start`` on, the ODE before and after."""
    sigma = gb.grid(PROCESS, STEPS)
    return gb.Windows([(sigma[start + WIDTH], sigma[start], eta)])


def passes(start: int) -> float:
    """Network passes of a sample in an iteration: its share of the trunk, the rest of the path, and the update."""
    return start / GROUP + STEPS - start + (1 + BACKWARD) * WIDTH


def _one(eta: gb.Windows) -> dict[str, float]:
    """Variances by both routes, one path's squared signal-to-noise, and the optimum's shift over that of p*."""
    task = training.Task(LAW, PROCESS, REWARD, eta, 0.0, STEPS)
    mean, variance = training.mean_signal(task)
    policy = rl_optimum_discrete(LAW, REWARD, BETA, PROCESS, "gddim", eta, STEPS)
    aim = float(gb.tilt(LAW, REWARD, BETA).mean[0])
    return {
        "variance": float(gb.terminal_law(LAW, PROCESS, eta).cov[0]),
        "variance_discrete": float(gb.discrete_law(LAW, PROCESS, "gddim", eta, STEPS).cov[0]),
        "signal": float(mean**2 / variance),
        "sde": float(policy.law.mean[0]) / aim,
        "ode": float(policy.sampled(eta=0.0).mean[0]) / aim,
        "limit": float(gb.terminal_law(gb.rl_optimum(LAW, REWARD, BETA, PROCESS, eta), PROCESS, eta).mean[0]) / aim,
    }


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def draw(data: dict[str, Any]) -> Figure:
    """Variance drawn; signal of a pass; where training converges."""
    figure, axes = panels(1, 3, PAGE, 2.4)
    for one in data["etas"]:
        shape = look(one["eta"])
        _draw_law(axes[0, 0], one, shape)
        _draw_signal(axes[0, 1], one, shape)
        _draw_optimum(axes[0, 2], one, shape)
    axes[0, 0].axhline(data["variance"], **DASHED)
    axes[0, 0].text(0.03, 0.93, r"thin: $N \to \infty$", **_note(axes[0, 0]))
    axes[0, 0].set(ylim=(None, 0.54), ylabel="variance of the samples")
    title(axes[0, 0], "a", "what 25 steps draw")
    axes[0, 1].axhline(1.0, **DASHED)
    axes[0, 1].set(ylim=(0, None), ylabel="signal of a pass / all steps SDE")
    title(axes[0, 1], "b", "what a pass learns")
    axes[0, 2].axhline(1.0, **DASHED)
    axes[0, 2].text(0.6, 0.9, "thin: the ODE", **_note(axes[0, 2]))
    axes[0, 2].set(ylim=(0, 1.05), ylabel="shift of the mean / that of $p^*$")
    title(axes[0, 2], "c", "what training converges to")
    for axis in axes.flat:
        axis.set_xlabel("first step of the window")
    shared_legend(figure, eta_handles(ETAS, points=False))
    return figure


def _note(axes: Axes) -> dict[str, Any]:
    return {"transform": axes.transAxes, "fontsize": 7, "va": "top", "color": REFERENCE}


def _draw_law(axes: Axes, one: dict[str, Any], shape: Any) -> None:
    axes.plot(one["start"], one["variance_discrete"], **shape.line)
    axes.plot(one["start"], one["variance"], color=shape.color, linewidth=0.7, alpha=0.7)


def _draw_signal(axes: Axes, one: dict[str, Any], shape: Any) -> None:
    whole = one["everywhere"]["signal"] / one["everywhere"]["passes"]
    axes.plot(one["start"], np.array(one["signal"]) / np.array(one["passes"]) / whole, **shape.line)


def _draw_optimum(axes: Axes, one: dict[str, Any], shape: Any) -> None:
    axes.plot(one["start"], one["sde"], **shape.line)
    axes.plot(one["start"], one["ode"], color=shape.color, linewidth=0.7, alpha=0.7)


PROGRAM = Program("window", compute, draw)
