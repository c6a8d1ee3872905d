"""Guidance's own gap: no initial mismatch and no RL, yet ODE and SDE end in different laws."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import norm

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import GAP, draw_points, kind_handles, vp
from analysis.style import PAGE, REFERENCE, eta_handles, look, panels, shared_legend, title

UNCONDITIONAL, CONDITIONAL = gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5)
REWARD = gb.Quadratic(1.0, 1.0)  # the best sample is the mean of what was asked for
PROCESS = vp(1000.0)
ETAS = (0.5, 1.0, 2.0)
SCALES = np.linspace(0.0, 10.0, 81)
POINTS = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0])
SHOWN = 3.0  # scale of the densities
X = np.linspace(-1.5, 4.0, 221)
TILTED: dict[str, Any] = {"color": REFERENCE, "linewidth": 2.5, "alpha": 0.6, "zorder": 1}
LINEAR_BELOW = 0.3  # the levels are geometric in sigma above, uniform below


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Densities at ``SHOWN``, laws and gaps against the guidance scale."""
    n, steps = (10_000, 200) if settings.quick else (100_000, 600)
    sigmas, estimates = levels(steps), []
    seeds = [settings.seed_for("guidance", scale) for scale in POINTS]
    for k, (scale, seed) in enumerate(zip(POINTS, seeds, strict=True)):
        estimates.append(
            gb.estimate_gap(
                _model(scale), PROCESS, REWARD, ETAS, n=n, seed=seed, sampler="stochastic-heun", sigmas=sigmas,
                device=settings.device,
            )
        )  # fmt: skip
        progress((k + 1) / POINTS.size)
    return {
        "sigma_T": PROCESS.sigma_T,
        "shown": _densities(SHOWN),
        "scales": SCALES,
        "laws": [_laws(eta) for eta in (0.0, *ETAS)],
        "tilted_variance": [tilted(scale).cov[0] for scale in SCALES],
        "gaps": [_gaps(i, estimates, sigmas) for i in range(len(ETAS))],
        "n": n,
        "steps": steps,
        "seeds": seeds,
    }


def levels(steps: int) -> np.ndarray:
    """Noise levels from sigma_T to 0 uniform in arcsinh(sigma / ``LINEAR_BELOW``)."""
    top = np.arcsinh(PROCESS.sigma_T / LINEAR_BELOW)
    return np.append(PROCESS.sigma_T, np.sinh(np.linspace(top, 0.0, steps + 1)[1:]) * LINEAR_BELOW)


def _model(scale: Any) -> gb.AffineScore:
    return gb.guided(UNCONDITIONAL, CONDITIONAL, scale)


def tilted(scale: float) -> gb.Gaussian:
    """The law p_u (p_c / p_u)^w that guidance is often said to sample."""
    precision = (1 - scale) / UNCONDITIONAL.cov + scale / CONDITIONAL.cov
    pull = (1 - scale) * UNCONDITIONAL.mean / UNCONDITIONAL.cov + scale * CONDITIONAL.mean / CONDITIONAL.cov
    return gb.Gaussian(pull / precision, 1 / precision)


def _densities(scale: float) -> dict[str, Any]:
    laws = {"conditional": CONDITIONAL, "tilted": tilted(scale)}
    laws |= {f"{eta:g}": gb.terminal_law(_model(scale), PROCESS, eta) for eta in (0.0, *ETAS)}
    curves = {
        name: {
            "mean": law.mean[0],
            "variance": law.cov[0],
            "density": norm.pdf(X, law.mean[0], law.cov[0] ** 0.5).round(4),
        }
        for name, law in laws.items()
    }
    return {"scale": scale, "x": X, "laws": curves}


def _laws(eta: float) -> dict[str, Any]:
    law = gb.terminal_law(_model(SCALES), PROCESS, eta)
    return {"eta": eta, "mean": law.mean[:, 0], "variance": law.cov[:, 0]}


def _gaps(i: int, estimates: list[gb.GapEstimate], sigmas: np.ndarray) -> dict[str, Any]:
    """Gaps of ``ETAS[i]``: continuous time as ``closed_form``, and the chain that was simulated as ``of_chain``."""
    model, eta = _model(POINTS), ETAS[i]
    ode, sde = (
        REWARD.expectation(gb.discrete_law(model, PROCESS, "stochastic-heun", value, sigmas=sigmas))
        for value in (0.0, eta)
    )
    return {
        "label": eta,
        "x": POINTS,
        "gap": [estimate.gap[i] for estimate in estimates],
        "standard_error": [estimate.standard_error[i] for estimate in estimates],
        "interval": [estimate.interval[i] for estimate in estimates],
        "closed_form": gb.reward_gap(model, PROCESS, REWARD, eta),
        "of_chain": ode - sde,
        "curve_x": SCALES,
        "curve": gb.reward_gap(_model(SCALES), PROCESS, REWARD, eta),
    }


def draw(data: dict[str, Any]) -> Figure:
    """Densities at one scale, variance against the scale, gap against the scale."""
    figure, axes = panels(1, 3, PAGE, 2.6)
    _draw_densities(axes[0, 0], data["shown"])
    _draw_variances(axes[0, 1], data)
    _draw_gaps(axes[0, 2], data["gaps"])
    shared_legend(figure, [*_ode_first(), *kind_handles()])
    return figure


def _ode_first() -> list[Line2D]:
    ode, *others = eta_handles((0.0, *ETAS))
    ode.set(marker="none", label="ODE")
    return [ode, *others]


def _draw_densities(axes: Axes, shown: dict[str, Any]) -> None:
    for name, law in shown["laws"].items():
        if name == "conditional":
            axes.fill_between(shown["x"], law["density"], color="0.88", linewidth=0)
        elif name == "tilted":
            axes.plot(shown["x"], law["density"], **TILTED)
        else:
            axes.plot(shown["x"], law["density"], **look(float(name)).line)
    axes.text(-1.4, 0.3, "conditional\n($w$ = 1)", fontsize=7, color="0.3")
    axes.text(-1.4, 0.7, "tilted,\n$p_u (p_c / p_u)^w$", fontsize=7, color="0.3")
    axes.set(xlabel="$x$", ylabel="density", ylim=(0, None))
    title(axes, "a", rf"$w$ = {shown['scale']:g}: every $\eta$ another law")


def _draw_variances(axes: Axes, data: dict[str, Any]) -> None:
    for law in data["laws"]:
        axes.plot(data["scales"], law["variance"], **look(law["eta"]).line)
    axes.plot(data["scales"], data["tilted_variance"], **TILTED)
    axes.set(yscale="log", xlabel="guidance scale $w$", ylabel="variance of the samples")
    title(axes, "b", "the ODE collapses")


def _draw_gaps(axes: Axes, found: list[dict[str, Any]]) -> None:
    for points in found:
        shape = look(points["label"])
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        draw_points(axes, points, shape)
    axes.set(xlabel="guidance scale $w$", ylabel=GAP)
    title(axes, "c", "none at $w$ = 1, large beyond")


PROGRAM = Program("gap_guidance", compute, draw)
