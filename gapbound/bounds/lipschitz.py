r"""One-sided Lipschitz profiles of exact scores, and the log-Sobolev constants that they give (theory B3).

kappa(tau) is the smallest eigenvalue of -Hess log q_tau over all points. With posterior p_k(z) of the components,

.. math:: -\nabla^2 \log q_\tau = E_p[(S_k + \tau)^{-1}] - \mathrm{Cov}_p[(S_k + \tau)^{-1} (z - m_k)].

- One Gaussian: 1 / (lambda_max + tau).
- d = 1: its infimum over z, on a grid that resolves every component and every hand-over between two of them.
- One common covariance S in d > 1, means in a ball of radius R: the second term is S_tau^-1 Cov_p(m) S_tau^-1, and no
  variance exceeds the square of half the range, so that with rho = R^2 / (lambda_min + tau) it is at least
  (1 - rho) / (lambda_max + tau) where rho <= 1, and (1 - rho) / (lambda_min + tau) elsewhere.
- Different covariances in d > 1: none may exist. Between N(0, diag(1, 2)) and N(0, diag(2, 1)) the posterior is even on
  z_1 = z_2, where the two pulls differ by |z| / 2 however far out: the covariance term is unbounded.

Where kappa > 0 the law q_tau is kappa-strongly log-concave and C_LS(q_tau) <= 1 / kappa (Bakry & Emery 1985).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gapbound._validate import Array
from gapbound.bounds.constants import Decay, has_one_covariance, knots
from gapbound.bounds.problem import KEPT, Problem
from gapbound.bounds.value import Constant
from gapbound.eta import Windows

LEVELS = 60  # noise levels of the table of kappa
REACH = 9.0
DIPS = 8  # of the curvature, looked at closely


@dataclass(frozen=True)
class Profile:
    r"""kappa(tau) with <grad log q_tau(x) - grad log q_tau(y), x - y> <= -kappa |x - y|^2, and K = int_0^tau kappa."""

    kappa: Callable[[Array], Array]
    integral: Callable[[Array], Array]
    kind: str
    source: str

    def contraction(self, eta: Array | Windows, tau: Array) -> Array:
        r"""``int_0^tau (1 + eta^2) / 2 kappa``: the log of what a synchronous coupling contracts by on its way to 0."""
        tau = np.asarray(tau, dtype=float)
        total = self.integral(tau) / 2
        windows = eta.windows if isinstance(eta, Windows) else ((0.0, math.inf, float(eta)),)
        for low, high, value in windows:
            start, end = np.minimum(low**2, tau), np.minimum(high**2 if high < 1e150 else math.inf, tau)
            total = total + value**2 / 2 * (self.integral(end) - self.integral(start))
        return total


@lru_cache(maxsize=KEPT)
def profile(problem: Problem) -> Profile:
    """The profile of the exact score.

    Raises:
        ValueError: components of different covariances in d > 1.
    """
    smallest, largest = problem.variance_range
    if problem.single:
        return Profile(
            lambda tau: 1 / (largest + tau),
            lambda tau: np.log1p(np.asarray(tau) / largest),
            "closed form",
            "1 / (lambda_max + tau) for N(., S)",
        )
    if problem.dim == 1:
        return _tabulated(
            _kappa_on_the_line(problem), smallest, problem.sigma_T, "infimum of -(log q_tau)'' over the line"
        )
    if not has_one_covariance(problem):
        raise ValueError(
            "the score of a mixture with different covariances in d > 1 need not be one-sided Lipschitz; use one "
            "common covariance, chi_square or total_variation"
        )
    radius = enclosing_radius(problem.components.mean)

    def kappa(tau: Array) -> Array:
        rho = radius**2 / (smallest + tau)
        return (1 - rho) / np.where(rho <= 1, largest + tau, smallest + tau)

    return _tabulated(kappa, smallest, problem.sigma_T, f"means in a ball of radius {radius:.4g}, one covariance")


def log_sobolev(problem: Problem) -> tuple[Constant, Decay] | None:
    """C_LS <= 1 / kappa where q_tau is log-concave, which the KL divergence decays with; None if it nowhere is."""
    try:
        kappa = profile(problem).kappa
    except ValueError:
        return None
    taus = knots(problem)
    values = kappa(taus)
    with np.errstate(divide="ignore"):
        upper = np.where(values > 0, 1 / np.where(values > 0, values, 1.0), np.inf)
    offsets = np.minimum.accumulate(upper - taus)
    if not np.isfinite(offsets).any():
        return None
    first = int(np.isfinite(upper).argmax())
    name = "C_LS(p*)" if first == 0 else f"C_LS(q_tau) at tau = {taus[first]:.4g}"
    kind = "closed form" if problem.single else "cited upper bound"
    constant = Constant(
        name, float(upper[first]), kind, "1 / kappa for a kappa-strongly log-concave law (Bakry & Emery 1985)"
    )
    return constant, Decay(tuple(np.sqrt(taus).tolist()), tuple(offsets.tolist()))


def enclosing_radius(points: Array) -> float:
    """Radius of a ball that holds ``points`` (K, d), nearly the smallest: a hundred steps to the farthest point."""
    centre = points.mean(0)
    best = math.inf
    for step in range(1, 101):
        distance = np.linalg.norm(points - centre, axis=-1)
        best = min(best, float(distance.max()))
        centre = centre + (points[distance.argmax()] - centre) / (step + 1)
    return best


def _tabulated(kappa: Callable[[Any], Array], floor: float, sigma_T: float, source: str) -> Profile:
    """K by a cubic spline of kappa over log(floor + tau), lowered by what half the table changes."""
    from scipy.interpolate import CubicSpline  # a quarter of a second to load

    top = math.log1p(sigma_T**2 / floor)
    theta = np.linspace(0, top, 2 * LEVELS + 1)
    slope = kappa(floor * np.expm1(theta)) * floor * np.exp(theta)
    full, half = CubicSpline(theta, slope).antiderivative(), CubicSpline(theta[::2], slope[::2]).antiderivative()
    error = np.maximum.accumulate(np.abs(full(theta) - half(theta)))

    def integral(tau: Array) -> Array:
        at = np.log1p(np.asarray(tau, dtype=float) / floor)
        return full(at) - np.interp(at, theta, error)

    return Profile(kappa, integral, "numerical", source)


def _kappa_on_the_line(problem: Problem) -> Callable[[Array], Array]:
    mean, variance = problem.components.mean[:, 0], problem.components.variances[:, 0]
    log_w = np.log(problem.weights)

    def curvature(z: Array, v: Array) -> Array:
        z, v = z[..., None], v[:, None, :]
        joint = log_w - np.log(v) / 2 - (z - mean) ** 2 / (2 * v)
        share = np.exp(joint - joint.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        pull = (mean - z) / v
        average = (share * pull).sum(-1, keepdims=True)
        return (share / v).sum(-1) - (share * (pull - average) ** 2).sum(-1)

    def kappa(tau: Array) -> Array:
        v = variance + np.reshape(tau, (-1, 1))  # (taus, K)
        z = np.sort(np.concatenate([_around(mean, np.sqrt(v)), _hand_overs(log_w, mean, v)], axis=-1))
        lowest = _lowest(curvature(z, v))
        ends = (np.take_along_axis(z, np.clip(lowest + side, 0, z.shape[-1] - 1), -1) for side in (-2, 2))
        low, high = (end[..., None] for end in ends)
        closer = low + (high - low) * np.linspace(0, 1, 41)  # (taus, dips, points)
        rows, dips, _ = closer.shape
        flat = _minimum(curvature(closer.reshape(rows * dips, -1), np.repeat(v, dips, axis=0)))
        return flat.reshape(rows, dips).min(-1).reshape(np.shape(tau))

    return kappa


def _lowest(values: Array) -> Array:
    """Where the lowest dips of curves on a coarse grid are, shape (taus, DIPS): any may hold the deepest point.

    Points that are no dip count as infinitely high.
    """
    beside = np.pad(values, ((0, 0), (1, 1)), constant_values=np.inf)
    dip = (values <= beside[:, :-2]) & (values <= beside[:, 2:])
    return np.asarray(np.argsort(np.where(dip, values, np.inf), axis=-1)[:, :DIPS])


def _around(mean: Array, sd: Array) -> Array:
    """Points around every component, shape (taus, n)."""
    return (mean[:, None] + sd[..., None] * np.linspace(-REACH, REACH, 145)).reshape(len(sd), -1)


def _hand_overs(log_w: Array, mean: Array, v: Array) -> Array:
    """Points around every place where two components are equally likely, as fine as the hand-over is sharp."""
    places = [np.empty((len(v), 0))]
    for j, k in itertools.combinations(range(len(mean)), 2):
        a = (1 / v[:, k] - 1 / v[:, j]) / 2  # log of the ratio of the two: a z^2 + b z + c
        b = mean[j] / v[:, j] - mean[k] / v[:, k]
        c = log_w[j] - log_w[k] - (np.log(v[:, j] / v[:, k]) + mean[j] ** 2 / v[:, j] - mean[k] ** 2 / v[:, k]) / 2
        steepness = np.sqrt(np.maximum(b**2 - 4 * a * c, 0.0))  # slope of that ratio at either root
        larger = -(b + np.where(b < 0, -1.0, 1.0) * steepness) / 2
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            roots = np.stack([larger / a, c / larger], axis=-1)
            width = np.minimum(1 / steepness, np.sqrt(v.min(-1)))
        roots = np.where(np.isfinite(roots) & (np.abs(roots) < 1e150), roots, mean[j])
        near = roots[..., None] + width[:, None, None] * np.linspace(-6, 6, 49)
        places.append(near.reshape(len(v), -1))
    return np.concatenate(places, axis=-1)


def _minimum(values: Array) -> Array:
    """Minima of resolved curves (last axis), lowered by a quarter of the rise to their neighbours: below the truth.

    Between two points a parabola sinks below the lower one by at most that.
    """
    at = values.argmin(-1)[:, None]
    nearby = np.clip(at + np.arange(-2, 3), 0, values.shape[-1] - 1)
    lowest = np.take_along_axis(values, at, -1)[:, 0]
    return lowest - (np.take_along_axis(values, nearby, -1).max(-1) - lowest) / 4
