"""How rewards and gaps move during training, and what stochasticity does to the policy gradient."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import DASHED, FAMILY, vp
from analysis.style import PAGE, look, panels, shared_legend, title
from gapbound import training

REFERENCE = gb.Gaussian(0.0, 1.0)
REWARD = gb.Quadratic(1.0, 1.0)  # r = -(x - 1)^2
PROCESS = vp(5.0)
ETAS = (0.5, 1.0, 1.5, 2.0)
BETA = 0.3
STEPS = 25
KL_FORMS = ("path", "visited")  # what DDPO's and GRPO's KL terms estimate
SAMPLED_ETA, SAMPLED_STEPS = 1.5, 10
MODES = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.2)
WISH = gb.Bump(1.0, 0.5)
ETA_CURVE = np.geomspace(0.2, 3.0, 58)
Z95 = 1.959963984540054


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Exact runs, sampled runs beside their exact one, networks on two modes, and signals against eta."""
    iterations = 60 if settings.quick else 300
    exact = {name: _exact(name, iterations) for name in ("consistent", "per-step")}
    progress(0.2)
    sampled = _sampled(settings)
    progress(0.5)
    networks = [_network(eta, settings) for eta in (0.5, 1.0, 2.0)]
    progress(0.9)
    return {
        "sigma_T": PROCESS.sigma_T,
        "beta": BETA,
        "steps": STEPS,
        "etas": ETAS,
        "exact": exact,
        "sampled": sampled,
        "networks": networks,
        "signal": _signal(),
    }


def _exact(policy: str, iterations: int) -> dict[str, Any]:
    task = training.Task(REFERENCE, PROCESS, REWARD, np.array(ETAS), BETA, STEPS)
    history = training.train(task, policy, iterations, every=5).history
    names = ("iteration", "sde", "ode", "sde_1", "gap", "induced_gap", "kl", "rescaled_kl")
    return {name: getattr(history, name) for name in names}


def _sampled(settings: Settings) -> dict[str, Any]:
    """DDPO and GRPO, several seeds, and the exact gradient under the same optimiser."""
    task = training.Task(REFERENCE, PROCESS, REWARD, SAMPLED_ETA, BETA, SAMPLED_STEPS)
    iterations, seeds = (20, 2) if settings.quick else (120, 6)
    exact = {kl: training.train(task, "per-step", 2 * iterations, every=4, kl=kl).history for kl in KL_FORMS}
    found: dict[str, Any] = {"eta": SAMPLED_ETA, "steps": SAMPLED_STEPS, "updates": exact["path"].iteration}
    found |= {kl: history.gap for kl, history in exact.items()}
    for form in ("ddpo", "grpo"):
        gaps = []
        for seed in range(seeds):
            own = settings.seed_for("sampled", form, seed)
            history = training.train_sampled(task, "per-step", form, iterations, every=10, seed=own).history
            gaps.append(history.gap)
        found[form] = {"updates": 2 * history.iteration, "gap": gaps}
    return found


def _network(eta: float, settings: Settings) -> dict[str, Any]:
    """A network on two modes: the gap of one run, with the interval of its evaluation."""
    task = training.Task(MODES, PROCESS, WISH, eta, 0.1, 10)
    iterations, n = (6, 64) if settings.quick else (100, 512)
    seed = settings.seed_for("network", eta)
    policy = training.Network.of(task, seed=seed)
    run = training.train_sampled(task, policy, "grpo", iterations, 0.005, n=n, every=10, seed=seed)
    history = run.history
    return {
        "eta": eta,
        "iteration": history.iteration,
        "gap": history.gap,
        "half_width": Z95 * np.asarray(history.gap_error),
        "sde": history.sde,
        "ode": history.ode,
        "fine_ode": history.fine_ode,
        "seed": seed,
    }


def _signal() -> dict[str, Any]:
    """Signal of three steps and of all, and the shared mean's noise: exact, against eta."""
    v = float(REFERENCE.cov[0])
    sigmas = gb.grid(PROCESS, 10)
    steps = [0, 5, 8]
    shares = [training.signal_share(v, sigmas[k], sigmas[k + 1], ETA_CURVE) for k in steps]
    total = sum(training.signal_share(v, s, t, ETA_CURVE) for s, t in itertools.pairwise(sigmas))
    fisher = {}
    linear = gb.Linear(1.0)
    noise = {}
    for n in (10, 50):
        task = training.Task(REFERENCE, PROCESS, linear, ETA_CURVE, 0.0, n)
        fisher[str(n)] = training.fisher_information(task)
        mean, variance = training.mean_signal(task)
        noise[str(n)] = mean**2 / variance
    limit = training.fisher_limit(v, PROCESS.sigma_T, ETA_CURVE)
    return {
        "eta": ETA_CURVE,
        "levels": [[sigmas[k], sigmas[k + 1]] for k in steps],
        "shares": shares,
        "best": [training.best_eta(v, sigmas[k], sigmas[k + 1]) for k in steps],
        "total": total,
        "fisher": fisher,
        "fisher_limit": limit,
        "mean_signal": noise,
    }


def draw(data: dict[str, Any]) -> Figure:
    """Rewards and gaps along training above; sampling, networks and signals below."""
    figure, axes = panels(2, 3, PAGE, 2.35)
    _draw_rewards(axes[0, 0], data)
    _draw_gaps(axes[0, 1], data)
    _draw_sampled(axes[0, 2], data["sampled"])
    _draw_networks(axes[1, 0], data["networks"])
    _draw_shares(axes[1, 1], data["signal"])
    _draw_fisher(axes[1, 2], data["signal"])
    shared_legend(figure, [Line2D([], [], color=look(eta).color, label=rf"$\eta$ = {eta:g}") for eta in data["etas"]])
    return figure


