r"""What KL-regularised RL on an eta-sampler converges to: on a Gaussian again an affine score.

Paths of the reference sampler are reweighted by exp(r(Y_0) / beta), the prior stays as it is. With
h(z, tau) = E[exp(r(Y_0) / beta) | Y_tau = z] the optimal score is

.. math:: s^* = \nabla \log q_\tau + k \, \nabla \log h, \qquad k = \frac{2 \eta^2}{1 + \eta^2}.

For N(mu, S) and r = -(x - c)' A (x - c) + b'x + const, with H = 2A / beta and g = (b - 2A (mu - c)) / beta,

.. math:: Y_0 | z \sim N(\mu + \varphi (z - \mu), C), \qquad
    \varphi = \Big(\frac{S}{S + \tau}\Big)^{1/2} e^{-D/2}, \quad C = S (1 - e^{-D}), \quad
    D = \int_0^\tau \frac{\eta^2 \, d\tau'}{S + \tau'},

.. math:: \nabla \log h = \varphi (I + H C)^{-1} (g - H \varphi (z - \mu)).

As sigma_T grows, the SDE tends to the tilted target at every eta > 0, but s* is the score of a diffused law, that of
the target, at eta = 1 alone: for every other eta > 0 the ODE that reuses it ends elsewhere than the SDE even from
sigma_T = inf. From a finite sigma_T the two differ at eta = 1 too, by the bias of the start. Where eta = 0 nothing can
be learnt, and s* is the reference score.

Reference: Adjoint Matching (Domingo-Enrich et al., 2024), https://arxiv.org/abs/2409.08861, Theorem 1, on why a prior
that stays as it is biases the optimum.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, non_negative, positive, shown
from gapbound.affine import AffineScore
from gapbound.eta import Eta, Windows, checked, eta_below, segments, squared_integral
from gapbound.exponent import Exponent, diag, left_over, over_dimensions
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.law import log_contraction, noise_range
from gapbound.process import Process
from gapbound.reward import Linear, Quadratic

FORGOTTEN = 32.0  # digits of exp(-D) to be gone at the noise that stands for sigma_T = inf: the ODE feels its root
SLOWEST = 1 / 3  # eta below which that noise is not a floating-point number
ALIVE = 100.0  # D beyond which the control is not there to rounding
SMOOTH = 3.0  # change of D within one panel that its nodes resolve to rounding


def _optional_eta(name: str, value: Any) -> Array | Windows | None:
    return None if value is None else checked(value, name)


@dataclass(frozen=True, eq=False)
class RLOptimum(AffineScore):
    """The optimal score; see ``rl_optimum``.

    Attributes:
        reference: N(mu, S), untrained.
        exponent: the reward over beta.
        eta: stochasticity that it was trained at.
        reward: it was trained for.
        beta: its temperature.
        process: start and prior of the sampler that was trained.
    """

    reference: Gaussian
    exponent: Exponent
    eta: Array | Windows
    reward: Quadratic | Linear
    beta: Array
    process: Process

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.reference.dim

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the batch of the reference, beta and eta."""
        trained = () if isinstance(self.eta, Windows) else self.eta.shape
        return np.broadcast_shapes(self.reference.batch_shape, self.exponent.slope.shape[:-1], trained)

    @property
    def is_diagonal(self) -> bool:
        """Whether the coordinates do not interact."""
        return self.reference.is_diagonal and self.exponent.is_diagonal

    @property
    @door()
    def variance_range(self) -> tuple[float, float]:
        """From the noise at which the reward is first felt, to one far below that at which the start is forgotten."""
        lam, top = self.reference.spectrum[0], self._eta_at_infinity()
        slow = float(top[top > 0].min()) if (top > 0).any() else 1.0
        digits = max(0.0, min(FORGOTTEN / slow**2, 290.0) - 40.0)  # beyond the 40 that any model is given
        return self._felt(0.0), float(lam.max()) * 10**digits

    @property
    @door(infinite=True)
    def pure_noise_mean(self) -> Array:
        """What the denoiser returns at sigma = inf: mu, moved where eta = 1 there, and infinite for eta in (0, 1).

        The control then grows without bound, and chains from sigma = inf are refused, as all that diverge.
        """
        top, lam = self._eta_at_infinity(), self.reference.spectrum[0]
        low = self.eta.windows[-1][0] if isinstance(self.eta, Windows) and top > 0 else 0.0
        scale = np.sqrt(lam * (lam + low**2)) * np.exp(-squared_integral(over_dimensions(self.eta), 0.0, low, lam) / 2)
        pull = np.where(top[..., None] == 1, scale * self.exponent.damped(lam)[1], 0.0)  # tau phi (I + H C)^-1 g
        moved = self.reference.mean + rotate(self.reference.spectrum[1], pull)
        return np.where(((top > 0) & (top < 1))[..., None], np.inf, moved)

    @door(sigma=non_negative)
    def gain(self, sigma: Any) -> Array:
        """(S + tau)^-1 + k phi (I + H C)^-1 H phi."""
        tau = np.asarray(sigma, dtype=float)[..., None] ** 2
        return self._placed(1 / (self.reference.spectrum[0] + tau), self.strength(sigma), self.control(sigma)[0])

    @door(sigma=non_negative)
    def kept(self, sigma: Any) -> Array:
        """S (S + tau)^-1 - tau k phi (I + H C)^-1 H phi: nothing is subtracted from 1."""
        tau, lam = np.asarray(sigma, dtype=float)[..., None] ** 2, self.reference.spectrum[0]
        return self._placed(lam / (lam + tau), -tau * self.strength(sigma), self.control(sigma)[0])

    @door(sigma=non_negative)
    def offset(self, sigma: Any) -> Array:
        """G mu + k phi (I + H C)^-1 g."""
        gain, mean = self.gain(sigma), self.reference.mean
        pull = rotate(self.reference.spectrum[1], self.strength(sigma) * self.control(sigma)[1])
        return (gain * mean if self.is_diagonal else rotate(gain, mean)) + pull

    @door(sigma=non_negative)
    def learnt(self, sigma: Any) -> tuple[Array, Array]:
        """``(gain, offset)`` of s* less the reference's score, formed without that difference."""
        strength, (gain, pull) = self.strength(sigma), self.control(sigma)
        gain = self._placed(np.zeros(self.dim), strength, gain)
        offset = rotate(self.reference.spectrum[1], strength * pull)
        mean = self.reference.mean
        return gain, offset + (gain * mean if self.is_diagonal else rotate(gain, mean))

    @door(sigma=non_negative, eta=_optional_eta)
    def control(self, sigma: Any, eta: Array | Windows | None = None) -> tuple[Array, Array]:
        r"""``(K, f)`` of grad log h = f - K (z - mu) on the eigenbasis of S, for ``eta`` in place of the model's own.

        Raises:
            ValueError: h is infinite at this noise level (above the sigma_T that the optimum was built for).
        """
        eta = self.eta if eta is None else eta
        lam, sigma = self.reference.spectrum[0], np.asarray(sigma, dtype=float)[..., None]
        phi, left = np.exp(log_contraction(lam, np.zeros(()), sigma, eta)), left_over(lam, sigma, eta)
        if self.exponent.extremes[1] and not (self.exponent.lowest(left) > -1).all():
            raise ValueError(
                f"E[exp(r / beta)] is infinite from sigma={float(sigma.max()):g}; this optimum exists up to the "
                "sigma_T of the process that rl_optimum was given"
            )
        gain, pull = self.exponent.damped(left)
        return (gain * phi**2 if self.exponent.is_diagonal else phi[..., None] * gain * phi[..., None, :]), phi * pull

    @door(sigma=non_negative)
    def strength(self, sigma: Any) -> Array:
        """The k of a sampler that steps down from sigma (a window includes its upper edge); last axis 1."""
        square = eta_below(self.eta, np.asarray(sigma, dtype=float))[..., None] ** 2
        return 2 * square / (1 + square)

    @cached_property
    @door()
    def cuts(self) -> Windows:
        """Windows of eta 0 whose edges are where the score jumps or bends; exact laws are integrated between them."""
        edges = {0.0, math.inf}
        for low, high, (value,) in segments(self.eta):
            edges.add(low)
            if np.any(value):
                edges |= {edge for edge in self._bends(low, high, float(np.max(value))) if low < edge < high}
        return Windows([(low, high, 0.0) for low, high in itertools.pairwise(sorted(edges))])

    def diagonalised(self) -> tuple[AffineScore, Array | None]:
        """The model on the eigenbasis of S, if the reward is diagonal there."""
        lam, basis = self.reference.spectrum
        if basis is None or not self.exponent.is_diagonal:
            return self, None
        return replace(self, reference=trusted(rotate(transposed(basis), self.reference.mean), lam, event=1)), basis

    def _eta_at_infinity(self) -> Array:
        if not isinstance(self.eta, Windows):
            return self.eta
        return np.array(segments(self.eta)[-1][2][0], dtype=float)

    def _placed(self, own: Array, strength: Array, control: Array) -> Array:
        """own + strength * control, from the eigenbasis of S back to the coordinates."""
        basis = self.reference.spectrum[1]
        if self.exponent.is_diagonal:
            values = own + strength * control
            return values if basis is None else (basis * values[..., None, :]) @ transposed(basis)
        matrix = diag(own) + strength[..., None] * control
        return matrix if basis is None else basis @ matrix @ transposed(basis)

    def _felt(self, low: float) -> float:
        """Extra noise above ``low`` at which positive curvature is felt: S at most; where 1 + H C = 0 below it."""
        lam, curvature = self.reference.spectrum[0], self.exponent.extremes[0]
        steep = max(float(np.max(value)) for _, _, (value,) in segments(self.eta)) ** 2
        if not curvature or not steep:
            return float(lam.min())
        share = -np.expm1(-np.log1p(1 / (curvature * lam)) / steep)
        return float(np.minimum(lam, (lam + low**2) * share).min())

    def _bends(self, low: float, high: float, eta: float) -> list[float]:
        """Levels within one window between which 16 nodes are enough: from its foot, evenly in D, towards a pole."""
        lam, foot, negative = self.reference.spectrum[0], self._felt(low), self.exponent.extremes[1]
        smallest, largest = float(lam.min()), float(lam.max())
        taus = [low**2 + foot * 2.0**j for j in range(60) if foot * 2.0**j < smallest + low**2]
        for v in {smallest, largest}:
            if eta**2 > SMOOTH:
                evenly = np.arange(1, math.ceil(ALIVE / SMOOTH)) * SMOOTH / eta**2
                taus += [(v + low**2) * math.exp(step) - v for step in evenly]
            if negative * v > 1:
                before = float(np.min(squared_integral(self.eta, 0.0, low, v)))
                ahead = (-math.log1p(-1 / (negative * v)) - before) / eta**2
                if 0 < ahead < 300:
                    pole = (v + low**2) * math.exp(ahead) - v
                    taus += [pole - (pole - low**2) * 2.0**-j for j in range(1, 40)]
        return [math.sqrt(tau) for tau in taus if low**2 < tau < 1e300]


