"""What the rate figures share: gaps measured at several T, next to their closed form, and slopes fitted to both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from numpy.typing import NDArray

import gapbound as gb
from analysis.figure import Progress, Settings
from analysis.series import DASHED, kind_handles
from analysis.style import Look, eta_handles, look, shared_legend
from gapbound.rate import Rate, rate

Array = NDArray[Any]

ETAS = (0.5, 1.0, 1.2, 1.5, 2.0)
STEPS = 4  # of the exact-marginal kernel, which has no integrator error at any number of steps
MIN_Z = 3.0  # a point that is less than this many standard errors from 0 is drawn hollow and not fitted
FAR = (1e6, 1e7)  # sigma_T between which exponents are measured on exact curves
CURVE = 81  # points of a closed-form curve
QUICK_POINTS = 4  # in a coarse run: the first few T, where few pairs are enough


@dataclass(frozen=True)
class Case:
    """One panel of a rate figure: a target, a reward, and a process for every final time T.

    Args:
        name: of the panel.
        mean: of the target N(mean, 0.5).
        best: c of the reward -(x - c)^2.
        process: of T.
        times: T of the simulated points, shape (n,).
        limits: T between which the closed form is drawn.
        abscissa: x of T, the coordinate in which the rate is a straight line: T itself or B = -log alpha_bar_T.
        far: two T, with sigma_T >= 1e6, between which the exponent of the exact curve is measured.
        scale: of ``gb.fit_rate``.
    """

    name: str
    mean: float
    best: float
    process: Callable[[Any], gb.Process]
    times: Array
    limits: tuple[float, float]
    abscissa: Callable[[Any], Array]
    far: tuple[float, float]
    scale: str

    @property
    def target(self) -> gb.Gaussian:
        """N(mean, 0.5)."""
        return gb.Gaussian(self.mean, 0.5)

    @property
    def reward(self) -> gb.Quadratic:
        """-(x - best)^2."""
        return gb.Quadratic(1.0, self.best)

    def gap(self, T: Any) -> Array:
        """Closed form at ``T``, shape (5, n): one row for each of ``ETAS``."""
        return np.asarray(gb.reward_gap(self.target, self.process(T), self.reward, np.array(ETAS)[:, None]))


def measure(case: Case, largest: int, smallest: int, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Simulate the gap of every eta at every T of ``case``; all plotted numbers of the panel, and its fits.

    The number of pairs grows as gap^-2 up to ``largest`` at the last T, so that points are about equally far from 0 in
    standard errors. At each T all eta share x_T and their increments; another T is another seed, so that the points of
    one curve are independent.
    """
    if settings.quick:
        case = replace(case, times=case.times[:QUICK_POINTS])
    T, exact = case.times, case.gap(case.times)
    size = np.abs(exact).max(0)
    pairs = np.clip(largest * (size.min() / size) ** 2, smallest, largest).astype(int)
    seeds = [settings.seed_for(case.name, k) for k in range(T.size)]
    estimates = []
    for k, (final, n, seed) in enumerate(zip(T.tolist(), pairs.tolist(), seeds, strict=True)):
        shared = dict(n=n, seed=seed, sampler="exact", steps=STEPS, device=settings.device)
        estimates.append(gb.estimate_gap(case.target, case.process(final), case.reward, ETAS, **shared))
        progress(float(pairs[: k + 1].sum() / pairs.sum()))
    gap = np.stack([estimate.gap for estimate in estimates], axis=-1)
    error = np.stack([estimate.standard_error for estimate in estimates], axis=-1)
    interval = np.stack([estimate.interval for estimate in estimates], axis=-2)
    curve = np.geomspace(*case.limits, CURVE)
    return {
        "panel": case.name,
        "target": {"mean": case.mean, "variance": 0.5},
        "best": case.best,
        "T": T,
        "x": case.abscissa(T),
        "pairs": pairs,
        "seeds": seeds,
        "curve_T": curve,
        "curve_x": case.abscissa(curve),
        "leading": leading_term(case, T),
        "curve_leading": leading_term(case, curve),
        "series": [
            {
                "eta": eta,
                "gap": gap[i],
                "standard_error": error[i],
                "interval": interval[i],
                "in_range": np.abs(gap[i]) > MIN_Z * error[i],
                "closed_form": exact[i],
                "curve": case.gap(curve)[i],
            }
            for i, eta in enumerate(ETAS)
        ],
        "fits": [compare(case, eta, gap[i], error[i], exact[i]) for i, eta in enumerate(ETAS)],
    }


def compare(case: Case, eta: float, gap: Array, error: Array, exact: Array) -> dict[str, Any]:
    """Slope of the measured gaps, of the closed form over the same points and weights, and the exponent as T grows.

    In the log-linear scale of VP the slope is per unit of B = -log alpha_bar_T, minus the exponent of alpha_bar_T.
    """
    x = case.abscissa(case.times)
    fit = gb.fit_rate(x, gap, error, case.scale, min_z=MIN_Z)
    used = fit.used
    place = (np.log(x) if case.scale == "log-log" else x)[used]
    root_weight = np.exp(fit.intercept + fit.slope * place) / error[used]
    closed = float(np.polyfit(place, np.log(np.abs(exact[used])), 1, w=root_weight)[0])
    leading = rate(case.target, case.process(1.0), case.reward, eta)
    return {
        "panel": case.name,
        "eta": eta,
        "slope": fit.slope,
        "interval": fit.interval,
        "closed_form_slope": closed,
        "inside": bool(fit.interval[0] <= closed <= fit.interval[1]),
        "chi_square": float(((gap[used] - exact[used]) ** 2 / error[used] ** 2).sum()),
        "points": int(used.sum()),
        "x_range": fit.x_range,
        "exponent": asymptotic_slope(leading),
        "exponent_measured": far_slope(case, lambda T: gb.reward_gap(case.target, case.process(T), case.reward, eta)),
    }