def _kinds(axes: Axes, solid: str, dashed: str, loc: str) -> None:
    handles = [Line2D([], [], color="0.3", label=solid), Line2D([], [], color="0.3", linestyle=":", label=dashed)]
    axes.legend(handles=handles, loc=loc, handlelength=1.8)


def _draw_rewards(axes: Axes, data: dict[str, Any]) -> None:
    run = data["exact"]["per-step"]
    for k, eta in enumerate(data["etas"]):
        color = look(eta).color
        axes.plot(run["iteration"], np.array(run["sde"])[:, k], color=color)
        axes.plot(run["iteration"], np.array(run["ode"])[:, k], color=color, linestyle=":", linewidth=1.5)
    axes.set(xlabel="update", ylabel=r"$E\,r$")
    _kinds(axes, "SDE trained on", "ODE", "lower right")
    title(axes, "a", "per-step policies")


def _draw_gaps(axes: Axes, data: dict[str, Any]) -> None:
    for name, style in (("per-step", "-"), ("consistent", ":")):
        run = data["exact"][name]
        for k, eta in enumerate(data["etas"]):
            width = 1.1 if style == "-" else 1.5
            axes.plot(
                run["iteration"], np.array(run["gap"])[:, k], color=look(eta).color, linestyle=style, linewidth=width
            )
    axes.axhline(0.0, **DASHED)
    axes.set(xlabel="update", ylabel=r"gap: ODE $-$ SDE", ylim=(-0.5, 0.26))
    _kinds(axes, "per-step", "consistent", "upper right")
    title(axes, "b", "one law narrows, steps widen")


def _draw_sampled(axes: Axes, found: dict[str, Any]) -> None:
    for shape, form, kl in zip((FAMILY[0], FAMILY[2]), ("ddpo", "grpo"), KL_FORMS, strict=True):
        axes.plot(
            found["updates"], found[kl], color=shape.color, label={"path": "exact", "visited": "exact, GRPO's KL"}[kl]
        )
        gaps = np.array(found[form]["gap"])
        mean, error = gaps.mean(0), gaps.std(0, ddof=1) / len(gaps) ** 0.5
        label = f"{form.upper()}, {len(gaps)} seeds"
        axes.errorbar(found[form]["updates"], mean, Z95 * error, **shape.points, label=label, elinewidth=0.9)
    axes.axhline(0.0, **DASHED)
    axes.set(xlabel="update", ylabel="gap", ylim=(-0.4, 0.22))
    axes.legend(loc="upper right")
    title(axes, "c", rf"sampled, $\eta$ = {found['eta']:g}, N = {found['steps']}")


def _draw_networks(axes: Axes, found: list[dict[str, Any]]) -> None:
    for run in found:
        shape = look(run["eta"])
        axes.errorbar(
            run["iteration"], run["gap"], run["half_width"], color=shape.color, marker=shape.marker, elinewidth=0.9,
            markeredgecolor="white", markeredgewidth=0.4,
        )  # fmt: skip
    axes.axhline(0.0, **DASHED)
    axes.set(xlabel="iteration", ylabel="gap")
    title(axes, "d", "networks on two modes, GRPO")


def _draw_shares(axes: Axes, signal: dict[str, Any]) -> None:
    axes.plot(signal["eta"], signal["total"], color="black")
    axes.annotate("all steps", (0.47, 0.5), (-4, 0), textcoords="offset points", ha="right", fontsize=7)
    for shape, (high, low), share, best in zip(
        FAMILY, signal["levels"], signal["shares"], signal["best"], strict=False
    ):
        axes.plot(signal["eta"], share, **shape.line, label=rf"$\sigma$: {high:.2g} to {low:.2g}")
        if best < max(signal["eta"]):
            axes.plot(best, np.interp(best, signal["eta"], share), color=shape.color, marker="o")
    axes.set(xscale="log", xlabel=r"$\eta$", ylabel=r"share of Var $r$ explained", ylim=(0, 1.02))
    axes.set_xticks([0.2, 0.5, 1, 2, 3], ["0.2", "0.5", "1", "2", "3"], minor=False)
    axes.minorticks_off()
    axes.legend(loc="upper right", bbox_to_anchor=(1.03, 0.76), handlelength=1.2, handletextpad=0.4)
    title(axes, "e", r"early steps have a best $\eta$")


def _draw_fisher(axes: Axes, signal: dict[str, Any]) -> None:
    axes.plot(signal["eta"], signal["fisher_limit"], color="black", label=r"$N = \infty$")
    for shape, (n, values) in zip(FAMILY[1:], signal["fisher"].items(), strict=False):
        axes.plot(signal["eta"], values, **shape.line, label=f"N = {n}")
    axes.set(xscale="log", yscale="log", xlabel=r"$\eta$", ylabel="Fisher information of the mean")
    axes.set_xticks([0.2, 0.5, 1, 2, 3], ["0.2", "0.5", "1", "2", "3"], minor=False)
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.minorticks_off()
    axes.legend(loc="upper center")
    title(axes, "f", r"one mean for all steps: $\eta = 1$")


PROGRAM = Program("dynamics", compute, draw)
