r"""How far the prior N(0, s^2 I) is from q_T: chi^2, KL, TV, Fisher information and W2.

Gaussians in closed form in the eigenbasis; d = 1 mixtures by quadrature (``gapbound.bounds.line``); mixtures in d > 1
by upper bounds that inequalities give. Those, with N_k the components of q_T and w_k their weights, all in units of s:

- **chi^2, first form.** For any lambda_k >= 0 of sum 1, Cauchy-Schwarz gives 1/q <= sum_k lambda_k^2 / (w_k N_k); the
  best lambda makes 1 + chi^2(pi || q) <= 1 / sum_k w_k / (1 + chi^2(pi || N_k)): one component with a finite chi^2 is
  enough.
- **chi^2, second form.** With g the Gaussian of q's mean and covariance, 1/q = 2/g - q/g^2 + (q - g)^2 / (g^2 q), so

  .. math:: \chi^2 \le 2 \int \frac{\pi^2}{g} - \int \frac{\pi^2 q}{g^2} - 1
      + \Big( \sum_k \frac{w_k}{R_k} \Big)^{-1}, \qquad R_k = \int \frac{\pi^2 (q - g)^2}{g^2 N_k},

  sums of Gaussian integrals, of second order in q - g: right to first order at large sigma_T, where the first form
  counts the spread of the means as if it were an error of the mean.
- **KL** <= sum_k w_k KL(pi || N_k) by convexity, and <= log(1 + chi^2).
- **Fisher.** E_q|grad(pi/q)|^2 <= sum_k w_k int pi^2 N_k / q^2 |score_pi - score_k|^2, and
  1/q^2 <= sum_j lambda_j^3 / (w_j N_j)^2 for any lambda of sum 1, as x^-2 is convex.
- **W2**^2 <= sum_k w_k W2(pi, N_k)^2 by convexity; and W2(pi, q) <= W2(pi, g) + W2(g, q) with Talagrand's inequality
  W2(g, q)^2 <= 2 lambda_max(g) KL(q || g), KL <= log(1 + chi^2(q || g)), a sum of Gaussian integrals again.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from gapbound._validate import Array
from gapbound.bounds.line import Line, Mismatch, mismatch, w2
from gapbound.bounds.problem import KEPT, Problem
from gapbound.bounds.value import SMALLEST, Constant, exp_above
from gapbound.gaussian import rotate, transposed

MANY = 12  # components beyond which the second form, of order K^3, is left out
ROUNDING = 1e-12
FLOOR = 1e-15  # per dimension, of the logarithm of a Gaussian integral


@lru_cache(maxsize=KEPT)
def chi2(problem: Problem) -> Constant:
    """chi^2(prior || q_T).

    Raises:
        ValueError: it is infinite, or no finite bound of it is known.
    """
    name = "chi^2(prior || q_T)"
    if problem.single:
        x, t, _ = _relative(problem)
        if x.max() >= 1:
            raise ValueError(_infinite(1 + float(x.max())))
        return Constant.from_log(name, log_expm1(_log_ratio(x, t)), "closed form", "Gaussians")
    if problem.dim == 1:
        line = as_line(problem)
        if not line.tail_is_light:
            raise ValueError(_infinite(float(1 / (1 + line.e.max()))))
        return _from_line(problem, "chi2", name)
    value = _sums(problem).chi2
    if not math.isfinite(value):
        raise ValueError(
            "no finite bound on chi^2(prior || q_T) is known: it needs a component whose noised covariance exceeds "
            "half the prior's in every direction; use total_variation or wasserstein, or a larger T"
        )
    return Constant(name, value, "cited upper bound", "Cauchy-Schwarz over the components (gapbound.bounds.mismatch)")


def kl(problem: Problem) -> Constant:
    """KL(prior || q_T), in nats."""
    name = "KL(prior || q_T)"
    if problem.single:
        x, t, _ = _relative(problem)
        return Constant(name, float((_log_excess(x) + t**2).sum() / 2), "closed form", "Gaussians")
    if problem.dim == 1:
        return _from_line(problem, "kl", name)
    sums = _sums(problem)
    return Constant(name, min(sums.kl, math.log1p(sums.chi2)), "cited upper bound", "convexity over the components")


def tv(problem: Problem) -> Constant:
    """Total variation sup_A |prior(A) - q_T(A)|: exact in d = 1, else through both KL and chi^2."""
    name = "TV(prior, q_T)"
    if problem.dim == 1:
        return _from_line(problem, "tv", name)
    values = [tv_of_kl(kl(problem).value)]
    if problem.single:
        _, t, e = _relative(problem)
        shift = t**2 * (1 + e)  # mean^2 over the prior's variance
        values.append(tv_of_kl(float((_log_excess(e) + shift).sum() / 2)))
    with contextlib.suppress(ValueError):
        values.append(exp_above(chi2(problem).logarithm / 2) / 2)
    source = "Pinsker, Bretagnolle-Huber: min(sqrt(KL/2), sqrt(1 - exp(-KL)), sqrt(chi^2)/2)"
    return Constant(name, min(values), "cited upper bound", source)


def tv_of_kl(kl: float) -> float:
    """The smaller of Pinsker's bound sqrt(KL/2) and Bretagnolle and Huber's sqrt(1 - exp(-KL))."""
    return min(math.sqrt(kl / 2), math.sqrt(-math.expm1(-kl)))


def fisher(problem: Problem) -> Constant:
    """s^2 I_T, I_T = E_{q_T}|grad(prior / q_T)|^2 and s the prior's standard deviation: a pure number.

    Raises:
        ValueError: it is infinite, or no finite bound of it is known (as for ``chi2``).
    """
    name = "s^2 I_T"
    chi2(problem)  # the same condition
    if problem.single:
        x, t, e = _relative(problem)
        each = (x**2 / (1 - x**2) + t**2 / (1 - x) ** 2) / (1 + e)
        with np.errstate(divide="ignore"):
            log = _log_ratio(x, t) + float(np.log(each.sum()))
        return Constant.from_log(name, log, "closed form", "Gaussians")
    if problem.dim == 1:
        return _from_line(problem, "fisher", name)
    value = _sums(problem).fisher
    if not math.isfinite(value):
        raise ValueError("no finite bound on the Fisher information of prior / q_T is known; use a larger T")
    return Constant(name, value, "cited upper bound", "Cauchy-Schwarz over the components (gapbound.bounds.mismatch)")


def information(problem: Problem) -> Constant:
    """s^2 E_prior|grad log(prior / q_T)|^2 for d = 1: finite for any prior."""
    return _from_line(problem, "information", "s^2 I(prior | q_T)")


def wasserstein(problem: Problem) -> Constant:
    """W2(prior, q_T)."""
    name, s = "W2(prior, q_T)", problem.prior_sd
    mu, e, _ = _standardised(problem)
    each = (mu**2 + (e / (1 + np.sqrt(1 + e))) ** 2).sum(-1)
    convex = math.sqrt(float((problem.weights * each).sum()))
    if problem.single:
        return Constant(name, convex * s, "closed form", "Gaussians")
    if problem.dim == 1:
        value, error = w2(as_line(problem))
        if value < convex:
            return Constant(name, value * s, "numerical", "quadrature over the monotone map", error * s)
        return Constant(name, convex * s, "cited upper bound", "convexity over the components")
    return Constant(name, min(convex, _sums(problem).w2) * s, "cited upper bound", "convexity, Talagrand's inequality")


def as_line(problem: Problem) -> Line:
    """The d = 1 problem in units of the prior."""
    mu, e, _ = _standardised(problem)
    return Line(problem.weights, mu[:, 0], e[:, 0])


@lru_cache(maxsize=KEPT)
def _on_the_line(problem: Problem) -> Mismatch:
    return mismatch(as_line(problem))


def _from_line(problem: Problem, key: str, name: str) -> Constant:
    """A divergence of a mixture on the line, whose error is relative where it is known by its logarithm."""
    found = _on_the_line(problem)
    if key in ("chi2", "fisher"):
        log = found.log_chi2 if key == "chi2" else found.log_fisher
        error = exp_above(log) * found.error[key] if found.error[key] else 0.0
        return Constant.from_log(name, log, "numerical", "quadrature", error)
    return Constant(name, getattr(found, key), "numerical", "quadrature", found.error[key])


def _standardised(problem: Problem) -> tuple[Array, Array, Array | None]:
    """mu = m / s and e = (eigenvalues - excess) / s^2 in each component's eigenbasis, shape (K, d), and the bases."""
    eigenvalues, basis = problem.components.spectrum
    s = problem.prior_sd
    return rotate(transposed(basis), problem.components.mean) / s, (eigenvalues - problem.excess) / s / s, basis