def leading_term(case: Case, T: Array) -> Array:
    """What the gap tends to as T grows: constant times power, the same for every eta > 0."""
    leading = rate(case.target, case.process(1.0), case.reward)
    return leading(T if leading.variable == "T" else np.exp(-case.abscissa(T)))


def asymptotic_slope(leading: Rate) -> float:
    """Slope of the leading term in the coordinate of its figure: against log T (VE) or -log alpha_bar_T (VP)."""
    if leading.exponent is None:
        raise ValueError(f"{leading} has no rate to draw; choose another target or reward")
    return leading.exponent if leading.variable == "T" else -leading.exponent


def far_slope(case: Case, exact: Callable[[Any], Any]) -> float:
    """Slope of the exact curve between the two times of ``case.far``."""
    T = np.array(case.far)
    x = case.abscissa(T)
    rise = np.diff(np.log(np.abs(exact(T))))[0]
    return float(rise / np.diff(np.log(x) if case.scale == "log-log" else x)[0])


def draw_gaps(axes: Axes, panel: dict[str, Any]) -> None:
    """Closed form as lines, simulation as points with 95 % intervals; hollow points are not fitted.

    Where the gap is negative its opposite is drawn. A point of the wrong sign leaves the logarithmic axis below.
    """
    for series in panel["series"]:
        shape, sign = look(series["eta"]), np.sign(series["curve"][-1])
        axes.plot(panel["curve_x"], sign * np.array(series["curve"]), **shape.line, zorder=2)
        gap = sign * np.array(series["gap"])
        _points(axes, np.array(panel["x"]), gap, _half_width(series), series["in_range"], shape)


def draw_shares(axes: Axes, panel: dict[str, Any]) -> None:
    """The same as shares of the leading term; points of different eta are set apart sideways."""
    x, leading = np.array(panel["x"]), np.array(panel["leading"])
    for k, series in enumerate(panel["series"]):
        shape = look(series["eta"])
        axes.plot(panel["curve_x"], np.array(series["curve"]) / panel["curve_leading"], **shape.line, zorder=2)
        apart = (x[-1] / x[0]) ** (0.018 * (k - (len(panel["series"]) - 1) / 2))
        half_width = _half_width(series) / np.abs(leading)
        _points(axes, x * apart, np.array(series["gap"]) / leading, half_width, series["in_range"], shape)
    axes.axhline(1.0, **DASHED)


def draw_slopes(axes: Axes, *panels: Sequence[dict[str, Any]]) -> None:
    """Fitted slopes with 95 % intervals, the closed form's slope over the same points, and the asymptotic one.

    Each argument holds the fits of one panel; those of one eta stand side by side.
    """
    width = 0.7 / len(panels)
    for i, fits in enumerate(panels):
        for k, fit in enumerate(fits):
            at = k + width * (i - (len(panels) - 1) / 2)
            bar = [at - 0.45 * width, at + 0.45 * width]
            axes.plot(bar, [fit["closed_form_slope"]] * 2, color="black", linewidth=1.0, zorder=2)
            half_width = (fit["interval"][1] - fit["interval"][0]) / 2
            _points(axes, np.array([at]), np.array([fit["slope"]]), np.array([half_width]), [True], look(fit["eta"]))
    axes.axhline(panels[0][0]["exponent"], **DASHED)
    axes.set_xticks(range(len(panels[0])), [f"{fit['eta']:g}" for fit in panels[0]])
    axes.margins(x=0.06, y=0.1)
    axes.grid(False, axis="x")


def draw_guide(axes: Axes, x: Array, y: Array, label: str) -> None:
    """A dashed line of a known slope, with its name below its middle."""
    axes.plot(x, y, **DASHED)
    axes.annotate(
        label,
        (float(x[len(x) // 2]), float(y[len(x) // 2])),
        (-3, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=7,
        color="0.3",
    )


def draw_key(figure: Figure, panels: Sequence[dict[str, Any]]) -> Legend:
    """The legend of a rate figure, below it; hollow points are named where there are some."""
    entries = [*eta_handles(ETAS), *kind_handles(), Line2D([], [], **DASHED, label=r"$T \to \infty$")]
    if all(np.all(series["in_range"]) for panel in panels for series in panel["series"]):
        return shared_legend(figure, entries, loc="outside lower center")
    hollow = {"marker": "o", "markerfacecolor": "white", "color": "black", "linestyle": "none"}
    entries.append(Line2D([], [], **hollow, label=f"within {MIN_Z:g} standard errors of 0: not fitted"))
    return shared_legend(figure, entries, columns=5, loc="outside lower center")


def signed(text: str) -> str:
    """With minus signs in place of hyphens."""
    return text.replace("-", "\N{MINUS SIGN}")


def _half_width(series: dict[str, Any]) -> Array:
    return np.diff(np.array(series["interval"]), axis=-1)[:, 0] / 2


def _points(axes: Axes, x: Array, y: Array, half_width: Array, filled: Any, shape: Look) -> None:
    filled = np.array(filled)
    for chosen, face, edge in ((filled, shape.color, "white"), (~filled, "white", shape.color)):
        if chosen.any():
            axes.errorbar(
                x[chosen], y[chosen], half_width[chosen], **shape.points, markerfacecolor=face, markeredgecolor=edge,
                markeredgewidth=0.4 if edge == "white" else 0.7, elinewidth=0.9, zorder=3,
            )  # fmt: skip
