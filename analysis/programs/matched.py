"""Matched eta: against the start, against the target's variance, where means cross, and in N steps of real schedules.

Stable Diffusion 1.5 and SDXL share one schedule, started where "leading" spacing starts; SD 3 and FLUX start at t = 1,
sigma_T = inf, where continuous time has matched eta 1: what N steps do there is the discretisation's alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import DASHED, plain_ticks
from analysis.style import PAGE, REFERENCE, panels, shared_legend, title
from gapbound.matched import matched_eta
from gapbound.optimum import rl_optimum

VARIANCES = (0.1, 0.5, 1.0)
STYLES = {0.1: (0, (5, 1.2)), 0.5: "-", 1.0: (0, (1, 1))}
SHADES = {0.1: "#9bd35a", 0.5: "#11788a", 1.0: "#073b4c"}
REWARD, CURVED = gb.Linear(1.0), gb.Quadratic(1.0, 1.0)
FULL = gb.VP.stable_diffusion()  # SD 1.5 and SDXL, the whole schedule
STARTS = np.geomspace(1.5, 300.0, 241)
CURVED_STARTS = np.geomspace(2.5, 300.0, 31)
V_CURVE = np.geomspace(0.01, 10.0, 241)
LEADING = (10, 50)  # steps whose "leading" spacing is drawn against v
ETAS = np.linspace(0.05, 2.0, 118)
STEPS = (10, 14, 20, 28, 40, 50)
SD3_SHIFT, FLUX_SHIFT = 3.0, math.exp(1.15)  # of the noise level; FLUX's at 1024 x 1024 pixels
FAMILIES = {"SD 1.5, SDXL": "#bd3786", "SD 3": "#f2a022", "FLUX": "#2b0a7a"}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Matched etas in closed form, as roots for a quadratic reward, and as roots of N-step gaps."""
    steps, families = STEPS[::3] if settings.quick else STEPS, []
    for name in FAMILIES:
        for v in VARIANCES:
            families.append({"family": name, "v": v, "steps": steps, "eta": [in_steps(name, v, n) for n in steps]})
            progress(0.9 * len(families) / (len(FAMILIES) * len(VARIANCES)))
    starts = CURVED_STARTS[::6] if settings.quick else CURVED_STARTS
    curved = matched_eta(gb.Gaussian(0.0, 0.5), gb.VE(starts), CURVED, 1.0)
    progress(1.0)
    return {
        "sigma_T": FULL.sigma_T,
        "starts": [_against_start(v) for v in VARIANCES],
        "quadratic": {"v": 0.5, "beta": 1.0, "sigma_T": starts, "eta": curved},
        "variances": [_against_variance(None), *(_against_variance(n) for n in LEADING)],
        "shifts": _shifts(),
        "families": families,
    }


def _against_start(v: float) -> dict[str, Any]:
    sigma_T = STARTS[np.log1p(STARTS**2 / v) > 4]
    return {"v": v, "sigma_T": sigma_T, "eta": matched_eta(gb.Gaussian(0.0, v), gb.VE(sigma_T), REWARD)}


def _against_variance(steps: int | None) -> dict[str, Any]:
    process = gb.VP.stable_diffusion(steps)
    v = V_CURVE[np.log1p(float(process.sigma_T) ** 2 / V_CURVE) > 4]
    eta = matched_eta(gb.Gaussian(np.zeros((v.size, 1)), v[:, None]), process, REWARD)
    return {"steps": steps, "sigma_T": process.sigma_T, "v": v, "eta": eta}


def _shifts() -> dict[str, Any]:
    """Mean shifts of both samplers in units of the tilted target's, v = 0.5."""
    optimum = rl_optimum(gb.Gaussian(0.0, 0.5), REWARD, 1.0, FULL, ETAS)
    sde, ode = (gb.terminal_law(optimum, FULL, own).mean[:, 0] / 0.5 for own in (ETAS, 0.0))
    return {"eta": ETAS, "sde": sde, "ode": ode, "matched": matched_eta(gb.Gaussian(0.0, 0.5), FULL, REWARD)}


def in_steps(family: str, v: float, steps: int) -> float:
    """The matched eta of gDDIM against DDIM on a family's own levels; linear reward."""
    target = gb.Gaussian(0.0, v)
    if family == "SD 1.5, SDXL":
        process = gb.VP.stable_diffusion(steps)
        return float(matched_eta(target, process, REWARD, steps=steps, grid="leading"))
    return float(matched_eta(target, gb.FlowMatching(1.0), REWARD, sigmas=flow_levels(family, steps)))