def _relative(problem: Problem) -> tuple[Array, Array, Array]:
    """For one Gaussian, per eigendirection: the prior's variance over q_T's less 1, m over q_T's sd, and e."""
    mu, e, _ = _standardised(problem)
    return -e[0] / (1 + e[0]), mu[0] / np.sqrt(1 + e[0]), e[0]


def _log_ratio(x: Array, t: Array) -> float:
    """log(1 + chi^2) of two Gaussians."""
    return float((t**2 / (1 - x) - np.log1p(-(x**2)) / 2).sum())


def log_expm1(exponent: float) -> float:
    """log(exp(a) - 1) for a >= 0; -inf at 0."""
    return exponent + math.log(-math.expm1(-exponent)) if exponent > 0 else -math.inf


def _log_excess(x: Array) -> Array:
    """x - log(1 + x), by its series where the two nearly cancel."""
    series = x**2 * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x * (1 / 5 - x * (1 / 6 - x / 7)))))
    return np.where(np.abs(x) < 1e-3, series, x - np.log1p(x))


def _expm1(exponent: float) -> float:
    return math.expm1(exponent) if exponent < 700 else math.inf


def _infinite(ratio: float) -> str:
    return (
        f"chi^2(prior || q_T) is infinite: the prior's variance is {ratio:.4g} times that of q_T's widest component, "
        "and must stay below 2 times; use a larger T, total_variation or wasserstein"
    )


