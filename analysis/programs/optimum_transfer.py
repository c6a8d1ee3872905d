"""Closing the gap: the weight, what a wrong variance costs, what it does on a mixture, and what a cap leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import DASHED, vp
from analysis.style import PAGE, REFERENCE, eta_handles, look, panels, shared_legend, title
from gapbound.optimum import optimum_law, rl_optimum
from gapbound.optimum_line import line_optimum
from gapbound.transfer import transfer_weight, transferred

VARIANCE, REWARD, BETA = 0.5, gb.Linear(1.0), 1.0
PROCESS = vp(1000.0)
ETAS = (0.5, 1.2, 1.5, 2.0)
SIGMAS = np.geomspace(0.05, 100.0, 81)
FACTORS = np.geomspace(0.25, 4.0, 41)
CAPS = np.geomspace(0.5, 1e6, 61)
MIXTURE, MIXTURE_REWARD = gb.GaussianMixture([0.4, 0.6], [-1.5, 1.5], [0.3, 0.5]), gb.Linear(0.8)
MIXTURE_ETAS = np.linspace(0.4, 2.0, 17)
KINDS = {"plain reuse": ("black", "-"), "total variance": ("#11788a", (0, (5, 1.2))), "mode variance": ("#e16462", ":")}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Weights against sigma; what is left of the gap against the guess of v, and against the cap; a mixture."""
    etas = MIXTURE_ETAS[[1, 6, 11] if settings.quick else slice(None)]
    mixed = []
    for k, eta in enumerate(etas):
        mixed.append(_mixed(float(eta)))
        progress(0.8 * (k + 1) / etas.size)
    gaussian = [_gaussian(eta) for eta in ETAS]
    progress(1.0)
    return {
        "variance": VARIANCE,
        "sigma_T": PROCESS.sigma_T,
        "weights": [{"eta": eta, "sigma": SIGMAS, "w": transfer_weight(VARIANCE, SIGMAS, eta)} for eta in ETAS],
        "gaussian": gaussian,
        "mixture": {
            "eta": etas,
            "target": float(MIXTURE_REWARD.expectation(gb.tilt(MIXTURE, MIXTURE_REWARD, BETA))),
            "sde": [one["sde"] for one in mixed],
            "gap": {kind: [one[kind] for one in mixed] for kind in KINDS},
            "error": max(one["error"] for one in mixed),
        },
    }


def _gaussian(eta: float) -> dict[str, Any]:
    """What is left of the gap, as a fraction of the plain one."""
    law = gb.Gaussian(0.0, VARIANCE)
    optimum = rl_optimum(law, REWARD, BETA, PROCESS, eta)
    trained = optimum_law(law, REWARD, BETA, PROCESS, eta).mean[0]
    plain = gb.terminal_law(optimum, PROCESS, 0.0).mean[0] - trained

    def left(**options: Any) -> float:
        return (gb.terminal_law(transferred(optimum, **options), PROCESS, 0.0).mean[0] - trained) / plain

    return {
        "eta": eta, "plain": plain, "exact": left(),
        "factor": FACTORS, "misjudged": [left(variance=VARIANCE * factor) for factor in FACTORS],
        "cap": CAPS, "capped": [left(cap=float(cap)) for cap in CAPS],
    }  # fmt: skip


def _mixed(eta: float) -> dict[str, Any]:
    """E r of the ODE, with each weight, less that of the trained SDE."""
    variances = float(MIXTURE.cov[0]), float(MIXTURE.weights @ MIXTURE.components.cov[:, 0])
    weights = [1.0, *(_weight(v, eta) for v in variances)]
    found = line_optimum(MIXTURE, MIXTURE_REWARD, BETA, PROCESS, eta, [MIXTURE_REWARD], weights)
    sde = found.sde[0]
    gaps = {kind: ode[0].value - sde.value for kind, ode in zip(KINDS, found.ode, strict=True)}
    return {"sde": sde.value, "error": max(sde.error, *(ode[0].error for ode in found.ode)), **gaps}


def _weight(variance: float, eta: float) -> Callable[[float], float]:
    return lambda sigma: float(transfer_weight(variance, sigma, eta))


def draw(data: dict[str, Any]) -> Figure:
    """The weights; a misjudged variance; a cap; a mixture."""
    figure, axes = panels(2, 2, PAGE, 2.4)
    _draw_weights(axes[0, 0], data)
    _draw_misjudged(axes[0, 1], data["gaussian"])
    _draw_caps(axes[1, 0], data["gaussian"])
    _draw_mixture(axes[1, 1], data["mixture"])
    shared_legend(figure, eta_handles(ETAS, points=False))
    return figure


def _draw_weights(axes: Axes, data: dict[str, Any]) -> None:
    for one in data["weights"]:
        axes.plot(one["sigma"], one["w"], **look(one["eta"]).line)
    axes.axhline(1.0, **DASHED)
    axes.axvline(data["variance"] ** 0.5, **DASHED)
    place: dict[str, Any] = dict(xycoords=("data", "axes fraction"), textcoords="offset points", va="top")
    axes.annotate(r"$\sqrt{v}$", (data["variance"] ** 0.5, 0.97), (3, 0), **place)
    axes.set(xscale="log", yscale="log", xlabel=r"$\sigma$", ylabel=r"weight $w(\sigma, \eta)$")
    title(axes, "a", r"above $\eta$ = 1 it grows without bound")


def _draw_misjudged(axes: Axes, found: list[dict[str, Any]]) -> None:
    axes.axhline(0.0, **DASHED)
    for one in found:
        axes.plot(one["factor"], one["misjudged"], **look(one["eta"]).line)
    axes.set(xscale="log", ylim=(-3.0, 1.5), xlabel="guess of $v$ / $v$", ylabel="fraction of the gap left")
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    axes.minorticks_off()
    title(axes, "b", "a wrong variance: guess high, not low")


def _draw_caps(axes: Axes, found: list[dict[str, Any]]) -> None:
    axes.axhline(0.0, **DASHED)
    for one in found:
        axes.plot(one["cap"], one["capped"], **look(one["eta"]).line)
    axes.set(xscale="log", ylim=(-0.2, 1.5), xlabel="largest weight allowed", ylabel="fraction of the gap left")
    title(axes, "c", "what a cap costs")


def _draw_mixture(axes: Axes, mixture: dict[str, Any]) -> None:
    axes.axhline(0.0, **DASHED)
    for kind, (color, style) in KINDS.items():
        axes.plot(mixture["eta"], mixture["gap"][kind], color=color, linestyle=style, label=kind)
    axes.axvline(1.0, color=REFERENCE, linewidth=0.5)
    axes.set(xlabel=r"stochasticity $\eta$ of training", ylabel="gap on two modes", ylim=(-0.8, 1.2))
    axes.legend(loc="upper left", fontsize=7)
    title(axes, "d", "two modes: the total variance closes most")


PROGRAM = Program("optimum_transfer", compute, draw)
