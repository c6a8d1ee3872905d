"""Where bounds end: without the reduction they are vacuous at image size, and no bound outlives its assumptions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gapbound as gb
from analysis.bound_looks import EXACT, LABELS, LOOKS
from analysis.figure import Program, Progress, Settings
from analysis.programs.guidance import CONDITIONAL, REWARD, UNCONDITIONAL, tilted
from analysis.series import vp
from analysis.style import PAGE, REFERENCE, panels, title
from gapbound.bounds.best import THEOREMS
from gapbound.bounds.problem import unreduced

SD_SIGMA_T = 14.61  # where Stable Diffusion 1.5 starts
IMAGE = 16_384  # its latents: 4 x 64 x 64
ETA = 0.5
SCALES = np.linspace(1.0, 7.5, 27)  # of guidance
MODELS = 3000  # mis-specified Gaussians


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Bounds against the dimension; B3 on mis-specified models; a guided model's gap against B1."""
    dimensions = [4**k for k in range(0, 8, 3 if settings.quick else 1)]
    rows = []
    for k, d in enumerate(dimensions):
        rows.append(by_dimension(d))
        progress(0.5 * (k + 1) / len(dimensions))
    models = misspecified(100 if settings.quick else MODELS, settings.seed)
    progress(0.8)
    guided = gb.guided(UNCONDITIONAL, CONDITIONAL, SCALES)
    return {
        "sigma_T": SD_SIGMA_T,
        "dimension": {key: [row[key] for row in rows] for key in rows[0]},
        "misspecified": models,
        "guidance": {
            "scale": SCALES,
            "gap": gb.reward_gap(guided, vp(SD_SIGMA_T), REWARD, 1.0),
            "bound": [gb.bounds.chi_square(tilted(scale), vp(SD_SIGMA_T), REWARD, 1.0).gap for scale in SCALES],
        },
    }


def by_dimension(d: int) -> dict[str, float]:
    """A reward of one coordinate on a Gaussian with |m|^2 / d = 0.1: bounds, reduced to that coordinate or not."""
    mean = math.sqrt(0.1) * np.where(np.arange(d) % 2, -1.0, 1.0)
    target, reward = gb.Gaussian(mean, 0.9), gb.HalfSpace(np.eye(1, d)[0], mean[0])
    process = vp(SD_SIGMA_T)
    asked = (target, process, reward, ETA)
    chi_square, total_variation = (THEOREMS[name](unreduced(*asked)) for name in ("chi_square", "total_variation"))
    divergences = {one.name: one.value for one in (*chi_square.constants, *total_variation.constants)}
    return {
        "d": d,
        "gap": abs(float(gb.reward_gap(*asked))),
        "chi2": divergences["chi^2(prior || q_T)"],
        "KL": divergences["KL(prior || q_T)"],
        "chi_square": chi_square.gap,
        "total_variation": total_variation.gap,
        "chi_square, reduced": gb.bounds.chi_square(*asked).gap,
        "duhamel, reduced": gb.bounds.duhamel(*asked).gap,
    }


