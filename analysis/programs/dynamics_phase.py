"""Two claims about training, where they hold: gaps narrow, and more stochastic training improves the ODE."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import vp
from analysis.style import PAGE, panels, title
from gapbound.training import Consistent, Phase, Task, phase_diagram
from gapbound.training.history import Samplers, exact_record

REFERENCE = gb.Gaussian(0.0, 1.0)
REWARD = gb.Quadratic(1.0, 1.0)  # r = -(x - 1)^2
STEPS = (10, 25, 50)
SIGMA_T = (2.0, 5.0, 15.0)
SHOWN = 1  # index of sigma_T in the figure
BETAS = (0.0, 0.1, 0.3, 1.0, 3.0)
CHANGED = (0.7, float(np.log(0.3)))  # mean and log-variance of a law that every eta is charged for
LENGTHS = (20, 100, 400)  # the last is the one drawn
ADAM = {"optimizer": "adam", "rate": 0.02}
SGD = {"optimizer": "sgd", "rate": 0.05}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "consistent": ("consistent", ADAM),
    "per-step": ("per-step", ADAM),
    "consistent, sgd": ("consistent", SGD),
    "per-step, sgd": ("per-step", SGD),
    "consistent, rescaled beta": ("consistent", ADAM | {"rescale_beta": True}),
    "per-step, rescaled beta": ("per-step", ADAM | {"rescale_beta": True}),
}
FIELDS = (
    "reference_gap", "gap", "ode", "sde", "control", "narrowing", "rescaled_kl", "budget", "ode_at_kl", "gap_at_kl",
    "ode_at_kl_1",
)  # fmt: skip


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Every run over (N, length, eta, sigma_T, beta), exactly, with the verdict on both claims."""
    etas = np.linspace(0.5, 2.0, 4 if settings.quick else 7)
    lengths, steps = ((5, 20, 60), (10, 25)) if settings.quick else (LENGTHS, STEPS)
    found = {}
    for done, (name, (policy, kwargs)) in enumerate(RUNS.items()):
        phase = phase_diagram(
            REFERENCE, REWARD, policy, etas=etas, steps=steps, sigma_T=SIGMA_T, betas=BETAS, lengths=lengths,
            progress=lambda fraction, done=done: progress((done + fraction) / len(RUNS)), **kwargs,
        )  # fmt: skip
        found[name] = {field: getattr(phase, field) for field in FIELDS} | _verdicts(phase)
    axes = {"steps": steps, "lengths": lengths, "etas": etas, "sigma_T": SIGMA_T, "betas": BETAS}
    return {
        **axes,
        "fractions": phase.fractions,
        "axes": "steps, lengths, etas, sigma_T, betas",
        "runs": found,
        "charged": _charged(settings),
    }


def _verdicts(phase: Phase) -> dict[str, Any]:
    """The fraction of cells in which each claim is true: by N and length, and by N and fraction of the budget."""
    over = (2, 3, 4)
    return {
        "narrowed": phase.narrowed.mean(over),
        "improves": phase.improves.mean(over),
        "improves_at_kl": phase.improves_at_kl.mean(over),
        "improves_at_kl_1": phase.improves_at_kl_1.mean(over),
    }


def _charged(settings: Settings) -> dict[str, Any]:
    """Rescaled KL of one law, the same whatever eta, over the states that each eta visits."""
    etas, steps = np.array([0.5, 1.0, 2.0]), (10, 50) if settings.quick else (10, 50, 1000)
    found = []
    for n in steps:
        task = Task(REFERENCE, vp(SIGMA_T[SHOWN]), REWARD, etas, 0.0, n)
        mean, log_variance = (torch.full((len(etas),), value, dtype=torch.float64) for value in CHANGED)
        found.append(exact_record(Samplers.of(task), Consistent(mean, log_variance))["rescaled_kl"])
    return {"etas": etas, "steps": steps, "rescaled_kl": found}


def findings(data: dict[str, Any]) -> list[str]:
    """The five findings, each with numbers read from ``data``."""
    runs = {name: {field: np.array(values) for field, values in run.items()} for name, run in data["runs"].items()}
    return [
        _narrowing(data, runs),
        _control(data, runs),
        _updates(data, runs),
        _equal_kl(data, runs),
        _drift(data, runs),
    ]


