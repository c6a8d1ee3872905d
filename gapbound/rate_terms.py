"""How ``rate`` reads the leading term from the sympy terms of ``symbolic``; loaded by its first call, as sympy is."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import sympy as sp

from gapbound import symbolic
from gapbound._validate import Array, shown
from gapbound.eta import Eta, Windows, checked, segments
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.process import VE, VP, FlowMatching, Process
from gapbound.rate import Rate
from gapbound.reward import Linear, Quadratic, Reward

TOLERANCE = 1e-12  # a sum below this share of the sum of its absolute terms is taken for an exact cancellation
SAME_EXPONENT = 1e-9
SAME_VARIANCE = 1e-10  # far above TOLERANCE: otherwise nearly equal directions could cancel at one order only
MAX_ORDER = 8  # of each family's expansion
LARGEST_ETA = 1e6  # up to it exponents of neighbouring orders differ by far more than rounding

_KINDS: tuple[tuple[type[Process], str], ...] = ((VE, "VE"), (VP, "VP"), (FlowMatching, "flow"))


def leading_term(
    target: Gaussian, process: Process | type[Process], reward: Reward, eta: Eta, eta_ref: Eta, of: str
) -> Rate:
    """See ``gapbound.rate.rate``, the door to this."""
    kind = _kind(process)
    samplers = [(1.0, eta, "eta")]
    if of == "gap":
        samplers = [(1.0, eta_ref, "eta_ref"), (-1.0, eta, "eta")]
    variance, atoms = _atoms(kind, *_checked_problem(target, reward))
    streams = _streams(atoms, [(sign, *_profile(value, name, variance)) for sign, value, name in samplers])
    if not streams:
        return Rate(None, 0.0, symbolic.KINDS[kind].variable, of)
    return _leading(kind, of, variance, streams)


def _leading(kind: str, of: str, variance: Array, streams: list[_Stream]) -> Rate:
    """The first term that does not cancel, with the exponent of the second."""
    variable, sign = symbolic.KINDS[kind].variable, symbolic.KINDS[kind].sign
    terms = _terms(kind, variance, streams)
    exponent, constant = next(terms, (math.nan, math.nan))
    if math.isnan(exponent):
        raise ValueError(
            f"the first {MAX_ORDER} orders of the {of} cancel to {TOLERANCE:g} of their terms; "
            "perturb the target or compute reward_gap"
        )
    if not math.isfinite(constant):
        raise ValueError(
            f"the constant of {variable}^{sign * exponent:.4g} leaves the range of floats, at variances from "
            f"{variance.min():g} to {variance.max():g}; rescale the data"
        )
    following, _ = next(terms, (None, 0.0))
    return Rate(sign * exponent, constant, variable, of, None if following is None else sign * following)


def _kind(process: Any) -> str:
    cls = process if isinstance(process, type) else type(process)
    for known, kind in _KINDS:
        if issubclass(cls, known):
            return kind
    raise TypeError(f"process must be VE, VP or FlowMatching, the class or an instance, got {shown(process)}")


def _checked_problem(target: Any, reward: Any) -> tuple[Gaussian, Quadratic | Linear]:
    if not isinstance(target, Gaussian):
        raise TypeError(f"rate needs a Gaussian target, got {type(target).__name__}; fit_rate measures any other")
    if target.batch_shape:
        raise ValueError(f"rate takes one target, got batch shape {target.batch_shape}; call it once for each")
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"rate needs a Quadratic or Linear reward, got {shown(reward)}; fit_rate measures any other")
    return target, reward


class _Sized(NamedTuple):
    """Numbers with the sums of absolute terms they came from, of the same shape."""

    value: Array
    scale: Array


def _atoms(kind: str, target: Gaussian, reward: Quadratic | Linear) -> tuple[Array, dict[str, _Sized]]:
    """Distinct variances and the families' atoms, summed over directions of equal variance."""
    variance, basis = target.spectrum
    mean, dim = target.mean, target.dim
    matrix, c, b, _ = reward.quadratic_form(dim)
    matrix = matrix * np.eye(dim) if np.ndim(matrix) == 0 else matrix
    gradient = b - 2 * matrix @ (mean - c)
    sizes = [np.abs(matrix), np.abs(b) + 2 * np.abs(matrix) @ (np.abs(mean) + np.abs(c)), np.abs(mean)]
    if basis is not None:  # rounding of the rotation is relative to the length of a vector, not to its entries
        sizes = [np.full(size.shape, np.linalg.norm(size, 2)) for size in sizes]
        matrix = transposed(basis) @ matrix @ basis
        gradient, mean = rotate(transposed(basis), gradient), rotate(transposed(basis), mean)
    groups = _groups(variance, 0.0 if basis is None else variance.max())
    atoms = {}
    for name, (_, factors, _) in symbolic.families(kind).items():
        value_of, scale_of = _atom_functions(kind, name)
        value = value_of(*_directions(factors, variance, matrix, gradient, -mean))
        scale = scale_of(*_directions(factors, variance, *sizes))
        atoms[name] = _Sized(_summed(value, groups), _summed(scale, groups))
    return groups @ variance / groups.sum(-1), atoms


def _directions(factors: int, v: Array, A: Array, g: Array, delta: Array) -> tuple[Array, ...]:
    """Arguments of an atom, for every direction or every pair of them."""
    if factors == 1:
        return np.diagonal(A), g, delta, delta, np.ones_like(v), v
    return A, g[:, None], delta[:, None], delta[None, :], np.eye(v.size), v[:, None]


def _groups(variance: Array, largest: float) -> Array:
    """Indicator matrix (groups, d) of directions whose variances agree to rounding."""
    order = np.argsort(variance)
    ordered = variance[order]
    new = np.diff(ordered) > SAME_VARIANCE * np.maximum(ordered[1:], largest)
    label = np.empty(variance.size, dtype=int)
    label[order] = np.concatenate([[0], np.cumsum(new)])
    return (label == np.arange(label.max() + 1)[:, None]).astype(float)


