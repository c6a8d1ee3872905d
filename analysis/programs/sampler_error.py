"""Each sampler's own error, which falls as T^-(1 + eta^2), and why the gap does not: it keeps the ODE's exponent.

Every number here is exact; exponents are slopes of exact curves between sigma_T = 1e6 and 1e7.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.programs import ve, vp
from analysis.rates import CURVE, ETAS, Array, Case, asymptotic_slope, far_slope
from analysis.series import plain_ticks
from analysis.style import PAGE, eta_handles, look, panels, shared_legend, title
from gapbound.gap import sampler_error
from gapbound.rate import rate

SAMPLERS = (0.0, *ETAS)
CASES = {
    ("VE", "uncentred"): replace(ve.CASES[0], limits=(0.5, 1e6)),
    ("VE", "centred"): replace(ve.CASES[1], limits=(0.5, 1e6)),
    ("VP", "uncentred"): replace(vp.CASES["uncentred", "constant"], limits=(0.5, 28.0)),
    ("VP", "centred"): replace(vp.CASES["centred", "constant"], limits=(0.5, 28.0)),
}
BELOW: dict[str, Any] = {"color": "0.8", "linewidth": 3.0, "solid_capstyle": "butt", "zorder": 1}
MEASURED: dict[str, Any] = {"color": "black", "marker": "o", "markersize": 3, "linestyle": "none", "zorder": 3}
LAW = {
    ("VE", "uncentred"): r"$T^{-(1 + \eta^2)}$",
    ("VE", "centred"): r"$T^{-2(1 + \eta^2)}$",
    ("VP", "uncentred"): r"$\bar\alpha_T^{(1 + \eta^2)/2}$",
    ("VP", "centred"): r"$\bar\alpha_T^{1 + \eta^2}$",
}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Exact errors with their leading terms, and exponents of errors and gaps, measured and from ``gapbound.rate``."""
    found, exponents = [], []
    for k, ((process, name), case) in enumerate(CASES.items()):
        T = _spaced(case)
        found.append(
            {
                "process": process,
                "case": name,
                "target": {"mean": case.mean, "variance": 0.5},
                "best": case.best,
                "curve_T": T,
                "curve_x": case.abscissa(T),
                "series": [_error(case, eta, T) for eta in SAMPLERS],
            }
        )
        exponents += [_exponent(process, name, case, "error", eta) for eta in SAMPLERS]
        exponents += [_exponent(process, name, case, "gap", eta) for eta in ETAS]
        progress((k + 1) / len(CASES))
    return {"panels": found, "exponents": exponents}


def _spaced(case: Case) -> Array:
    low, high = case.limits
    return np.geomspace(low, high, CURVE) if case.scale == "log-log" else np.linspace(low, high, CURVE)


def _error(case: Case, eta: float, T: Array) -> dict[str, Any]:
    leading = rate(case.target, case.process(1.0), case.reward, eta, of="error")
    power_of = T if leading.variable == "T" else np.exp(-case.abscissa(T))
    return {
        "eta": eta,
        "error": sampler_error(case.target, case.process(T), case.reward, eta),
        "leading": leading(power_of),
    }


def _exponent(process: str, name: str, case: Case, of: str, eta: float) -> dict[str, Any]:
    exact: Callable[..., Any] = sampler_error if of == "error" else gb.reward_gap
    return {
        "panel": f"{process}, {name}",
        "of": of,
        "eta": eta,
        "exponent": asymptotic_slope(rate(case.target, case.process(1.0), case.reward, eta, of=of)),
        "exponent_measured": far_slope(case, lambda T: exact(case.target, case.process(T), case.reward, eta)),
    }


def draw(data: dict[str, Any]) -> Figure:
    """A row for each process: uncentred and centred errors, and the exponents of errors and gaps."""
    figure, axes = panels(2, 3, PAGE, 2.2)
    for k, panel in enumerate(data["panels"]):
        row, column = divmod(k, 2)
        ax = axes[row, column]
        _curves(ax, panel)
        title(ax, "abde"[k], f"{panel['process']}, {panel['case']}: {LAW[panel['process'], panel['case']]}")
        if column == 0:
            ax.set_ylabel(r"$|E\,r(Y^\eta) - E\,r|$")
    for ax, process, letter, power in zip(
        axes[:, 2], ("VE", "VP"), "cf", ("T^{-p}", r"\bar\alpha_T^{\;p}"), strict=True
    ):
        _exponents(ax, [entry for entry in data["exponents"] if entry["panel"].startswith(process)])
        title(ax, letter, f"{process}: exponent $p$ in ${power}$")
        ax.set_xlabel(r"stochasticity $\eta$")
    figure.suptitle("Error of each sampler on its own: targets and rewards of the gap figures")
    handles = [
        *eta_handles(SAMPLERS, points=False),
        Line2D([], [], **BELOW, label=r"law ($T \to \infty$)"),
        Line2D([], [], **MEASURED, label=r"slope at $\sigma_T \geq 10^6$"),
    ]
    shared_legend(figure, handles, loc="outside lower center")
    return figure


def _curves(ax: Axes, panel: dict[str, Any]) -> None:
    ax.set_yscale("log")
    if panel["process"] == "VE":
        ax.set_xscale("log")
        ax.set_xlabel(r"final time $T = \sigma_T$")
    else:
        ax.set_xlabel(r"$-\log\,\bar\alpha_T$, any $\beta$")
    for series in panel["series"]:
        ax.plot(panel["curve_x"], np.abs(series["leading"]), **BELOW)
        ax.plot(panel["curve_x"], np.abs(series["error"]), **look(series["eta"]).line, zorder=2)
    lowest = {"uncentred": -30, "centred": -60}[panel["case"]]
    ax.set_yticks([10.0**power for power in range(0, lowest - 1, lowest // 3)])
    ax.set_ylim(10.0 ** (1.08 * lowest), 10.0 ** (-0.08 * lowest))
    ax.minorticks_off()


def _exponents(ax: Axes, entries: list[dict[str, Any]]) -> None:
    for of, case in itertools.product(("error", "gap"), ("uncentred", "centred")):
        chosen = [entry for entry in entries if entry["of"] == of and entry["panel"].endswith(f" {case}")]
        eta, law = (np.array([entry[name] for entry in chosen]) for name in ("eta", "exponent"))
        ax.plot(eta, [-entry["exponent_measured"] for entry in chosen], **MEASURED)
        steps = np.linspace(eta[0], eta[-1], CURVE)
        ax.plot(steps, np.interp(steps**2, eta**2, -law), **BELOW)  # both laws are affine in eta^2
        ax.annotate(f"{of},\n{case}", (2.0, -law[-1]), (6, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_yscale("log")
    smallest = min(-entry["exponent"] for entry in entries)
    plain_ticks(ax.yaxis, [smallest * step for step in (1, 2, 4, 10)])
    ax.minorticks_off()
    ax.set(xlim=(-0.1, 3.2), ylim=(smallest * 0.75, smallest * 13))
    ax.set_xticks([0, 0.5, 1, 1.5, 2])


PROGRAM = Program("sampler_error", compute, draw)