def _narrowing(data: dict[str, Any], runs: dict[str, Any]) -> str:
    one, own = runs["consistent"], runs["per-step"]
    etas, betas = np.array(data["etas"]), np.array(data["betas"])
    size = [np.median(np.abs(gap)) for gap in one["reference_gap"]]
    short, long = data["lengths"][0], data["lengths"][-1]
    smaller = [np.abs(run["gap"][:, -1]) < np.abs(run["reference_gap"]) for run in (one, own)]
    weak, strong = (smaller[0][..., part].mean() for part in (betas <= 0.1, betas >= 1))
    near, far = (smaller[1][:, part].mean() for part in (np.abs(etas - 1) < 0.3, etas >= 1.5))
    return (
        f"Claim 1 holds in {_percent(one['narrowed'][:, -1])} of cells (eta, sigma_T, beta) at N = "
        f"{_names(data['steps'])} after {long} updates ({_percent(one['narrowed'][:, 0])} after {short}) when one "
        f"consistent law is trained, and in {_percent(own['narrowed'][:, -1])} ({_percent(own['narrowed'][:, 0])}) "
        f"when every step has its own noise prediction; the reference's gap is the integrator's alone (median "
        f"{_list(size)}), for one law it shrinks where the law itself does ({_percent([weak, strong])} of cells at "
        f"beta <= 0.1 / >= 1), per step where eta is near 1 ({_percent([near, far])} at |eta - 1| < 0.3 / eta >= 1.5)."
    )


def _control(data: dict[str, Any], runs: dict[str, Any]) -> str:
    free, etas, sigma_T = runs["per-step"], np.array(data["etas"]), data["sigma_T"][SHOWN]
    at, some = _extremes(data), _index(data["betas"], 0.3)
    rho, x = 1 / (1 + sigma_T**2), etas[at] ** 2
    theory = 2 / ((1 + x) * (1 + rho ** (x / 2)))
    gaps = free["reference_gap"][-1, at, SHOWN, some], free["gap"][-1, -1, at, SHOWN, some]
    return (
        f"What widens it is control: the ODE reuses only a part of it, and at eta = {_names(etas[at])} its mean moves "
        f"by {_list(free['control'][-1, -1, at, SHOWN, -1])} of the SDE's (per step, N = {data['steps'][-1]}, sigma_T "
        f"= {sigma_T:g}, beta = {data['betas'][-1]:g}; linear theory 2/((1+eta^2)(1+rho^(eta^2/2))) = "
        f"{_list(theory)}), so at beta = {data['betas'][some]:g} the gap goes from {_list(gaps[0])} to "
        f"{_list(gaps[1])}."
    )


def _updates(data: dict[str, Any], runs: dict[str, Any]) -> str:
    etas = np.array(data["etas"])
    ode = [runs[name]["ode"][:, -1] for name in ("consistent", "per-step")]
    best = [np.median(etas[values[..., 1:].argmax(1)]) for values in ode]
    below, above = (
        [(np.diff(values, axis=1)[:, part] > 0).mean() for values in ode] for part in (etas[1:] <= 1, etas[1:] > 1)
    )
    spread = {name: _spread(run["ode"][:, -1][..., 1:]) for name, run in runs.items()}
    names = ("consistent", "consistent, rescaled beta", "per-step", "per-step, rescaled beta")
    return (
        f"Claim 2 at equal updates and equal beta holds from one eta to the next in {_percent(below)} of cells up to "
        f"eta = 1 and in {_percent(above)} above (consistent / per step): the median best eta for the ODE at beta > 0 "
        f"is {_names(best)}; for one law that is the price of KL, cheapest at eta = 1 (with beta rescaled by "
        f"4 eta^2/(1+eta^2)^2 the range of the ODE's reward over eta falls from {spread[names[0]]:.3f} to "
        f"{spread[names[1]]:.3f} in the median), per step it is lost control (from {spread[names[2]]:.3f} to "
        f"{spread[names[3]]:.3f})."
    )


def _equal_kl(data: dict[str, Any], runs: dict[str, Any]) -> str:
    names = ("consistent", "per-step")
    share, share_1 = (
        [runs[name][key][:, -1].mean() for name in names] for key in ("improves_at_kl", "improves_at_kl_1")
    )
    change, change_1 = (
        [np.median(runs[name][key][:, -1, -1] - runs[name][key][:, -1, 0]) for name in names]
        for key in ("ode_at_kl", "ode_at_kl_1")
    )
    low, high, charged = data["etas"][0], data["etas"][-1], data["charged"]
    paid = [f"{_list(row)} at N = {n}" for n, row in zip(charged["steps"], charged["rescaled_kl"], strict=True)]
    return (
        f"At equal rescaled KL claim 2 holds in {_percent(share)} of pairs (consistent / per step; from eta = {low:g} "
        f"to {high:g} the ODE gains {_list(change)} in the median), but for one law most of it is the measure: one and "
        f"the same law, hence one ODE, is charged {'; '.join(paid)} for eta = {_names(charged['etas'])}, because the "
        f"SDE of larger eta visits nearer states; at equal KL of the eta = 1 sampler, a function of the model alone, "
        f"the claim holds in {_percent(share_1)} and the gain is {', '.join(f'{value:.3f}' for value in change_1)}."
    )