def _summed(values: Array, groups: Array) -> Array:
    return groups @ values if values.ndim == 1 else groups @ values @ groups.T


def _profile(eta: Eta, name: str, variance: Array) -> tuple[float, Array]:
    """Half power of rho at large sigma, and what the windows below multiply each Phi by."""
    eta = checked(eta, name)
    if not isinstance(eta, Windows) and eta.ndim:
        raise ValueError(f"rate takes one {name}, got an array of shape {eta.shape}; call it once for each")
    *below, (_, _, (top,)) = segments(eta)
    if float(top) > LARGEST_ETA:
        raise ValueError(
            f"{name} must be at most {LARGEST_ETA:g} in a rate, got {float(top):g}: the exponents of neighbouring "
            "orders would be one floating-point number; the error falls faster than any power that matters"
        )
    log_factor = np.zeros_like(variance)
    for low, high, (value,) in below:
        window = _log_window()
        log_factor += window(variance, low, high, float(value)) - window(variance, low, high, float(top))
    return float(symbolic.HALF_POWER.subs(symbolic.eta, float(top))), np.exp(log_factor)


class _Stream(NamedTuple):
    """Atoms of the samplers that share the half power."""

    power: float
    atoms: dict[str, _Sized]


def _streams(atoms: dict[str, _Sized], samplers: list[tuple[float, float, Array]]) -> list[_Stream]:
    """The atoms of each half power, exact cancellations taken out; empty if nothing is left."""
    totals: dict[float, dict[str, _Sized]] = {}
    for sign, power, factor in samplers:
        known = next((q for q in totals if abs(q - power) <= TOLERANCE * power), power)
        total = totals.setdefault(
            known, {name: _Sized(*(np.zeros_like(part) for part in atom)) for name, atom in atoms.items()}
        )
        for name, atom in atoms.items():
            weight = factor if atom.value.ndim == 1 else np.outer(factor, factor)
            total[name] = _Sized(
                total[name].value + sign * weight * atom.value, total[name].scale + weight * atom.scale
            )
    streams = []
    for power, total in totals.items():
        left = {name: atom.value * (np.abs(atom.value) > TOLERANCE * atom.scale) for name, atom in total.items()}
        kept = {name: _Sized(value, total[name].scale * (value != 0)) for name, value in left.items() if value.any()}
        if kept:
            streams.append(_Stream(power, kept))
    return streams


def _terms(kind: str, variance: Array, streams: list[_Stream]) -> Iterator[tuple[float, float]]:
    """``(exponent of y, coefficient)`` in rising order, without what cancels; NaN for what no float holds."""
    families = symbolic.families(kind)
    n, _ = symbolic.surviving(kind)
    queue = [
        (symbolic.family_exponent(kind, *families[name][1:], 0, stream.power), index, name, 0)
        for index, stream in enumerate(streams)
        for name in stream.atoms
    ]
    heapq.heapify(queue)
    while queue[0][3] <= MAX_ORDER:
        lowest, total, scale = queue[0][0], 0.0, 0.0
        while queue[0][0] <= lowest + SAME_EXPONENT:
            exponent, index, name, order = heapq.heappop(queue)
            if order <= MAX_ORDER:
                value, size = _coefficient(kind, variance, streams[index], name, order)
                total, scale = total + value, scale + size
            heapq.heappush(queue, (exponent + n, index, name, order + 1))
        if not math.isfinite(scale):
            yield lowest, math.nan
        elif abs(total) > TOLERANCE * scale:
            yield lowest, total


def _coefficient(kind: str, variance: Array, stream: _Stream, name: str, order: int) -> tuple[float, float]:
    """One term's coefficient, and the sum of its absolute terms: NaN if it underflows."""
    atom, factors = stream.atoms[name], symbolic.families(kind)[name][1]
    directions = (variance, variance) if factors == 1 else (variance[:, None], variance[None, :])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        value, scale = (
            float(np.sum(part * function(*directions, stream.power)))
            for part, function in zip(atom, _product_functions(kind, factors, order), strict=True)
        )
    if order == 0 and scale < np.finfo(float).tiny:
        return value, math.nan
    return value, scale


@cache
def _atom_functions(kind: str, name: str) -> tuple[Callable[..., Any], ...]:
    """An atom as a function of A, g, delta, delta_w, same, v, and the sum of its absolute monomials."""
    s = symbolic
    monomials = sp.Add.make_args(sp.expand(s.families(kind)[name][0]))
    return _with_scale((s.A, s.g, s.delta, s.delta_w, s.same, s.v), monomials)


@cache
def _product_functions(kind: str, factors: int, order: int) -> tuple[Callable[..., Any], ...]:
    """Coefficient of one order of Phi(v) or Phi(v) Phi(w), as a function of v, w, p, and the sum of absolute terms."""
    return _with_scale((symbolic.v, symbolic.w, symbolic.p), symbolic.family_products(kind, factors, order))


def _with_scale(arguments: tuple[Any, ...], summands: tuple[Any, ...]) -> tuple[Callable[..., Any], ...]:
    return tuple(sp.lambdify(arguments, total, "numpy") for total in (sum(summands), sum(map(sp.Abs, summands))))


@cache
def _log_window() -> Callable[..., Any]:
    """Log of what a window multiplies Phi by, as a function of v, sigma_a, sigma_b, eta."""
    s = symbolic
    logarithm = sp.expand_log(sp.log(s.window_factor()))
    return sp.lambdify((s.v, s.sigma_a, s.sigma_b, s.eta), logarithm, "numpy")
