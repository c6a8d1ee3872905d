"""The gap at a glance: ODE and SDE paths from the same noise on a mixture in the plane, and where they end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.style import PAGE, look, panels, title

ETA = 1.5
SIGMA_T = 3.0
ANGLES = np.deg2rad([205.0, 325.0, 85.0])
MODES = np.array([2.5, 1.0]) + np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)
TARGET = gb.GaussianMixture([1 / 3] * 3, MODES, 0.12)
REWARD = gb.Quadratic(1.0, MODES[1])
PROCESS = gb.VP(np.sqrt(np.log1p(SIGMA_T**2)))

STARTS = [(-0.9, 0.9), (-1.3, -0.6), (0.4, -0.9)]  # of the paths shown, x_T
PATH_STEPS = 60
PATH_SEED = 48  # an illustration: its SDE paths end in three modes; no number depends on it
STEPS = 100  # of stochastic Heun: its error is below a standard error of the gap
DECIMALS = 5  # of simulated numbers: the order in which a machine adds 400,000 of them shows in the tenth digit
SMOOTHING = 1.0  # of the histograms, in bins
LABEL_DISTANCE = 0.85
EDGES = (np.linspace(0.3, 4.7, 67), np.linspace(-0.9, 3.3, 64))


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Paths from ``STARTS``; terminal densities, shares of the modes, rewards and the gap, by simulation."""
    n = 40_000 if settings.quick else 400_000
    paths = sample_paths()
    progress(0.1)
    ode, sde = (terminal(eta, n, settings) for eta in (0.0, ETA))
    progress(0.6)
    gap = gb.estimate_gap(
        TARGET, PROCESS, REWARD, ETA, n=n, sampler="stochastic-heun", steps=STEPS, seed=settings.seed,
        device=settings.device,
    )  # fmt: skip
    progress(1.0)
    x, y = ((edges[1:] + edges[:-1]) / 2 for edges in EDGES)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    target = {"density": _short(np.exp(TARGET.log_prob(grid))), "shares": TARGET.weights}
    return {
        "eta": ETA,
        "sigma_T": SIGMA_T,
        "modes": MODES,
        "variance": TARGET.components.cov[0, 0],
        "best": REWARD.c,
        "paths": paths,
        "x": x,
        "y": y,
        "ode": ode | {"reward": _short(gap.reference, DECIMALS)},
        "sde": sde | {"reward": _short(gap.reward, DECIMALS)},
        "target": target | {"reward": REWARD.expectation(TARGET)},
        "gap": _short(gap.gap, DECIMALS),
        "standard_error": _short(gap.standard_error, DECIMALS),
        "interval": _short(gap.interval, DECIMALS),
        "n": n,
    }


