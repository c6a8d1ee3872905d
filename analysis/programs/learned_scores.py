"""Certificates of learned scores: small networks in 1, 2 and 8 dimensions, their measured gap, the bound and its mass.

The networks are those of ``analysis.train_scores``. Both samplers start at sigma = 4 and stop at 0.05, the smallest
level that the networks were trained on; the gap and its bound are of the samplers as they stop there.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import gapbound as gb
from analysis.bound_looks import LOOKS
from analysis.figure import Program, Progress, Settings
from analysis.score_network import SIGMA, TARGETS, load, provenance
from analysis.series import vp
from analysis.style import PAGE, REFERENCE, panels, shared_legend, title
from gapbound.bounds.certificate import Certificate
from gapbound.bounds.certify import certify

SIGMA_T = 4.0
ETAS = (0.3, 0.5, 1.0, 1.5, 2.0)
STEPS = 80  # uniform in log sigma: on Gaussians of this size a reward is off by less than 5e-4, as a test says
PAIRS = 100_000
SAMPLES = 8192  # for the bound that knows no law
EDGES = (SIGMA[0], 0.25, 1.0, SIGMA_T)  # of the bins of sigma
LEARNED = LOOKS["wasserstein"].color
GREYS = ("#073b4c", "#11788a")  # the start's share, ODE and SDE
BINS = ("#f7d08a", "#f2a022", "#a85d00")
MARGIN = "0.8"


def reward_in(dim: int) -> gb.Cosine:
    """The sine of the first coordinate: bounded by 1, Lipschitz constant 1."""
    return gb.Cosine(np.eye(1, dim)[0], -np.pi / 2)


def question(dim: int) -> tuple[gb.VP, float]:
    """The process, and the time at which it reaches the smallest trained level."""
    return vp(SIGMA_T), float(np.sqrt(np.log1p(SIGMA[0] ** 2)))


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """For every dimension: gaps by simulation, certificates from the law and from samples, over eta."""
    dims, etas = tuple(TARGETS), ETAS[2:3] if settings.quick else ETAS
    found = []
    for k, dim in enumerate(dims):
        measured = measure(dim, etas, settings)
        progress((k + 0.7) / len(dims))
        bounds = certified(dim, etas, settings)
        ratio = np.array(bounds["bound"]) / np.abs(measured["gap"])
        found.append({"dim": dim, "training": provenance(dim), **measured, **bounds, "ratio": ratio})
        progress((k + 1) / len(dims))
    return {"sigma_T": SIGMA_T, "sigma_0": SIGMA[0], "edges": EDGES, "eta": etas, "targets": found}


def measure(dim: int, etas: tuple[float, ...], settings: Settings, steps: int = STEPS) -> dict[str, Any]:
    """The gap of the network by paired simulation with the second-order sampler."""
    process, _ = question(dim)
    sigmas = np.geomspace(SIGMA_T, SIGMA[0], steps + 1)
    sigmas[0] = process.sigma_T
    estimate = gb.estimate_gap(
        load(dim).to(settings.device), process, reward_in(dim), list(etas), n=4000 if settings.quick else PAIRS,
        seed=settings.seed_for("learned_scores", dim), sampler="stochastic-heun", sigmas=sigmas, dim=dim,
        device=settings.device,
    )  # fmt: skip
    return {"gap": estimate.gap, "standard_error": estimate.standard_error, "interval": estimate.interval}


def certified(dim: int, etas: tuple[float, ...], settings: Settings) -> dict[str, Any]:
    """Certificates with the true law and with samples of it, as plain numbers."""
    network, (process, t_min) = load(dim).to(settings.device), question(dim)
    target, seed = TARGETS[dim], settings.seed_for("certificate", dim)
    shared: dict[str, Any] = {"t_min": t_min, "seed": seed, "device": settings.device}
    if settings.quick:
        shared |= {"n": 1000, "panels": 4, "points": 32}
    law = [certify(network, target, process, reward_in(dim), eta, **shared) for eta in etas]
    points = target.sample(SAMPLES, settings.seed_for("samples", dim))
    blind = [certify(network, points, process, reward_in(dim), eta, **shared) for eta in etas]
    first = law[0]
    return {
        "bound": [one.gap for one in law],
        "range": first.trivial,
        "from_samples": [one.gap if np.isfinite(one.gap) else None for one in blind],
        "w2": [one.w2 for one in law],
        "mass": [mass(one) for one in law],
        "curve": {
            "sigma": first.sigma, "e": first.score.value, "e_error": first.score.error, "kappa": first.kappa,
        },
    }  # fmt: skip


def mass(certificate: Certificate) -> dict[str, Any]:
    """What the sum of the two bounds on W2 is made of: the starts, the score error by bins of sigma, added errors.

    A panel of the quadrature that an edge of the bins cuts is shared between them in log sigma.
    """
    start, *ranges = certificate.parts
    bins = np.zeros(len(EDGES) - 1)
    for part in ranges:
        low, high = np.log(part.sigma)
        for k in range(len(bins)):
            overlap = min(high, np.log(EDGES[k + 1])) - max(low, np.log(EDGES[k]))
            bins[k] += max(overlap, 0.0) / (high - low) * (part.ode + part.sde)
    counted = start.ode + start.sde + bins.sum()
    return {"start, ODE": start.ode, "start, SDE": start.sde, "bins": bins, "errors": sum(certificate.w2) - counted}


def draw(data: dict[str, Any]) -> Figure:
    """Gap and bounds above, the bound's mass below; a column for each dimension."""
    figure, axes = panels(2, len(data["targets"]), PAGE, 2.2, sharey="row", sharex=True)
    for column, found in enumerate(data["targets"]):
        _draw_gap(axes[0, column], data["eta"], found)
        _draw_mass(axes[1, column], data["eta"], found)
        title(axes[0, column], "abc"[column], f"$d$ = {found['dim']}")
        title(axes[1, column], "def"[column], "what the bound is made of")
        axes[1, column].set(xlabel=r"$\eta$")
    axes[0, 0].set_ylabel(r"|gap| of $r = \sin x_1$")
    axes[1, 0].set_ylabel("share of the bound")
    bar = Line2D([], [], color="black", marker="o", linestyle="none", label="measured, 95 % interval")
    bound = Line2D([], [], color=LEARNED, marker="^", label="certificate (times the measured)")
    blind = Line2D([], [], color=REFERENCE, linestyle="--", label="from samples alone")
    widest = Line2D([], [], color="black", linestyle=":", label="range of $r$")
    shared_legend(figure, [bar, bound, blind, widest])
    edges = data["edges"]
    names = [f"$e$, $\\sigma$ {low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    labels = ["start, ODE", "start, SDE", *names, "errors added"]
    patches: Any = [Patch(color=c, label=name) for c, name in zip((*GREYS, *BINS, MARGIN), labels, strict=True)]
    shared_legend(figure, patches, loc="outside lower center")
    return figure


def _draw_gap(axes: Axes, etas: list[float], found: dict[str, Any]) -> None:
    gap, bound = np.abs(found["gap"]), np.array(found["bound"])
    half = np.diff(np.array(found["interval"]), axis=-1)[:, 0] / 2
    place = np.arange(len(etas))
    lower = np.minimum(half, gap * 0.999)  # a bar that reaches 0 has no end on a logarithmic axis
    axes.errorbar(place, gap, [lower, half], color="black", marker="o", linestyle="none", elinewidth=0.9)
    axes.plot(place, bound, color=LEARNED, marker="^")
    for x, y, ratio in zip(place, bound, found["ratio"], strict=True):
        axes.annotate(f"{ratio:.2g}x", (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=7)
    seen = [(x, y) for x, y in zip(place, found["from_samples"], strict=True) if y is not None]
    axes.plot([x for x, _ in seen], [y for _, y in seen], color=REFERENCE, linestyle="--")
    axes.axhline(found["range"], color="black", linestyle=":", linewidth=0.9)
    axes.set(yscale="log", ylim=(3e-3, 60))


def _draw_mass(axes: Axes, etas: list[float], found: dict[str, Any]) -> None:
    place, below = np.arange(len(etas)), np.zeros(len(etas))
    rows = [[m["start, ODE"], m["start, SDE"], *m["bins"], m["errors"]] for m in found["mass"]]
    shares = np.array(rows) / np.array(rows).sum(-1, keepdims=True)
    for values, color in zip(shares.T, (*GREYS, *BINS, MARGIN), strict=True):
        axes.bar(place, values, 0.75, bottom=below, color=color)
        below += values
    axes.set(ylim=(0, 1), xticks=place, xticklabels=[f"{eta:g}" for eta in etas])
    axes.grid(False)


PROGRAM = Program("learned_scores", compute, draw)