def _drift(data: dict[str, Any], runs: dict[str, Any]) -> str:
    adam, plain = runs["per-step"], runs["per-step, sgd"]
    at = (-1, -1, -1, SHOWN, 0)  # largest N, longest, largest eta, beta = 0
    sde, ode, kl = ([run[key][at] for run in (adam, plain)] for key in ("sde", "ode", "rescaled_kl"))
    return (
        f"Without KL (beta = 0) at eta = {data['etas'][-1]:g}, N = {data['steps'][-1]}, Adam moves the early steps, "
        f"which the SDE forgets and the ODE does not, as fast as the late ones: the SDE's reward ends at {sde[0]:.2f} "
        f"and the ODE's at {ode[0]:.2f} (rescaled KL {kl[0]:.0f}), against {sde[1]:.2f} and {ode[1]:.2f} "
        f"({kl[1]:.2f}) under plain gradient ascent."
    )


def _extremes(data: dict[str, Any]) -> list[int]:
    return [0, _index(data["etas"], 1.0), len(data["etas"]) - 1]


def _index(values: Any, wanted: float) -> int:
    return int(np.abs(np.array(values) - wanted).argmin())


def _percent(values: Any) -> str:
    return " / ".join(f"{100 * value:.0f}" for value in values) + " %"


def _list(values: Any) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _spread(ode: np.ndarray) -> float:
    """Range over eta of the ODE's reward (steps, etas, sigma_T, betas), median over the cells."""
    return float(np.median(np.ptp(ode, axis=1)))


def _cell(value: float, digits: int) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}"  # no minus before 0


def _names(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


def draw(data: dict[str, Any]) -> Figure:
    """Claim 1, claim 2 at equal updates and at equal rescaled KL: both policies at few and at many steps."""
    figure, axes = panels(4, 3, PAGE, 1.55, sharex=True, sharey=True)
    rows = [(name, n) for name in ("consistent", "per-step") for n in (0, len(data["steps"]) - 1)]
    letters = iter("abcdefghijkl")
    meshes = []
    for row, (name, n) in zip(axes, rows, strict=True):
        run, where = data["runs"][name], f"{name}, N = {data['steps'][n]}"
        gap, start = np.array(run["gap"])[n, -1, :, SHOWN], np.array(run["reference_gap"])[n, :, SHOWN]
        values = [np.log2(np.abs(gap / start)), *(_gain(data, run[key], n) for key in ("ode", "ode_at_kl"))]
        limits = (3.0, 0.4, 0.4)
        meshes = [
            _map(panel, data, value, limit, next(letters), where)
            for panel, value, limit in zip(row, values, limits, strict=True)
        ]
        row[0].set_ylabel(r"training $\eta$")
    for panel in axes[-1]:
        panel.set(xlabel=r"KL weight $\beta$")
    labels = (
        r"$\log_2$ |gap| after / before",
        r"ODE reward, less $\eta=1$: equal updates",
        r"the same: equal rescaled KL",
    )
    for column, (mesh, label) in enumerate(zip(meshes, labels, strict=True)):
        figure.colorbar(mesh, ax=axes[:, column], label=label, location="top", extend="both", pad=0.01, aspect=30)
    return figure


def _gain(data: dict[str, Any], ode: Any, n: int) -> np.ndarray:
    """ODE reward less that of the eta nearest 1, shape (etas, betas)."""
    values = np.array(ode)[n, -1, :, SHOWN]
    return values - values[_index(data["etas"], 1.0)]


def _map(axes: Axes, data: dict[str, Any], value: np.ndarray, limit: float, letter: str, where: str) -> Any:
    """Blue where the gap narrowed, or where the ODE is better than after training at eta = 1; red otherwise."""
    ratio = letter in "adgj"
    colours = "RdBu_r" if ratio else "RdBu"
    x, etas = np.arange(len(data["betas"])), data["etas"]
    mesh = axes.pcolormesh(
        x, etas, value, cmap=colours, norm=Normalize(-limit, limit), shading="nearest", rasterized=True
    )
    for j, i in np.ndindex(value.shape):
        loud = abs(value[j, i]) > 0.6 * limit
        axes.text(
            i, etas[j], _cell(value[j, i], 1 if ratio else 2), ha="center", va="center", fontsize=7,
            color="white" if loud else "0.2",
        )  # fmt: skip
    axes.grid(False)
    axes.set_xticks(x, [f"{beta:g}" for beta in data["betas"]])
    axes.set_yticks([0.5, 1.0, 1.5, 2.0])
    title(axes, letter, where)
    return mesh


PROGRAM = Program("dynamics_phase", compute, draw)