def sample_paths() -> dict[str, Any]:
    """An ODE and an SDE path from every start, in x: shape (starts, PATH_STEPS + 1, 2) each."""
    x_T = torch.tensor(STARTS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(PATH_SEED)

    def run(eta: float) -> np.ndarray:
        xi = torch.randn(PATH_STEPS, len(x_T), 2, generator=generator, dtype=torch.float64)
        kwargs: dict[str, Any] = dict(n=len(x_T), noise=(x_T, xi), dtype=torch.float64, trajectory=True)
        simulation = gb.simulate(TARGET, PROCESS, "gddim", eta, PATH_STEPS, **kwargs)
        scale = 1 / np.sqrt(1 + simulation.sigmas**2)  # of VP: x = z / sqrt(1 + sigma^2)
        return _short((scale[:, None, None] * simulation.trajectory.numpy()).swapaxes(0, 1), 4)

    return {"starts": STARTS, "ode": run(0.0), "sde": run(ETA)}


def terminal(eta: float, n: int, settings: Settings) -> dict[str, Any]:
    """Density on the grid, shape (y, x), and the share of samples nearest to each mode."""
    simulation = gb.simulate(
        TARGET, PROCESS, "stochastic-heun", eta, STEPS, n, seed=settings.seed, device=settings.device
    )
    samples = simulation.samples.cpu().double().numpy()
    counts, _, _ = np.histogram2d(samples[:, 1], samples[:, 0], bins=EDGES[::-1])
    cell = np.diff(EDGES[0])[0] * np.diff(EDGES[1])[0]
    nearest = np.square(samples[:, None] - MODES).sum(-1).argmin(-1)
    return {
        "density": _short(gaussian_filter(counts / (n * cell), SMOOTHING)),
        "shares": np.bincount(nearest, minlength=len(MODES)) / n,
    }


def draw(data: dict[str, Any]) -> Figure:
    """Paths beside the three terminal densities, the gap between ODE and SDE."""
    figure, axes = panels(1, 4, PAGE, 2.2, width_ratios=[1.5, 1, 1, 1])
    first, ode, sde, target = axes[0]
    _draw_paths(first, data)
    for panel, key in ((ode, "ode"), (sde, "sde"), (target, "target")):
        _draw_density(panel, data, key)
    title(first, "a", "Same noise, two samplers")
    title(ode, "b", "ODE keeps the error")
    title(sde, "c", "SDE forgets it")
    title(target, "d", "Target")
    half_width = (data["interval"][1] - data["interval"][0]) / 2
    _bracket(ode, rf"reward gap = ${data['gap']:.2f} \pm {half_width:.2f}$")
    target.annotate(
        "best\nreward", data["best"], (0.97, 0.58), textcoords="axes fraction", ha="right", fontsize=7,
        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkB": 4},
    )  # fmt: skip
    return figure


def _draw_paths(axes: Axes, data: dict[str, Any]) -> None:
    paths, sde_color = data["paths"], look(data["eta"]).color
    axes.contourf(data["x"], data["y"], data["target"]["density"], levels=_levels(data), cmap="Blues", alpha=0.6)
    for path in np.asarray(paths["sde"]):
        axes.plot(*path.T, color=sde_color, linewidth=0.7)
        axes.plot(*path[-1], "D", color=sde_color, markeredgecolor="white")
    for path in np.asarray(paths["ode"]):
        axes.plot(*path.T, color="black", linewidth=1.4)
        axes.plot(*path[-1], "D", color="black", markeredgecolor="white")
    axes.plot(*np.transpose(paths["starts"]), "o", color="white", markeredgecolor="black", markersize=4.5, zorder=3)
    corner: dict[str, Any] = dict(transform=axes.transAxes, ha="right", weight="bold")
    axes.text(0.97, 0.16, "ODE", **corner)
    axes.text(0.97, 0.05, rf"SDE, $\eta$ = {data['eta']:g}", color=sde_color, **corner)
    axes.set(xlim=(-2.4, 4.7), ylim=(-1.75, 2.75))
    axes.set_xlabel(r"start: $N(0, I)$, not the noised data")
    _bare(axes)


def _draw_density(axes: Axes, data: dict[str, Any], key: str) -> None:
    law, modes = data[key], np.asarray(data["modes"])
    axes.contourf(data["x"], data["y"], law["density"], levels=_levels(data), cmap="Blues")
    x, y = np.meshgrid(data["x"], data["y"])
    reward = -((x - data["best"][0]) ** 2) - (y - data["best"][1]) ** 2
    axes.contour(x, y, reward, levels=[-9, -4, -1], colors="0.4", linewidths=0.5, linestyles="--")
    axes.plot(*data["best"], "*", color="black", markersize=5)
    outward = modes - modes.mean(axis=0)
    for place, share in zip(modes + LABEL_DISTANCE * outward, law["shares"], strict=True):
        axes.text(*place, f"{share:.0%}", ha="center", va="center", weight="bold")
    axes.set_xlabel(f"$E\\,r = {law['reward']:.2f}$\n\n")  # room for the bracket
    _bare(axes)


def _bracket(axes: Axes, text: str) -> None:
    """A bracket from the foot of a panel to that of the next one, with a text."""
    foot, depth = -0.14, 0.045
    x = np.array([0.5, 0.5, 1.56, 1.56])
    y = foot - depth * np.array([0, 1, 1, 0])
    (line,) = axes.plot(x, y, color="black", linewidth=0.6, transform=axes.transAxes, clip_on=False)
    label = axes.text(1.03, foot - 2 * depth, text, transform=axes.transAxes, ha="center", va="top", weight="bold")
    for artist in (line, label):
        artist.set_in_layout(False)  # it reaches over to the next panel


def _levels(data: dict[str, Any]) -> np.ndarray:
    return np.linspace(0.02, np.max(data["ode"]["density"]), 9)


def _bare(axes: Axes) -> None:
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(True)


def _short(values: np.ndarray, digits: int = 3) -> np.ndarray:
    """Rounded to ``digits`` decimals, which keeps the JSON small."""
    return np.round(values, digits) + 0.0


PROGRAM = Program("paths", compute, draw)