@door()
def rl_optimum(
    reference: Gaussian, reward: Quadratic | Linear, beta: Any, process: Process, eta: Eta = 1.0
) -> RLOptimum:
    r"""The score that KL-regularised RL on the eta-sampler converges to, accepted wherever a target is.

    It maximises E r(Y_0) - beta KL(paths || reference paths) over all drifts while the prior stays; see the module.
    ``terminal_law(optimum, process, eta)`` is what the trained sampler draws, ``terminal_law(optimum, process, 0.0)``
    what the ODE makes of the same network, ``reward_gap(optimum, process, reward, eta)`` their difference. As sigma_T
    grows the first tends to ``tilt(reference, reward, beta)``, with an error of order rho^(eta^2) in the mean,
    rho = v / (v + sigma_T^2). With one fixed stochastic window and the ODE outside it never does.

    Laws are accurate to about 1e-11.

    Args:
        reference: Gaussian, any batch.
        reward: ``Quadratic`` (A of any sign and any principal axes) or ``Linear``.
        beta: temperature, positive; an array broadcasts with the batch.
        process: VE, VP or FlowMatching: whether the optimum exists depends on its sigma_T, nothing else does.
        eta: stochasticity of training: a number, an array that broadcasts with the batch, or ``Windows``.

    Raises:
        ValueError: beta is not positive, shapes do not fit, E[exp(r / beta)] is infinite from sigma_T (says from which
            beta on it is not), or eta is in (0, 1/3) at sigma_T = inf.
        TypeError: another reward or reference.
    """
    if not isinstance(reference, Gaussian):
        raise TypeError(f"reference must be a Gaussian, got {type(reference).__name__}; line_optimum takes a mixture")
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"only Quadratic and Linear rewards have an affine optimum, got {shown(reward)}")
    beta, eta, sigma_T = positive("beta", beta), checked(eta), noise_range(process)[1]
    trained = () if isinstance(eta, Windows) else eta.shape
    shapes = reference.batch_shape, beta.shape, trained, np.shape(process.T)
    broadcastable("the batches of the reference, beta, eta and T", *shapes)
    optimum = RLOptimum(reference, Exponent.of(reference, reward, beta), eta, reward, beta, process)
    lowest = optimum.exponent.lowest(left_over(reference.spectrum[0], sigma_T, eta))
    if not (lowest > -1).all():
        needed, met = np.broadcast_arrays(-lowest * beta, beta)
        worst = np.unravel_index(int(np.argmin(lowest)), lowest.shape)
        raise ValueError(
            "the optimum does not exist: E[exp(r / beta)] is infinite from every start; beta must be above "
            f"{float(needed[worst]):g}, got {float(met[worst]):g}"
        )
    top = optimum._eta_at_infinity()
    slow = (top > 0) & (top < SLOWEST)
    if np.isinf(sigma_T).any() and slow.any():
        raise ValueError(
            f"at eta={top[slow].min():g} the bias of the start falls too slowly, like sigma_T^(-eta^2), for "
            "sigma_T = inf to be reached in floating point; use eta of at least 1/3 there, or t_max < 1"
        )
    return optimum


