"""What N steps of gDDIM add to the gap: at the step counts of RL the integrator's part is as large as the start's."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import (
    DASHED,
    EXACT,
    FAMILY,
    GAP,
    REWARD,
    TARGET,
    draw_points,
    family_handles,
    kind_handles,
    plain_ticks,
    series,
    vp,
)
from analysis.style import PAGE, eta_handles, look, panels, shared_legend, title

PROCESS = vp(5.0)
GRID = "sigma"  # uniform in sigma
ETAS = (0.0, 1.0, 1.5)
COUNTS = np.unique(np.geomspace(5, 1000, 25).astype(int))
POINTS = (10, 50)
ETA_CURVE = np.linspace(0.0, 2.0, 41)
ETA_POINTS = np.linspace(0.25, 2.0, 8)
PAIRS = ((10, 10), (50, 50), (50, 10))  # steps of the ODE that is shipped and of the SDE that is trained
Z95 = 1.959963984540054


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Terminal variances against the steps, gaps against eta, and the gap's two parts for ``PAIRS``."""
    n = 30_000 if settings.quick else 600_000
    variances = [_variances(eta, n, settings) for eta in ETAS]
    progress(0.3)
    against_eta = [_against_eta(steps, n, settings) for steps in (*POINTS, None)]
    progress(0.8)
    parts = [_parts(eta, n, settings) for eta in ETAS[1:]]
    progress(1.0)
    return {
        "sigma_T": PROCESS.sigma_T,
        "grid": GRID,
        "variances": variances,
        "against_eta": against_eta,
        "parts": parts,
        "n": n,
    }


def _variances(eta: float, n: int, settings: Settings) -> dict[str, Any]:
    seed = settings.seed_for("variance", eta)
    measured = []
    for steps in POINTS:
        kwargs: dict[str, Any] = dict(grid=GRID, n=n, seed=seed, device=settings.device)
        measured.append(gb.simulate(TARGET, PROCESS, "gddim", eta, steps, **kwargs).samples.double().var().item())
    exact = np.array([_law(eta, steps).cov[0] for steps in POINTS])
    return {
        "eta": eta,
        "x": POINTS,
        "variance": measured,
        "standard_error": exact * (2 / (n - 1)) ** 0.5,  # of a Gaussian's sample variance
        "closed_form": exact,
        "curve_x": COUNTS,
        "curve": [_law(eta, int(steps)).cov[0] for steps in COUNTS],
        "continuous": gb.terminal_law(TARGET, PROCESS, eta).cov[0],
        "seed": seed,
    }


def _against_eta(steps: int | None, n: int, settings: Settings) -> dict[str, Any]:
    """``steps`` of gDDIM; with None the exact kernel, whose steps make no error."""
    sampler: dict[str, Any] = EXACT if steps is None else {"sampler": "gddim", "steps": steps, "grid": GRID}
    runs = [{"process": PROCESS, "eta": eta, **sampler} for eta in ETA_POINTS]
    label = "exact" if steps is None else steps
    return {
        **series(label, ETA_POINTS, runs, _gap(ETA_POINTS, steps, steps), n, settings),
        "curve_x": ETA_CURVE,
        "curve": _gap(ETA_CURVE, steps, steps),
    }


def _parts(eta: float, n: int, settings: Settings) -> dict[str, Any]:
    """The end-to-end gap of ``PAIRS``, and the part of it that continuous time has."""
    seed = settings.seed_for("parts", eta)

    def rewards(value: float, steps: int) -> np.ndarray:
        kwargs: dict[str, Any] = dict(grid=GRID, n=n, seed=seed, device=settings.device)
        return REWARD(gb.simulate(TARGET, PROCESS, "gddim", value, steps, **kwargs).samples).double().cpu().numpy()

    difference = np.stack([rewards(0.0, ode) - rewards(eta, sde) for ode, sde in PAIRS])
    total, continuous = np.array([float(_gap(eta, ode, sde)) for ode, sde in PAIRS]), float(_gap(eta, None, None))
    gap, error = difference.mean(-1), difference.std(-1, ddof=1) / n**0.5
    return {
        "eta": eta,
        "pairs": PAIRS,
        "gap": gap,
        "standard_error": error,
        "interval": np.stack([gap - Z95 * error, gap + Z95 * error], axis=-1),
        "closed_form": total,
        "continuous": continuous,
        "integrator": total - continuous,
        "seed": seed,
    }


