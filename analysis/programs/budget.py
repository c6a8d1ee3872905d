"""Where the end-to-end gap of a guided, fine-tuned pipeline comes from, and how fast each sampler's part of it goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import gapbound as gb
from analysis.figure import Program, Progress, Settings
from analysis.series import DASHED, GAP, draw_points, kind_handles, plain_ticks, vp
from analysis.style import PAGE, Look, panels, shared_legend, title
from gapbound.budget import TERMS, GapBudget, gap_budget

UNCONDITIONAL, CONDITIONAL = gb.Gaussian(0.0, 1.0), gb.Gaussian(0.7, 0.5)
REWARD = gb.Quadratic(1.0, 1.4)
TUNED = gb.tilt(CONDITIONAL, REWARD, 2.0)
GRID = "leading"  # Stable Diffusion's own: where it starts depends on the steps
ETA, SCALE = 1.0, 3.0
PAIRS = ((50, 50), (50, 10), (20, 10), (10, 10))  # steps of the ODE that is shipped and of the SDE that is trained
SCALES = np.linspace(1.0, 7.5, 53)
POINTS = np.array([1.0, 2.5, 4.0, 5.5, 7.5])
STEPS = (50, 10)  # against the guidance scale
COUNTS = np.unique(np.geomspace(8, 1000, 60).astype(int))
FAMILY_PROCESS, FAMILY_GRID = vp(5.0), "karras"
Z95 = 1.959963984540054

WORDS = dict(zip(TERMS, ("ODE integrator", "SDE integrator", "fine-tuning", "guidance", "mismatch"), strict=True))
COLORS = dict(zip(TERMS, ("#073b4c", "#2fb0a0", "#bd3786", "#f2a022", "0.55"), strict=True))
TOTAL = Look("black", "D", "-")

#: eta of each sampler (in its own unit) and how it is drawn.
FAMILY: dict[str, tuple[float, Look]] = {
    "gddim": (ETA, Look("#073b4c", "o", "-")),
    "euler-maruyama": (ETA, Look("#11788a", "s", (0, (5, 1.2)))),
    "flow-grpo": (ETA, Look("#2fb0a0", "D", (0, (2, 1)))),
    "edm": (ETA, Look("#bd3786", "^", (0, (6, 1, 1, 1)))),
    "stochastic-heun": (ETA, Look("#f2a022", "v", "-")),
    "cps": (0.5, Look("0.45", "X", (0, (1, 1)))),
}


def compute(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Budgets for ``PAIRS`` and against the guidance scale, with simulated totals; errors of the sampler family."""
    n = 20_000 if settings.quick else 400_000
    pairs = []
    for k, (ode, sde) in enumerate(PAIRS):
        pairs.append(_entry(SCALE, ode, sde, n, settings))
        progress(0.45 * (k + 1) / len(PAIRS))
    points = [_entry(scale, *STEPS, n, settings) for scale in POINTS]
    progress(0.9)
    curves = [_budget(scale, *STEPS) for scale in SCALES]
    family = {name: _errors(name) for name in FAMILY}
    progress(1.0)
    return {
        "reward": "-(x - 1.4)^2",
        "eta": ETA,
        "scale": SCALE,
        "pairs": _series(PAIRS, pairs),
        "against_scale": {
            **_series(POINTS, points),
            "steps": STEPS,
            "curve_x": SCALES,
            "curve": [budget.total for budget in curves],
            "terms": {name: [budget.terms[name] for budget in curves] for name in TERMS},
        },
        "family": {"steps": COUNTS, "errors": family},
        "n": n,
    }


def _runs(scale: float, ode: int, sde: int) -> tuple[Any, gb.Process, gb.Process]:
    """The fine-tuned model under guidance, and the two processes."""
    return gb.guided(UNCONDITIONAL, TUNED, scale), gb.VP.stable_diffusion(ode, GRID), gb.VP.stable_diffusion(sde, GRID)


def _budget(scale: float, ode: int, sde: int) -> GapBudget:
    model, process, sde_process = _runs(scale, ode, sde)
    reference = gb.guided(UNCONDITIONAL, CONDITIONAL, scale)
    return gap_budget(
        model, process, REWARD, reference=reference, eta=ETA, ode_steps=ode, sde_steps=sde, sde_process=sde_process,
        grid=GRID,
    )  # fmt: skip