@door()
def optimum_law(
    reference: Gaussian, reward: Quadratic | Linear, beta: Any, process: Process, eta: Eta = 1.0
) -> Gaussian:
    r"""What the trained sampler draws, in closed form: given its start Y_0 is tilted, and the start is the prior's.

    .. math:: Y_0 \sim N\big(\mu - W \varphi_T \mu + C_* g, \; C_* + s^2 W \varphi_T^2 W^\top\big), \qquad
        C_* = (C_T^{-1} + H)^{-1}, \quad W = I - C_* H = (I + C_T H)^{-1},

    s^2 being the prior's variance in z. The same as ``terminal_law(rl_optimum(...), process, eta)``, by another route.

    Args:
        reference: as all the others, see ``rl_optimum``.
        reward: ``Quadratic`` or ``Linear``.
        beta: temperature.
        process: the start and its prior.
        eta: stochasticity of training.

    Raises:
        ValueError: see ``rl_optimum``.
        TypeError: see ``rl_optimum``.
    """
    optimum, sigma_T = rl_optimum(reference, reward, beta, process, eta), noise_range(process)[1]
    (lam, basis), form = reference.spectrum, optimum.exponent
    mean, left = rotate(transposed(basis), reference.mean), left_over(lam, sigma_T, optimum.eta)
    phi = np.exp(log_contraction(lam, np.zeros(()), sigma_T, optimum.eta))
    with np.errstate(divide="ignore", over="ignore"):  # phi sigma_T stays, where the ODE runs down from inf
        from_noise = np.exp(-squared_integral(over_dimensions(optimum.eta), 0.0, sigma_T, lam) / 2) / np.hypot(
            1 / np.sqrt(lam), 1 / sigma_T
        )
    excess = np.where(np.isinf(sigma_T), 0.0, np.asarray(process.prior_excess)[..., None])
    spread = from_noise**2 + phi**2 * excess  # phi^2 s^2
    if form.is_diagonal:
        keeps = 1 / (1 + form.curvature * left)
        centre, cov = mean - keeps * phi * mean + keeps * left * form.slope, keeps * left + keeps**2 * spread
        if basis is None:
            return trusted(centre, cov, event=1)
        return trusted(rotate(basis, centre), (basis * cov[..., None, :]) @ transposed(basis), event=2)
    root = np.sqrt(left)
    inner = np.eye(reference.dim) + root[..., None] * form.curvature * root[..., None, :]
    tilted = root[..., None] * np.linalg.solve(inner, diag(root))
    keeps = np.eye(reference.dim) - tilted @ form.curvature
    centre = mean - rotate(keeps, phi * mean) + rotate(tilted, form.slope)
    cov = tilted + (keeps * spread[..., None, :]) @ transposed(keeps)
    cov = (cov + transposed(cov)) / 2
    return trusted(rotate(basis, centre), cov if basis is None else basis @ cov @ transposed(basis), event=2)