def misspecified(n: int, seed: int) -> dict[str, Any]:
    """W2(Y^eta, p*) over its bound B3 for random N(m, v) and models N(m', v'), with either kappa; sorted.

    With e^2 = E_q|s' - s|^2 = (v + tau)(1/(v + tau) - 1/(v' + tau))^2 + ((m - m') / (v' + tau))^2 in closed form.
    """
    rng = np.random.default_rng(seed)
    m, m_0 = rng.normal(size=(2, n))
    v, v_0 = np.exp(rng.normal(0, 1, (2, n)))
    sigma_T, eta = np.exp(rng.uniform(0, 2.5, n)), rng.uniform(0, 2, n)
    end = gb.terminal_law(gb.Gaussian(m_0[:, None], v_0[:, None]), gb.VE(sigma_T), eta)
    true = np.hypot(end.mean[:, 0] - m, np.sqrt(end.cov[:, 0]) - np.sqrt(v))
    start = np.hypot(m, np.sqrt(v + sigma_T**2) - sigma_T)
    node, weight = np.polynomial.legendre.leggauss(60)
    c = (1 + eta**2) / 2
    floor = np.minimum(v, v_0)[:, None]
    half = np.log1p(sigma_T[:, None] ** 2 / floor) / 2
    tau = floor * np.expm1(half * (1 + node))
    clock = half * weight * (floor + tau)
    own, exact = 1 / (v_0[:, None] + tau), 1 / (v[:, None] + tau)
    error = np.sqrt((v[:, None] + tau) * (exact - own) ** 2 + ((m - m_0)[:, None] * own) ** 2)

    def bound(variance: np.ndarray) -> np.ndarray:
        left = (variance[:, None] / (variance[:, None] + tau)) ** c[:, None]
        return (variance / (variance + sigma_T**2)) ** c * start + c * (left * error * clock).sum(-1)

    ratios = {"learned": true / bound(v_0), "true": true / bound(v)}
    return {
        name: {"over": int((ratio > 1 + 1e-9).sum()), "of": n, "quantiles": np.quantile(ratio, np.linspace(0, 1, 201))}
        for name, ratio in ratios.items()
    }


def draw(data: dict[str, Any]) -> Figure:
    """Dimension, kappa, guidance."""
    figure, axes = panels(1, 3, PAGE, 2.7)
    _draw_dimension(axes[0, 0], data["dimension"])
    _draw_kappa(axes[0, 1], data["misspecified"])
    _draw_guidance(axes[0, 2], data["guidance"])
    return figure


def _draw_dimension(axes: Axes, found: dict[str, Any]) -> None:
    for name in ("chi_square", "total_variation"):
        axes.plot(found["d"], found[name], **LOOKS[name].line, label=f"{LABELS[name]}, full law")
    for name in ("chi_square", "duhamel"):
        shape = LOOKS[name]
        axes.plot(
            found["d"], found[f"{name}, reduced"], color=shape.color, marker=shape.marker, markersize=3, linewidth=0.8,
            label=f"{LABELS[name]}, reduced",
        )  # fmt: skip
    axes.plot(found["d"], found["gap"], **EXACT, label="exact")
    axes.axhline(1.0, color=REFERENCE, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel="|gap| and its bounds", ylim=(1e-3, 2000))
    axes.legend(fontsize=6, loc="upper left")
    title(axes, "a", "vacuous for the full law only")


def _draw_kappa(axes: Axes, found: dict[str, Any]) -> None:
    share = np.linspace(0, 1, 201)
    for name, label, style in (("learned", "of the model", "-"), ("true", "of the true score", "--")):
        ratios = found[name]
        entry = f"$\\kappa$ {label}:\n{ratios['over']} of {ratios['of']} above 1"
        axes.plot(ratios["quantiles"], share, style, color=LOOKS["wasserstein"].color, label=entry)
    axes.axvline(1.0, color="black", linewidth=1.2)
    axes.set(xlim=(0, 3.4), ylim=(0, 1), xlabel="$W_2$ over its bound B3", ylabel="share of models")
    axes.legend(fontsize=6, loc="lower right", handlelength=1.5)
    title(axes, "b", "false with the true score's $\\kappa$")


def _draw_guidance(axes: Axes, found: dict[str, Any]) -> None:
    axes.plot(found["scale"], np.abs(found["gap"]), **EXACT)
    axes.plot(found["scale"], found["bound"], **LOOKS["chi_square"].line)
    handles = [
        Line2D([], [], **EXACT, label="gap of the guided score"),  # type: ignore[arg-type]
        Line2D([], [], **LOOKS["chi_square"].line, label="B1 of the tilted law"),
    ]
    axes.set(xlabel="guidance scale $w$", ylabel="|gap| and its bound", yscale="log")
    axes.legend(handles=handles, fontsize=7)
    title(axes, "c", "false without an exact score")


PROGRAM = Program("bounds_limits", compute, draw)