def _law(eta: Any, steps: int | None) -> gb.Gaussian:
    if steps is None:
        return gb.terminal_law(TARGET, PROCESS, eta)
    return gb.discrete_law(TARGET, PROCESS, "gddim", eta, steps, grid=GRID)


def _gap(eta: Any, ode_steps: int | None, sde_steps: int | None) -> Any:
    return REWARD.expectation(_law(0.0, ode_steps)) - REWARD.expectation(_law(eta, sde_steps))


def draw(data: dict[str, Any]) -> Figure:
    """Variance against steps, gap against eta, and the gap's parts."""
    figure, axes = panels(1, 3, PAGE, 2.6)
    _draw_variances(axes[0, 0], data["variances"])
    _draw_eta(axes[0, 1], data["against_eta"])
    _draw_parts(axes[0, 2], data["parts"])
    shared_legend(figure, [*eta_handles(ETAS), *kind_handles("exact")])
    return figure


def _draw_variances(axes: Axes, found: list[dict[str, Any]]) -> None:
    for points in found:
        shape = look(points["eta"])
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        half_width = Z95 * np.array(points["standard_error"])
        axes.errorbar(
            points["x"], points["variance"], half_width, **shape.points, markeredgecolor="white", markeredgewidth=0.4
        )
    axes.axhline(float(TARGET.cov[0]), **DASHED)
    axes.annotate("target", (5, float(TARGET.cov[0])), (0, 2), textcoords="offset points", fontsize=7, color="0.3")
    axes.set(xscale="log", ylim=(0, 0.56), xlabel="gDDIM steps", ylabel="variance of the samples")
    plain_ticks(axes.xaxis, (10, 50, 200, 1000))
    title(axes, "a", "few steps lose variance")


def _draw_eta(axes: Axes, found: list[dict[str, Any]]) -> None:
    shapes = FAMILY[::-1][1:]
    for shape, points in zip(shapes, found, strict=True):
        axes.plot(points["curve_x"], points["curve"], **shape.line)
        draw_points(axes, points, shape)
    labels = ["exact kernel" if points["label"] == "exact" else f"{points['label']} steps" for points in found]
    axes.legend(handles=family_handles(labels, shapes)[::-1], loc="upper left", handlelength=1.8, borderaxespad=0.1)
    axes.set(xlabel=r"stochasticity $\eta$", ylabel=GAP, ylim=(0, None))
    title(axes, "b", "and hide half of the gap")


def _draw_parts(axes: Axes, found: list[dict[str, Any]]) -> None:
    width, places = 0.36, np.arange(len(found[0]["pairs"]) + 1)
    for side, parts in zip((-0.5, 0.5), found, strict=True):
        shape, x = look(parts["eta"]), places + side * width
        axes.bar(x, [parts["continuous"], *parts["closed_form"]], 0.92 * width, color=shape.color, alpha=0.45)
        axes.plot(x[[0, -1]] + np.array([-0.5, 0.5]) * width, [parts["continuous"]] * 2, **shape.line, linewidth=0.7)
        points = {"x": x[1:], "gap": parts["gap"], "interval": parts["interval"]}
        draw_points(axes, points, shape)
    axes.axhline(0.0, color="black", linewidth=0.6)
    names = [r"$\infty$ / $\infty$", *(f"{ode} / {sde}" for ode, sde in found[0]["pairs"])]
    axes.set_xticks(places, names)
    axes.grid(False, axis="x")
    axes.set(xlabel="steps of the ODE / of the SDE", ylabel="gap")
    title(axes, "c", "train 10, ship 50: it cancels")


PROGRAM = Program("gap_discretization", compute, draw)
