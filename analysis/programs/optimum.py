"""What RL converges to: the gap it leaves, the bias of its start, windows that never get there, and finite steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.programs.guidance import levels
from analysis.series import DASHED, GAP, draw_points, kind_handles, vp
from analysis.style import PAGE, REFERENCE, eta_handles, look, panels, shared_legend, title
from gapbound.optimum import optimum_law, rl_optimum
from gapbound.regulator import rl_optimum_discrete

REFERENCE_LAW, REWARD, BETA = gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 2.0
PROCESS = vp(1000.0)
ETAS = (0.5, 1.0, 1.5, 2.0)
ETA_CURVE = np.linspace(0.1, 2.5, 97)
SIGMAS = np.geomspace(1.0, 1e4, 49)
WINDOW_FACTOR, WINDOW_LOWS = 2.0, np.geomspace(0.03, 30.0, 61)
STEPS = np.array([10, 20, 50, 100, 200, 500, 1000, 2000])
SHORT = vp(10.0)  # of the finite steps: uniform in sigma


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Gaps against eta, biases against sigma_T, windows against their place, errors against the number of steps."""
    n, steps = (10_000, 200) if settings.quick else (200_000, 600)
    gaps = _gaps(n, steps, settings)
    progress(0.5)
    biases = [_bias(eta) for eta in ETAS]
    windows = [_windowed(eta) for eta in ETAS]
    progress(0.7)
    discrete = [_discrete(eta) for eta in ETAS]
    progress(1.0)
    return {
        "beta": BETA,
        "sigma_T": PROCESS.sigma_T,
        "target": {"mean": _aim().mean[0], "variance": _aim().cov[0]},
        "gaps": gaps,
        "biases": biases,
        "windows": windows,
        "discrete": discrete,
        "n": n,
        "steps": steps,
    }


def _aim() -> gb.Gaussian:
    return gb.tilt(REFERENCE_LAW, REWARD, BETA)


def _gaps(n: int, steps: int, settings: Settings) -> dict[str, Any]:
    optimum = rl_optimum(REFERENCE_LAW, REWARD, BETA, PROCESS, ETA_CURVE)
    laws = {"sde": gb.terminal_law(optimum, PROCESS, ETA_CURVE), "ode": gb.terminal_law(optimum, PROCESS, 0.0)}
    grid, found = levels(steps), []
    seeds = [settings.seed_for("optimum", eta) for eta in ETAS]
    for eta, seed in zip(ETAS, seeds, strict=True):
        own = rl_optimum(REFERENCE_LAW, REWARD, BETA, PROCESS, eta)
        found.append(
            gb.estimate_gap(
                own,
                PROCESS,
                REWARD,
                eta,
                n=n,
                seed=seed,
                sampler="stochastic-heun",
                sigmas=grid,
                device=settings.device,
            )
        )
    return {
        "curve_x": ETA_CURVE,
        "curve": gb.reward_gap(optimum, PROCESS, REWARD, ETA_CURVE),
        "laws": {name: {"mean": law.mean[:, 0], "variance": law.cov[:, 0]} for name, law in laws.items()},
        "x": ETAS,
        "gap": [float(one.gap) for one in found],
        "standard_error": [float(one.standard_error) for one in found],
        "interval": [np.asarray(one.interval).ravel() for one in found],
        "seeds": seeds,
    }


def _bias(eta: float) -> dict[str, Any]:
    process = vp(SIGMAS)
    law = optimum_law(REFERENCE_LAW, REWARD, BETA, process, eta)
    bias = np.abs(law.mean - _aim().mean)[:, 0]
    seen = bias > 1e-13  # the rest is rounding
    slope = np.log(bias[seen][-1] / bias[seen][-2]) / np.log(SIGMAS[seen][-1] / SIGMAS[seen][-2])
    return {"eta": eta, "sigma_T": SIGMAS[seen], "bias": bias[seen], "last_slope": slope}