def _entry(scale: float, ode: int, sde: int, n: int, settings: Settings) -> dict[str, Any]:
    """One budget beside the same gap simulated."""
    model, process, sde_process = _runs(scale, ode, sde)
    seed = settings.seed_for("budget", scale, ode, sde)
    common: dict[str, Any] = dict(grid=GRID, n=n, seed=seed, device=settings.device)
    ends = (
        gb.simulate(model, process, "ddim", 0.0, ode, **common).samples,
        gb.simulate(model, sde_process, "gddim", ETA, sde, **common).samples,
    )
    difference = (REWARD(ends[0]) - REWARD(ends[1])).double().cpu().numpy()
    gap, error = difference.mean(), difference.std(ddof=1) / n**0.5
    return {"gap": gap, "standard_error": error, "budget": _budget(scale, ode, sde), "seed": seed}


def _series(x: Any, entries: list[dict[str, Any]]) -> dict[str, Any]:
    gap, error = (np.array([entry[key] for entry in entries]) for key in ("gap", "standard_error"))
    return {
        "x": x,
        "gap": gap,
        "standard_error": error,
        "interval": np.stack([gap - Z95 * error, gap + Z95 * error], axis=-1),
        "closed_form": [entry["budget"].total for entry in entries],
        "budgets": [dict(entry["budget"].terms) for entry in entries],
        "seeds": [entry["seed"] for entry in entries],
    }


def _errors(name: str) -> list[float]:
    """|E r - E r in continuous time| for each of ``COUNTS``; of CPS, which has no such limit, from the data."""
    eta = FAMILY[name][0]
    limit = CONDITIONAL if name == "cps" else gb.terminal_law(CONDITIONAL, FAMILY_PROCESS, eta)
    laws = (gb.discrete_law(CONDITIONAL, FAMILY_PROCESS, name, eta, int(steps), grid=FAMILY_GRID) for steps in COUNTS)
    return [abs(float(REWARD.expectation(law) - REWARD.expectation(limit))) for law in laws]


def draw(data: dict[str, Any]) -> Figure:
    """The budget of pairs of step counts, of guidance scales, and the sampler family."""
    figure, axes = panels(1, 3, PAGE, 2.6)
    _draw_pairs(axes[0, 0], data["pairs"])
    _draw_scales(axes[0, 1], data["against_scale"])
    _draw_family(axes[0, 2], data["family"])
    terms = [Patch(color=COLORS[name], label=WORDS[name]) for name in TERMS]
    total = Line2D([], [], color=TOTAL.color, marker=TOTAL.marker, linewidth=1.0, markersize=4, label="total")
    shared_legend(figure, [*terms, total, *kind_handles()[1:]], columns=4)
    return figure


def _draw_pairs(axes: Axes, found: dict[str, Any]) -> None:
    places = np.arange(len(found["x"]))
    above, below = np.zeros(places.size), np.zeros(places.size)
    for name in TERMS:
        height = np.array([budget[name] for budget in found["budgets"]])
        base = np.where(height >= 0, above, below)
        axes.bar(places, height, 0.6, bottom=base, color=COLORS[name])
        above, below = above + np.maximum(height, 0), below + np.minimum(height, 0)
    for place, total in zip(places, found["closed_form"], strict=True):
        axes.plot([place - 0.4, place + 0.4], [total, total], color=TOTAL.color, linewidth=1.2)
    draw_points(axes, {**found, "x": places}, TOTAL)
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xticks(places, [f"{ode} / {sde}" for ode, sde in found["x"]])
    axes.grid(False, axis="x")
    axes.set(xlabel="steps of the ODE / of the SDE", ylabel=GAP)
    title(axes, "a", rf"the gap's parts ($w$ = {SCALE:g})")


def _draw_scales(axes: Axes, found: dict[str, Any]) -> None:
    for name in TERMS:
        axes.plot(found["curve_x"], found["terms"][name], color=COLORS[name])
    axes.plot(found["curve_x"], found["curve"], **TOTAL.line, linewidth=1.2)
    draw_points(axes, found, TOTAL)
    axes.axhline(0.0, **DASHED)
    ode, sde = found["steps"]
    axes.set(xlabel="guidance scale $w$", ylabel="")
    title(axes, "b", f"guidance shifts them ({ode} / {sde})")


def _draw_family(axes: Axes, found: dict[str, Any]) -> None:
    for name, (_, shape) in FAMILY.items():
        axes.plot(found["steps"], found["errors"][name], **shape.line, label=name)
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel=r"|error of $E\,r$|", ylim=(1e-6, 1.0))
    plain_ticks(axes.xaxis, (10, 100, 1000))
    axes.legend(loc="lower left", ncols=2, fontsize=5.5, handlelength=1.5, columnspacing=0.7, borderaxespad=0.1)
    title(axes, "c", "order 1, order 2, and none")


PROGRAM = Program("gap_budget", compute, draw)