def flow_levels(family: str, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """sigma = t / (1 - t) of SD 3's and FLUX's grids, as diffusers makes them.

    FLUX shifts N levels from 1 to 1/N; SD 3 shifts N levels from 1 to a last one that is shifted already.
    """
    shift = FLUX_SHIFT if family == "FLUX" else SD3_SHIFT
    last = 1 / steps if family == "FLUX" else float(shifted(np.array(1e-3), shift))
    t = np.append(shifted(np.linspace(1.0, last, steps), shift), 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(t / (1 - t))


def shifted(t: np.ndarray[Any, np.dtype[np.float64]], shift: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Time after the shift of noise levels, shift t / (1 + (shift - 1) t); 1 stays 1."""
    return np.asarray(shift * t / (1 + (shift - 1) * t))


def draw(data: dict[str, Any]) -> Figure:
    """Against sigma_T; against v; where the means cross; in N steps."""
    figure, axes = panels(2, 2, PAGE, 2.6)
    _draw_starts(axes[0, 0], data)
    _draw_variances(axes[0, 1], data["variances"])
    _draw_shifts(axes[1, 0], data["shifts"])
    _draw_families(axes[1, 1], data["families"])
    handles = [
        Line2D([], [], color=SHADES[v], linestyle=STYLES[v], label=f"$v$ = {v:g}") for v in VARIANCES
    ]  # of panels a and, in the families' colours, d
    shared_legend(figure, handles)
    return figure


def _draw_starts(axes: Axes, data: dict[str, Any]) -> None:
    for one in data["starts"]:
        axes.plot(one["sigma_T"], one["eta"], color=SHADES[one["v"]], linestyle=STYLES[one["v"]])
    curved = data["quadratic"]
    axes.plot(curved["sigma_T"], curved["eta"], color=SHADES[0.5], linewidth=0.7, alpha=0.8)
    axes.text(3.8, 0.4, "quadratic\nreward", fontsize=6.5, color=SHADES[0.5], ha="center", va="bottom")
    axes.axhline(1.0, **DASHED)
    axes.axvline(float(data["sigma_T"]), color=FAMILIES["SD 1.5, SDXL"], linewidth=0.8)
    axes.text(float(data["sigma_T"]) * 1.08, 0.06, "SD 1.5, SDXL", fontsize=6.5, color=FAMILIES["SD 1.5, SDXL"])
    place: dict[str, Any] = dict(xycoords="axes fraction", fontsize=6.5, ha="right", color="0.3")
    axes.annotate(r"SD 3, FLUX: $\sigma_T = \infty \rightarrow$", (0.98, 0.84), **place)
    axes.set(xscale="log", ylim=(0, 1.1), xlabel=r"$\sigma_T$", ylabel=r"matched $\eta$")
    plain_ticks(axes.xaxis, [2, 5, 10, 20, 50, 100, 200])
    title(axes, "a", r"linear rewards: where $\log(1 + \sigma_T^2/v) > 4$")


def _draw_variances(axes: Axes, found: list[dict[str, Any]]) -> None:
    colors = ("#bd3786", "#7a1ea1", "#e16462")
    for one, color in zip(found, colors, strict=True):
        start = "whole schedule" if one["steps"] is None else f"start of {one['steps']} steps"
        label = rf"{start}, $\sigma_T$ = {float(one['sigma_T']):.1f}"
        axes.plot(one["v"], one["eta"], color=color, label=label)
    axes.axhline(1.0, **DASHED)
    axes.text(0.011, 1.02, "SD 3, FLUX", fontsize=6.5, color="0.3")
    axes.set(xscale="log", ylim=(0, 1.1), xlabel="variance $v$ of the target", ylabel=r"matched $\eta$")
    plain_ticks(axes.xaxis, [0.01, 0.1, 1, 10])
    axes.legend(loc="lower left", fontsize=6.5, title="SD 1.5, SDXL", title_fontsize=6.5)
    title(axes, "b", r"wide directions match at smaller $\eta$")


def _draw_shifts(axes: Axes, found: dict[str, Any]) -> None:
    axes.plot(found["eta"], found["sde"], color="black", label="SDE that was trained")
    axes.plot(found["eta"], found["ode"], color="#11788a", linestyle=(0, (5, 1.2)), label="ODE that reuses the score")
    matched = float(found["matched"])
    axes.axvline(matched, color="#11788a", linewidth=0.6)
    axes.axvline(1.0, color=REFERENCE, linewidth=0.6)
    axes.annotate(f"{matched:.3f}", (matched, 0.05), (-3, 0), textcoords="offset points", ha="right", fontsize=7)
    axes.axhline(1.0, **DASHED)
    axes.set(xlabel=r"stochasticity $\eta$ of training", ylabel="shift of the mean / that of $p^*$", ylim=(0, 1.1))
    axes.legend(loc="lower right", fontsize=6.5)
    title(axes, "c", r"SD 1.5's start, $v$ = 0.5")


def _draw_families(axes: Axes, found: list[dict[str, Any]]) -> None:
    for one in found:
        axes.plot(
            one["steps"],
            one["eta"],
            color=FAMILIES[one["family"]],
            linestyle=STYLES[one["v"]],
            marker="o",
            markersize=2.5,
        )
    axes.axhline(1.0, **DASHED)
    for name, color in FAMILIES.items():
        axes.plot([], [], color=color, label=name)
    axes.set(xlabel="steps $N$ of training and sampling", ylabel=r"matched $\eta$ in $N$ steps")
    axes.set_xticks([10, 20, 28, 40, 50])
    axes.legend(loc="upper right", fontsize=6.5)
    title(axes, "d", "few steps move it up")


PROGRAM = Program("matched_eta", compute, draw)