def _windowed(eta: float) -> dict[str, Any]:
    """Mean shifts in units of what the tilted law has, for one window around each level."""
    aim, shifts = float(_aim().mean[0]), []
    for low in WINDOW_LOWS:
        window = gb.Windows([(low, WINDOW_FACTOR * low, eta)])
        optimum = rl_optimum(REFERENCE_LAW, REWARD, BETA, PROCESS, window)
        shifts.append([gb.terminal_law(optimum, PROCESS, own).mean[0] / aim for own in (window, 0.0)])
    found = np.array(shifts)
    return {"eta": eta, "centre": WINDOW_LOWS * WINDOW_FACTOR**0.5, "sde": found[:, 0], "ode": found[:, 1]}


def _discrete(eta: float) -> dict[str, Any]:
    optimum = rl_optimum(REFERENCE_LAW, REWARD, BETA, SHORT, eta)
    limits = [gb.terminal_law(optimum, SHORT, own) for own in (eta, 0.0)]
    errors, means = [], []
    for steps in STEPS:
        policy = rl_optimum_discrete(REFERENCE_LAW, REWARD, BETA, SHORT, "gddim", eta, int(steps), grid="sigma")
        laws = policy.law, policy.sampled(eta=0.0)
        errors.append([float(law.w2(limit)) for law, limit in zip(laws, limits, strict=True)])
        means.append([law.mean[0] for law in laws])
    slopes = np.diff(np.log(errors[-2:]), axis=0)[0] / np.log(STEPS[-1] / STEPS[-2])
    return {
        "eta": eta, "steps": STEPS, "sde": np.array(errors)[:, 0], "ode": np.array(errors)[:, 1], "means": means,
        "last_slopes": slopes,
    }  # fmt: skip


def draw(data: dict[str, Any]) -> Figure:
    """Gap against eta; bias against sigma_T; windows; finite steps."""
    figure, axes = panels(2, 2, PAGE, 2.4)
    _draw_gaps(axes[0, 0], data["gaps"])
    _draw_biases(axes[0, 1], data["biases"])
    _draw_windows(axes[1, 0], data["windows"])
    _draw_discrete(axes[1, 1], data["discrete"])
    shared_legend(figure, [*eta_handles(ETAS), *kind_handles()])
    return figure


def _draw_gaps(axes: Axes, gaps: dict[str, Any]) -> None:
    axes.axhline(0.0, **DASHED)
    axes.plot(gaps["curve_x"], gaps["curve"], color="black", linewidth=1.0)
    for k, eta in enumerate(gaps["x"]):
        draw_points(axes, {"x": [eta], "gap": [gaps["gap"][k]], "interval": [gaps["interval"][k]]}, look(eta))
    axes.set(xlabel=r"stochasticity $\eta$ of training", ylabel=GAP)
    title(axes, "a", r"from far, no gap at $\eta$ = 1 alone")


def _draw_biases(axes: Axes, biases: list[dict[str, Any]]) -> None:
    for one in biases:
        axes.plot(one["sigma_T"], one["bias"], **look(one["eta"]).line)
    axes.set(xscale="log", yscale="log", xlabel=r"$\sigma_T$", ylabel="bias of the trained mean")
    title(axes, "b", r"the start's bias falls like $\sigma_T^{-2\eta^2}$")


def _draw_windows(axes: Axes, windows: list[dict[str, Any]]) -> None:
    axes.axhline(1.0, **DASHED)
    for one in windows:
        axes.plot(one["centre"], one["sde"], **look(one["eta"]).line)
        axes.plot(one["centre"], one["ode"], color=look(one["eta"]).color, linewidth=0.7, alpha=0.7)
    axes.text(0.03, 0.93, "thin: the ODE", transform=axes.transAxes, fontsize=7, va="top", color=REFERENCE)
    axes.set(xscale="log", ylim=(0, None), xlabel=r"centre $\sigma$ of the one stochastic window")
    axes.set_ylabel("shift of the mean / that of $p^*$")
    title(axes, "c", "one window never gets to $p^*$")


def _draw_discrete(axes: Axes, discrete: list[dict[str, Any]]) -> None:
    for one in discrete:
        axes.plot(one["steps"], one["sde"], **look(one["eta"]).line)
        axes.plot(one["steps"], one["ode"], color=look(one["eta"]).color, linewidth=0.7, alpha=0.7)
    axes.set(xscale="log", yscale="log", xlabel="steps $N$", ylabel=r"$W_2$ to the limit $N \to \infty$")
    title(axes, "d", "N-step optima converge like 1/N")


PROGRAM = Program("optimum", compute, draw)
