r"""Exact signal and noise of the policy gradient, step by step: how stochasticity trades them.

The gradient estimated from one path is (r(Y_0) - E r) grad log p(step). Its mean is the exact gradient; its variance
follows from Gaussian moments, because Y_0, the step's start z_k and its noise xi_k are jointly Gaussian under an affine
policy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gapbound._door import door
from gapbound._validate import Array, broadcastable, non_negative, positive
from gapbound.training.path import path
from gapbound.training.policy import AffinePolicy, Consistent
from gapbound.training.task import Task, checked_task

NODES = 6  # Gauss-Hermite per axis: exact for the moments of degree 8 that occur


@dataclass(frozen=True, eq=False)
class GradientMoments:
    r"""Mean and variance of one path's policy gradient; shapes (N, \*batch), 0 at steps without a density.

    Attributes:
        offset_mean: of d/d offset_k.
        offset_variance: its variance over paths.
        gain_mean: of d/d gain_k.
        gain_variance: its variance over paths.
        correlation: of Y_0 with the step's noise xi_k.
    """

    offset_mean: Array
    offset_variance: Array
    gain_mean: Array
    gain_variance: Array
    correlation: Array

    @property
    def offset_signal(self) -> Array:
        """Squared signal-to-noise of one path, mean^2 / variance; 0 where the step has no density."""
        return _ratio(self.offset_mean**2, self.offset_variance)

    @property
    def gain_signal(self) -> Array:
        """The same for the gain."""
        return _ratio(self.gain_mean**2, self.gain_variance)


@door()
def gradient_moments(task: Task, policy: AffinePolicy) -> GradientMoments:
    r"""Exact moments of the score-function gradient with the baseline E r, per step, for affine policies.

    A change of eps_k by delta moves the step's mean by -drop delta, so grad log p = -(drop / std) xi (1, z_k). With
    Y_0 = mu + s (c xi + d u + e zeta), z_k = m_k + s_k u and P_k what a deviation after step k leaves at the end,

    .. math:: c = std_k P_{k+1} / s, \qquad d = P_k s_k / s, \qquad c^2 + d^2 + e^2 = 1.

    Raises:
        ValueError: the moments leave the range of float64.
        TypeError: a reference or reward without closed forms, no task.
    """
    a, centre, b, _ = checked_task(task).quadratic_form()
    walk = task.walk()
    if not hasattr(policy, "affine"):
        raise TypeError(f"policy must be affine, Consistent or PerStep, got {type(policy).__name__}")
    with torch.no_grad():
        model = policy.affine(walk.sigma)
        law = path(walk, model)
        A = 1 - walk.drop * model.gain
        left = torch.cat([A.flip(0).cumprod(0).flip(0), torch.ones_like(A[:1])])  # P_k
    mean, variance, P, std, drop = (x.numpy() for x in (law.mean, law.variance, left, walk.std, walk.drop))
    s = np.sqrt(variance[-1])
    c, d = std * P[1:] / s, P[:-1] * np.sqrt(variance[:-1]) / s
    e = np.sqrt(np.maximum(1 - c**2 - d**2, 0.0))  # a difference that is 0 for the last noise may round below it
    weight = np.where(std > 0, -drop / np.where(std > 0, std, 1.0), 0.0)
    slope = b - 2 * a * (mean[-1] - centre)
    first, second = np.zeros((2, *c.shape)), np.zeros((2, *c.shape))
    for (xi, u, zeta), share in _cubature():
        deviation = s * (c * xi + d * u + e * zeta)
        excess = slope * deviation - a * (deviation**2 - s**2)
        for row, lever in enumerate((1.0, mean[:-1] + np.sqrt(variance[:-1]) * u)):
            g = weight * excess * xi * lever
            first[row] += share * g
            second[row] += share * g**2
    return GradientMoments(first[0], second[0] - first[0] ** 2, first[1], second[1] - first[1] ** 2, c)


@door()
def mean_signal(task: Task) -> tuple[Array, Array]:
    r"""Mean and variance of one path's gradient for the mean of the consistent family, shapes \*batch.

    grad log p of the path is S = sum_k w_k xi_k, w = drop gain / std, with variance I, the Fisher information. With
    C = corr(Y_0, S), s^2 = Var Y_0 and slope = b - 2 a (E Y_0 - c),

    .. math:: E g = \text{slope} \, s C \sqrt I, \qquad
        E g^2 = I \, [\text{slope}^2 s^2 (1 + 2 C^2) + a^2 s^4 (2 + 8 C^2)].

    E g leaves out what a deterministic last step passes on directly: policy gradients do not see it.

    Raises:
        TypeError: a reference or reward without closed forms, no task.
    """
    a, centre, b, _ = checked_task(task).quadratic_form()
    walk, model = task.walk(), Consistent.of(task).affine(task.walk().sigma)
    law, moments = path(walk, model), gradient_moments(task, Consistent.of(task))
    w = _score_weights(task)
    information = (w**2).sum(0)
    s2 = law.variance[-1].numpy()
    C = (moments.correlation * w).sum(0) / np.sqrt(information)
    slope = b - 2 * a * (law.mean[-1].numpy() - centre)
    mean = slope * np.sqrt(s2 * information) * C
    square = information * (slope**2 * s2 * (1 + 2 * C**2) + a**2 * s2**2 * (2 + 8 * C**2))
    return mean, square - mean**2


@door()
def fisher_information(task: Task) -> Array:
    r"""Fisher information of the path about the consistent family's mean, steps with a density: sum_k w_k^2.

    .. math:: w = \frac{drop \, \sigma}{(v + \sigma^2) \, std}, \qquad \sum_k w_k^2 \to
        \frac{(1 + \eta^2)^2}{4 \eta^2} \Big(\frac1v - \frac1{v + \sigma_T^2}\Big)

    Raises:
        TypeError: no task, or a reference that is not one Gaussian.
    """
    checked_task(task)
    return (_score_weights(task) ** 2).sum(0)


@door()
def fisher_limit(variance: Any, sigma_T: Any, eta: Any) -> Array:
    r"""The limit of ``fisher_information`` for small steps: (1+eta^2)^2/(4 eta^2) (1/v - 1/(v + sigma_T^2)).

    Raises:
        ValueError: an argument is not positive, shapes do not broadcast, or the limit leaves the range of float64.
        TypeError: something that is no number.
    """
    v, sigma, e = positive("variance", variance), positive("sigma_T", sigma_T), positive("eta", eta)
    broadcastable("variance, sigma_T and eta", v.shape, sigma.shape, e.shape)
    return ((e + 1 / e) / 2) ** 2 / (1 + (np.sqrt(v) / sigma) ** 2) / v


@door()
def signal_share(variance: Any, sigma: Any, sigma_next: Any, eta: Any) -> Array:
    r"""The part of Var Y_0 that one step's noise explains, for N(m, v) and exact-marginal kernels.

    .. math:: \operatorname{corr}(Y_0, \xi_k)^2 = a^x (1 - q^x), \qquad x = \eta^2, \quad a = v / v_s, \quad
        q = v_s / v_t, \quad v_s = v + \sigma'^2, \quad v_t = v + \sigma^2

    The shares of all steps telescope to 1 - rho^x, rho = v / (v + sigma_T^2): more stochasticity, more signal in all.
    For a linear reward one path's squared signal-to-noise at the step is share / (1 + share).

    Raises:
        ValueError: v is not positive, levels are negative or do not fall, shapes do not broadcast.
        TypeError: something that is no number.
    """
    log_a, log_q, e = _log_ratios(variance, sigma, sigma_next, eta)
    return np.exp(e**2 * log_a) * -np.expm1(e**2 * log_q)


@door()
def best_eta(variance: Any, sigma: Any, sigma_next: Any) -> Array:
    r"""The eta at which a step's ``signal_share`` is largest: eta^2 = log(log(a q) / log a) / (-log q).

    Noise spent early is forgotten later at the rate eta^2 too, so all but the last step have an interior optimum.

    Raises:
        ValueError: sigma_next = 0: the last step's share grows with eta for ever; v is not positive, levels are
            negative or do not fall, shapes do not broadcast; levels so small beside v that nothing is forgotten.
        TypeError: something that is no number.
    """
    log_a, log_q, _ = _log_ratios(variance, sigma, sigma_next, 1.0)
    if not (non_negative("sigma_next", sigma_next) > 0).all():
        raise ValueError("a last step to sigma = 0 has no best eta: its share grows with eta; leave it out")
    return np.sqrt(np.log1p(log_q / log_a) / -log_q)


def _score_weights(task: Task) -> Array:
    walk = task.walk()
    gain, std = Consistent.of(task).affine(walk.sigma).gain.numpy(), walk.std.numpy()
    return np.where(std > 0, walk.drop.numpy() * gain / np.where(std > 0, std, 1.0), 0.0)


def _log_ratios(variance: Any, sigma: Any, sigma_next: Any, eta: Any) -> tuple[Array, Array, Array]:
    """Log a = log(v / v_s), log q = log(v_s / v_t) and eta, without a difference of nearly equal numbers."""
    v, high, low = positive("variance", variance), positive("sigma", sigma), non_negative("sigma_next", sigma_next)
    e = non_negative("eta", eta)
    broadcastable("variance, sigma, sigma_next and eta", v.shape, high.shape, low.shape, e.shape)
    if not (low < high).all():
        raise ValueError(f"noise levels must fall, got sigma={sigma} and sigma_next={sigma_next}")
    sd = np.sqrt(v)
    below, above = np.hypot(sd, low), np.hypot(sd, high)
    log_a = np.where(low < sd, -np.log1p((np.minimum(low, sd) / sd) ** 2), 2 * np.log(sd / below))
    lost = ((high - low) / above) * ((high + low) / above)  # 1 - q
    log_q = np.where(lost < 0.5, np.log1p(-np.minimum(lost, 0.5)), 2 * np.log(below / above))
    return log_a, log_q, e


def _cubature() -> list[tuple[tuple[float, ...], float]]:
    """Nodes and weights of a product Gauss-Hermite rule in three standard normal variables."""
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    w = w / w.sum()
    points, weights = itertools.product(x, repeat=3), itertools.product(w, repeat=3)
    return [(tuple(map(float, p)), float(np.prod(q))) for p, q in zip(points, weights, strict=True)]


def _ratio(signal: Array, noise: Array) -> Array:
    return np.where(noise > 0, signal / np.where(noise > 0, noise, 1.0), 0.0)