@dataclass(frozen=True)
class _Sums:
    """Gaussian integrals of a mixture in d > 1, in units of s, by natural parameters (precision, vector, constant)."""

    weights: Array
    means: Array  # (K, d)
    excess: Array  # (K, d, d): covariances less I

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    @cached_property
    def pieces(self) -> list[tuple[Array, Array, float]]:
        """Natural parameters of the components."""
        return [_natural(m, np.eye(self.dim) + e) for m, e in zip(self.means, self.excess, strict=True)]

    @cached_property
    def moments(self) -> tuple[Array, Array]:
        mean = self.weights @ self.means
        away = self.means - mean
        return mean, np.tensordot(self.weights, self.excess, 1) + (self.weights[:, None] * away).T @ away

    @property
    def prior(self) -> tuple[Array, Array, float]:
        return np.eye(self.dim), np.zeros(self.dim), 0.0

    @cached_property
    def chi2(self) -> float:
        against = [_expm1(_log_integral((2.0, self.prior), (-1.0, piece))) for piece in self.pieces]
        finite = [math.isfinite(c) for c in against]
        kept = sum(w / (1 + c) for w, c in zip(self.weights, against, strict=True))
        # 1 / kept - 1, whose numerator 1 - kept is a sum of its own where it is small
        lost = sum(w * (c / (1 + c) if f else 1.0) for w, c, f in zip(self.weights, against, finite, strict=True))
        first = (max(lost, 0.0) + 4 * FLOOR * self.dim) / kept if any(finite) else math.inf
        return min(first, self._second_form()) if len(self.weights) <= MANY else first

    def _second_form(self) -> float:
        mean, excess = self.moments
        g = _natural(mean, np.eye(self.dim) + excess)
        prior, w = (2.0, self.prior), self.weights
        over_g = _expm1(_log_integral(prior, (-1.0, g)))
        mixed = [_expm1(_log_integral(prior, (-2.0, g), (1.0, piece))) for piece in self.pieces]
        if not all(map(math.isfinite, (over_g, *mixed))):
            return math.inf
        leading = 2 * over_g - float(w @ np.array(mixed))
        inverse = 0.0
        for w_k, piece in zip(w, self.pieces, strict=True):
            rest = self._rest(g, piece)
            inverse += w_k / rest if rest > 0 else math.inf
        return (
            max(leading, 0.0)
            + (1 / inverse if inverse else math.inf)
            + ROUNDING * (2 * abs(over_g) + float(w @ np.abs(mixed)))
            + 8 * FLOOR * self.dim
        )

    def _rest(self, g: tuple[Array, Array, float], below: tuple[Array, Array, float]) -> float:
        """int pi^2 (q - g)^2 / (g^2 below), with its rounding added; inf where a term diverges."""
        prior, under = (2.0, self.prior), (-1.0, below)
        terms = [_expm1(_log_integral(prior, under))]
        for j, (w_j, N_j) in enumerate(zip(self.weights, self.pieces, strict=True)):
            terms.append(-2 * w_j * _expm1(_log_integral(prior, under, (-1.0, g), (1.0, N_j))))
            for w_l, N_l in zip(self.weights[: j + 1], self.pieces[: j + 1], strict=True):
                twice = 1 if N_l is N_j else 2
                terms.append(twice * w_j * w_l * _expm1(_log_integral(prior, under, (-2.0, g), (1.0, N_j), (1.0, N_l))))
        if not all(map(math.isfinite, terms)):
            return math.inf
        return max(math.fsum(terms), 0.0) + ROUNDING * sum(map(abs, terms))

    @cached_property
    def kl(self) -> float:
        total = 0.0
        for w, mean, excess in zip(self.weights, self.means, self.excess, strict=True):
            e, basis = np.linalg.eigh(excess)
            x = -e / (1 + e)
            total += w * float((_log_excess(x) + (basis.T @ mean) ** 2 / (1 + e)).sum()) / 2
        return total

    @cached_property
    def fisher(self) -> float:
        inverse = 0.0
        for w_j, N_j in zip(self.weights, self.pieces, strict=True):
            J = sum(
                w_k * _with_square((2.0, self.prior), (1.0, N_k), (-2.0, N_j), linear=N_k)
                for w_k, N_k in zip(self.weights, self.pieces, strict=True)
            )
            inverse += w_j / math.sqrt(max(J, SMALLEST))
        return inverse**-2 if inverse else math.inf

    @cached_property
    def w2(self) -> float:
        mean, excess = self.moments
        e = np.linalg.eigvalsh(excess)
        to_g = math.sqrt(float((mean**2).sum() + ((e / (1 + np.sqrt(1 + e))) ** 2).sum()))
        g = _natural(mean, np.eye(self.dim) + excess)
        total = 0.0
        for w_j, N_j in zip(self.weights, self.pieces, strict=True):
            for w_k, N_k in zip(self.weights, self.pieces, strict=True):
                total += w_j * w_k * _expm1(_log_integral((1.0, N_j), (1.0, N_k), (-1.0, g)))
        total = max(total, 0.0) + ROUNDING
        return to_g + math.sqrt(2 * (1 + float(e.max())) * math.log1p(total))


