"""MixGRPO's window on a Gaussian, in closed form: what it draws, learns and converges to, fixed or moving."""

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
CUTS = (1, 2, 3, 4, 6, 8, 12, 24)  # numbers of windows that divide the trained steps


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """For each eta, by the step at which the window starts; and of the sampler that is stochastic throughout."""
    found = []
    for k, eta in enumerate(ETAS):
        found.append({"eta": eta, **_by_start(eta), "moving": _moving(eta), "sliding": _sliding(eta)})
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


def _moving(eta: float) -> dict[str, Any]:
    """The ODE's shift over that of p*, once windows side by side over all trained steps were optimised one by one."""
    trained = gb.grid(PROCESS, STEPS)[:-1]
    rows = []
    for number in CUTS:
        windows = gb.sliding_windows(trained, (STEPS - 1) // number, (STEPS - 1) // number, eta)
        rows.append(_shift_of(windows))
    return {"windows": CUTS, **_columns(rows)}


def _sliding(eta: float) -> dict[str, float]:
    """The same of MixGRPO's own window, which moves by one step; each level keeps what its last visit taught."""
    return _shift_of(gb.sliding_windows(gb.grid(PROCESS, STEPS)[:-1], WIDTH, 1, eta))


def _shift_of(windows: tuple[gb.Windows, ...]) -> dict[str, float]:
    """In steps, in the limit of many, and in steps with beta multiplied so that the limit is that of p*."""
    variance, aim = float(LAW.cov[0]), float(gb.tilt(LAW, REWARD, BETA).mean[0])
    factors = gb.beta_schedule(variance, PROCESS, windows)
    ode, corrected = (
        gb.moving_optimum_discrete(LAW, REWARD, BETA, PROCESS, windows, own, 1, steps=STEPS).law
        for own in (1.0, factors)
    )  # one cycle: under a linear reward visits leave each other alone
    return {
        "ode": float(ode.mean[0]) / aim,
        "limit": float(gb.moving_shift(variance, PROCESS, windows)),
        "factor": float(factors[0]),
        "corrected": float(corrected.mean[0]) / aim,
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
    """Variance drawn; signal of a pass; where training converges with a fixed window, and with windows that move."""
    figure, axes = panels(2, 2, PAGE, 2.3)
    for one in data["etas"]:
        shape = look(one["eta"])
        _draw_law(axes[0, 0], one, shape)
        _draw_signal(axes[0, 1], one, shape)
        _draw_optimum(axes[1, 0], one, shape)
        _draw_moving(axes[1, 1], one, shape)
    axes[0, 0].axhline(data["variance"], **DASHED)
    axes[0, 0].text(0.03, 0.93, r"thin: $N \to \infty$", **_note(axes[0, 0]))
    axes[0, 0].set(ylim=(None, 0.54), ylabel="variance of the samples")
    title(axes[0, 0], "a", "what 25 steps draw")
    axes[0, 1].axhline(1.0, **DASHED)
    axes[0, 1].set(ylim=(0, None), ylabel="signal of a pass / all steps SDE")
    title(axes[0, 1], "b", "what a pass learns")
    axes[1, 0].axhline(1.0, **DASHED)
    axes[1, 0].text(0.6, 0.82, "thin: the ODE", **_note(axes[1, 0]))
    axes[1, 0].set(ylim=(0, 1.15), ylabel="shift of the mean / that of $p^*$")
    title(axes[1, 0], "c", "one fixed window: too little")
    axes[1, 1].axhline(1.0, **DASHED)
    axes[1, 1].text(0.03, 0.97, r"thin: $N \to \infty$; dots: $\beta$ corrected", **_note(axes[1, 1]))
    axes[1, 1].set(xscale="log", ylim=(0, None), ylabel="ODE's shift / that of $p^*$")
    axes[1, 1].set_xticks(CUTS, [str(number) for number in CUTS])
    axes[1, 1].minorticks_off()
    axes[1, 1].set_xlabel("number of windows that are trained in turn")
    title(axes[1, 1], "d", "windows that move: too much")
    for axis in axes.flat[:3]:
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


def _draw_moving(axes: Axes, one: dict[str, Any], shape: Any) -> None:
    moving = one["moving"]
    axes.plot(moving["windows"], moving["ode"], **shape.line)
    axes.plot(moving["windows"], moving["limit"], color=shape.color, linewidth=0.7, alpha=0.7)
    axes.plot(moving["windows"], moving["corrected"], color=shape.color, linestyle="none", marker=".", markersize=4)


PROGRAM = Program("window", compute, draw)