@lru_cache(maxsize=KEPT)
def _sums(problem: Problem) -> _Sums:
    s = problem.prior_sd
    excess = (problem.components.matrix - problem.excess * np.eye(problem.dim)) / s / s
    return _Sums(problem.weights, problem.components.mean / s, excess)


Natural = tuple[Array, Array, float]


def _natural(mean: Array, cov: Array) -> Natural:
    """Precision P, vector P m, and the constant: log density = -x'Px/2 + (P m)'x + constant, less d/2 log 2 pi."""
    P = np.linalg.inv(cov)
    P = (P + P.T) / 2
    return P, P @ mean, -(float(mean @ P @ mean) + float(np.linalg.slogdet(cov)[1])) / 2


def _product(*factors: tuple[float, Natural]) -> tuple[Array, Array, float]:
    return (
        sum((power * P for power, (P, _, _) in factors), np.zeros(())),
        sum((power * h for power, (_, h, _) in factors), np.zeros(())),
        sum(power * c for power, (_, _, c) in factors),
    )


def _log_integral(*factors: tuple[float, Natural]) -> float:
    """log int of a product of Gaussian densities to powers that sum to 1; inf where it diverges."""
    P, h, c = _product(*factors)
    eigenvalues, basis = np.linalg.eigh(P)
    if eigenvalues.min() <= 0:
        return math.inf
    along = basis.T @ h
    return float(c + (along**2 / eigenvalues - np.log(eigenvalues)).sum() / 2)


def _with_square(*factors: tuple[float, Natural], linear: Natural) -> float:
    """The same integral of the product times |score of the prior - score of ``linear``|^2."""
    exponent = _log_integral(*factors)
    if not exponent < 700:
        return math.inf
    P, h, _ = _product(*factors)
    slope, offset, _ = linear
    cov = np.linalg.inv(P)
    tilt = slope - np.eye(len(slope))
    shift = tilt @ (cov @ h) - offset
    return math.exp(exponent) * float(shift @ shift + np.trace(tilt @ cov @ tilt.T))
