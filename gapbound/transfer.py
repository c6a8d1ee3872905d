r"""Restoring the tilted target: what to multiply the learnt part of a score by when an ODE samples it.

The ODE that reuses the optimum of training at eta over- or under-tilts. The reference score is at hand, so the ODE can
run on

.. math:: \text{score}_{ref} + w(\sigma) \, (s^* - \text{score}_{ref}), \qquad
    w = \frac{1 + \eta^2}{2 \eta^2} \, \frac{\nabla \log h_1}{\nabla \log h_\eta},

which is the optimum of eta = 1: the score of the tilted law, noised. For N(mu, S) and a linear reward w is free of the
reward, of beta and of z (phi: see ``gapbound.optimum``),

.. math:: w = \frac{1 + \eta^2}{2 \eta^2} \varphi_1 \varphi_\eta^{-1}
    = \frac{1 + \eta^2}{2 \eta^2} \Big(\frac{S + \tau}{S}\Big)^{(\eta^2 - 1)/2} \text{ for constant } \eta.

For a quadratic reward the ratio depends on z and has a pole where the learnt part vanishes; a gain and an offset do,

.. math:: \text{score}_{ref} + W (s^* - \text{score}_{ref}) + o, \quad
    W = \frac{1 + \eta^2}{2 \eta^2} \varphi_1 (I + H C_1)^{-1} X (I + H C_\eta) \varphi_\eta^{-1}, \quad
    X H \varphi_\eta = H \varphi_1, \quad
    o = \varphi_1 (I + H C_1)^{-1} (I - X) g.

The ODE then draws exactly what the tilted target's ODE draws. The SDE that was trained draws that too only where the
start is forgotten, rho^(eta^2) << 1 with rho = S / (S + sigma_T^2): elsewhere the trained SDE falls short of the
target, and restoring it can take the ODE further from what was trained. ``transfer_gap`` gives both gaps,
``transferred`` warns where the gap to the trained SDE grows, and ``gapbound.reuse`` says exactly where that is.

Beware of eta > 1: there w grows like sigma^(eta^2 - 1), and whatever error the network makes at high noise with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, finite, flag, positive
from gapbound.affine import AffineScore
from gapbound.eta import Eta, Windows, checked, eta_below
from gapbound.exponent import diag, left_over
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.law import log_contraction
from gapbound.optimum import RLOptimum
from gapbound.reuse import TransferGap, transfer_gap_of, warn_where_it_widens

LARGEST_SIGMA = 1e100


@door()
def transfer_weight(reference: Any, sigma: Any, eta: Eta, cap: float | None = None) -> Array:
    r"""w(sigma): trained at eta, to be sampled by an ODE; see the module.

    Restores the tilted target exactly for a Gaussian and a linear reward, whatever its direction and beta. For other
    references a variance is a guess: its square root is the noise level beyond which w departs from
    (1 + eta^2) / (2 eta^2).

    Whether the ODE then earns more nearly what the trained SDE earns depends on sigma_T, which this function does not
    know: ask ``transfer_gap`` first, with ``rl_optimum(Gaussian(0.0, variance), Linear(1.0), 1.0, process, eta)``.

    Args:
        reference: Gaussian, or a variance (a positive number or array).
        sigma: noise levels, at least 0; axes broadcast with the batch (with the array of variances).
        eta: stochasticity of training, positive at every ``sigma``: a number, an array, or ``Windows``.
        cap: largest w to return, where given: what is cut off there is not transferred.

    Returns:
        Weights, shape of the broadcast variances and sigma; for a Gaussian one per coordinate, shape (\*batch, d), or a
        matrix (\*batch, d, d) where its covariance is full.

    Raises:
        ValueError: eta is 0 at a noise level (nothing was learnt there, and no multiple of nothing helps), sigma is
            negative or above 1e100, a variance or the cap is not positive.
        TypeError: something that is not a number.
    """
    profile, level = checked(eta), _levels(sigma)
    limit = np.inf if cap is None else float(_one(positive("cap", cap)))
    if isinstance(reference, Gaussian):
        lam, basis = reference.spectrum
        broadcastable("sigma, eta and the batch", level.shape, reference.batch_shape, _shape(profile))
        values = np.minimum(_weight(lam, level, profile), limit)
        return values if basis is None else (basis * values[..., None, :]) @ transposed(basis)
    variance = positive("reference", reference)
    broadcastable("sigma, eta and the variances", level.shape, variance.shape, _shape(profile))
    return np.minimum(_weight(variance[..., None], level, profile)[..., 0], limit)


@dataclass(frozen=True, eq=False)
class Correction:
    r"""``score_ref + gain (s* - score_ref) + offset``.

    Attributes:
        gain: W, shape (\*batch, d) for a diagonal optimum, else (\*batch, d, d).
        offset: o, shape (\*batch, d).
    """

    gain: Array
    offset: Array


@door()
def transfer_correction(optimum: RLOptimum, sigma: Any) -> Correction:
    r"""Gain and offset that turn the optimum of eta into that of eta = 1, for quadratic rewards too; see the module.

    Args:
        optimum: from ``rl_optimum``.
        sigma: noise levels; axes broadcast with the batch.

    Raises:
        ValueError: eta is 0 at a noise level, sigma is negative or above 1e100, or A is singular along axes that it
            does not share with the covariance (the learnt part then lacks what eta = 1 would have learnt), or eta = 1
            has no optimum.
        TypeError: another optimum.
    """
    _check_optimum(optimum)
    level = _levels(sigma)
    lam, basis = optimum.reference.spectrum
    form, one = optimum.exponent, np.ones(())
    inverse_k, ratio = _inverse_strength(level, optimum.eta), _ratio(lam, level, optimum.eta)
    phi_1 = np.exp(log_contraction(lam, np.zeros(()), level[..., None], one))
    left_1, left = (left_over(lam, level[..., None], eta) for eta in (one, optimum.eta))
    if form.extremes[1] and not (form.lowest(left_1) > -1).all():
        raise ValueError(
            f"at eta=1 E[exp(r / beta)] is infinite from sigma={float(level.max()):g}: there is no optimum of eta=1 to "
            "transfer to; use a larger beta"
        )
    if form.is_diagonal:
        X = np.where(form.curvature == 0, 1.0, ratio)  # where H = 0 the gain alone will do
        damp = 1 / (1 + form.curvature * left_1)
        gain = inverse_k * damp * X * (1 + form.curvature * left) * ratio
        return _in_coordinates(optimum, gain, phi_1 * damp * (1 - X) * form.slope, basis)
    H, eye = form.curvature, np.eye(optimum.dim)
    sizes = np.abs(np.linalg.eigvalsh(H))
    if not (sizes.min(-1) > 1e-12 * sizes.max(-1)).all():
        raise ValueError(
            "A is singular and does not share the principal axes of the covariance: the learnt score does not contain "
            "what eta=1 would have learnt; a transfer needs an invertible A or common axes"
        )
    X = transposed(np.linalg.solve(H, ratio[..., :, None] * H))  # X H = H phi_1 phi^-1, and H is symmetric
    system, phi = eye + H * left_1[..., None, :], phi_1 / ratio
    gain = np.linalg.solve(system, X @ (eye + H * left[..., None, :])) / phi[..., None, :]
    missing = (form.slope - rotate(X, form.slope))[..., None]
    gain, offset = (inverse_k * phi_1)[..., None] * gain, phi_1 * np.linalg.solve(system, missing)[..., 0]
    return _in_coordinates(optimum, gain, offset, basis)


@door()
def transfer_pole(optimum: RLOptimum, sigma: Any) -> Array:
    r"""Where the learnt part of a one-dimensional optimum vanishes, and no multiple of it is what eta = 1 needs.

    .. math:: z = \mu + \frac{g}{H \varphi_\eta}

    Args:
        optimum: from ``rl_optimum``, d = 1, a ``Quadratic`` reward with A other than 0.
        sigma: noise levels; axes broadcast with the batch.

    Returns:
        z, shape of the broadcast.

    Raises:
        ValueError: d > 1, a linear reward (there is no pole), eta is 0 at a noise level, sigma out of range.
        TypeError: another optimum.
    """
    _check_optimum(optimum)
    level = _levels(sigma)
    if optimum.dim != 1 or not optimum.exponent.extremes > (0.0, 0.0):
        raise ValueError(
            f"a pole needs d = 1 and a quadratic reward, got d = {optimum.dim} and A of extremes "
            f"{optimum.exponent.extremes}; transfer_weight has none"
        )
    _inverse_strength(level, optimum.eta)  # refuses eta = 0
    gain, pull = optimum.control(level)
    return (optimum.reference.mean + pull / gain)[..., 0]


@dataclass(frozen=True, eq=False)
class Transferred(AffineScore):
    """The corrected score of an ODE; see ``transferred``."""

    optimum: RLOptimum
    variance: Array | None
    cap: float | None
    affine: bool

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.optimum.dim

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the optimum."""
        return self.optimum.batch_shape

    @property
    def is_diagonal(self) -> bool:
        """That of the optimum."""
        return self.optimum.is_diagonal

    @property
    def variance_range(self) -> tuple[float, float]:
        """That of the optimum, and the guessed variance."""
        low, high = self.optimum.variance_range
        guess = low if self.variance is None else float(self.variance)
        return min(low, guess), max(high, guess)

    @property
    def cuts(self) -> Windows:
        """Those of the optimum."""
        return self.optimum.cuts

    @property
    def pure_noise_mean(self) -> Array:
        """Infinite: a weight has no limit at sigma = inf, and chains from there are refused, as all that diverge."""
        return np.full(self.dim, np.inf)

    def gain(self, sigma: Any) -> Array:
        """G_ref + W (G* - G_ref)."""
        own, gain = self.optimum.reference.gain(sigma), self._correction(sigma).gain
        own = own if self.is_diagonal or not self.optimum.reference.is_diagonal else diag(own)
        learnt = self.optimum.learnt(sigma)[0]
        return own + (gain * learnt if self.is_diagonal else gain @ learnt)

    def offset(self, sigma: Any) -> Array:
        """o_ref + W (o* - o_ref) + o."""
        learnt, correction = self.optimum.learnt(sigma)[1], self._correction(sigma)
        gained = correction.gain * learnt if self.is_diagonal else rotate(correction.gain, learnt)
        return self.optimum.reference.offset(sigma) + gained + correction.offset

    def _correction(self, sigma: Any) -> Correction:
        if self.affine:
            return transfer_correction(self.optimum, sigma)
        guess = self.optimum.reference if self.variance is None else self.variance
        weight = transfer_weight(guess, sigma, self.optimum.eta, self.cap)
        if self.variance is not None:
            weight = weight[..., None] * np.ones(self.dim)
            weight = weight if self.is_diagonal else diag(weight)
        elif self.optimum.reference.is_diagonal and not self.is_diagonal:
            weight = diag(weight)
        return Correction(weight, np.zeros(self.dim))


@door()
def transferred(
    optimum: RLOptimum, *, variance: Any = None, cap: float | None = None, affine: bool = False
) -> Transferred:
    r"""The score that an ODE should run on, accepted wherever a target is.

    ``terminal_law(transferred(optimum), process, 0.0)`` is what it then draws: what the ODE of the tilted target draws,
    where the correction is exact. It warns where that is further from what the trained SDE earns than the plain optimum
    is (in at most 32 interacting dimensions, where the laws cost little); see ``transfer_gap``.

    Args:
        optimum: from ``rl_optimum``, of an eta that is positive at every noise level.
        variance: one guess for all directions in place of the reference's covariance.
        cap: of the weight.
        affine: use gain and offset of ``transfer_correction``, exact for quadratic rewards, in place of the weight.

    Warns:
        TransferWarning: the correction widens the gap to the trained SDE; says by how much.

    Raises:
        ValueError: variance or cap is not one positive number, or given together with ``affine``; eta = 0 somewhere;
            see ``transfer_correction`` for ``affine``.
        TypeError: another optimum.
    """
    model = _corrected(optimum, variance, cap, affine)
    warn_where_it_widens(optimum, model, stacklevel=4)  # past the door
    return model


@door()
def transfer_gap(
    optimum: RLOptimum, *, variance: Any = None, cap: float | None = None, affine: bool = False
) -> TransferGap:
    r"""What a transfer does to the gap, against both references: the trained SDE and the tilted target's ODE.

    For N(0, v), a linear reward b x and rho = v / (v + sigma_T^2) the gaps are, in units of b^2 v / beta,

    .. math:: \text{before} = (1 - \rho^{\eta^2/2}) \Big(\frac{2}{1 + \eta^2} - 1 - \rho^{\eta^2/2}\Big), \qquad
        \text{after} = \rho^{\eta^2} - \rho^{1/2},

    and against the tilted target's ODE ``after_target`` is 0. ``after`` is small where rho^(eta^2) and rho^(1/2) are;
    ``widens`` says where it is larger than ``before``.

    Args:
        optimum: from ``rl_optimum``, whose process, reward and beta are used.
        variance: see ``transferred``.
        cap: see ``transferred``.
        affine: see ``transferred``.

    Raises:
        ValueError: see ``transferred``; the tilted target does not exist.
        TypeError: another optimum.
    """
    return transfer_gap_of(optimum, _corrected(optimum, variance, cap, affine))


def _corrected(optimum: RLOptimum, variance: Any, cap: float | None, affine: bool) -> Transferred:
    _check_optimum(optimum)
    guess = None if variance is None else _one(positive("variance", variance))
    limit = None if cap is None else float(_one(positive("cap", cap)))
    if flag("affine", affine) and not (guess is None and limit is None):
        raise ValueError("affine=True has no guessed variance and no cap; leave them out")
    if not isinstance(optimum.eta, Windows) and not (optimum.eta > 0).all():
        _refuse_zero(0.0)
    return Transferred(optimum, guess, limit, affine)


def _weight(variance: Array, sigma: Array, eta: Array | Windows) -> Array:
    """(1 + eta^2) / (2 eta^2) phi_1 / phi_eta for eigenvalues on the last axis."""
    return _inverse_strength(sigma, eta) * _ratio(variance, sigma, eta)


def _inverse_strength(sigma: Array, eta: Array | Windows) -> Array:
    """(1 + eta^2) / (2 eta^2), last axis 1; refuses eta = 0."""
    own = eta_below(eta, sigma)
    local = np.broadcast_to(own, np.broadcast_shapes(own.shape, sigma.shape))
    if not (local > 0).all():
        _refuse_zero(float(np.broadcast_to(sigma, local.shape)[local == 0].flat[0]))
    return (1 + local[..., None] ** -2.0) / 2


def _ratio(variance: Array, sigma: Array, eta: Array | Windows) -> Array:
    """phi_1 / phi_eta."""
    logs = [log_contraction(variance, np.zeros(()), sigma[..., None], value) for value in (np.ones(()), eta)]
    with np.errstate(over="ignore"):
        ratio = np.exp(logs[0] - logs[1])
    if not np.isfinite(ratio).all():
        raise ValueError(f"the weight overflows at sigma={float(sigma.max()):g}; eta is too large for a transfer")
    return ratio


def _refuse_zero(sigma: float) -> None:
    raise ValueError(
        f"eta is 0 at sigma={sigma:g}: nothing was learnt there, and no multiple of it is a transfer; train with "
        "eta > 0 at every noise level, or sample with the windows it was trained in"
    )


def _in_coordinates(optimum: RLOptimum, gain: Array, offset: Array, basis: Array | None) -> Correction:
    if basis is None:
        return Correction(gain, offset)
    matrix = diag(gain) if optimum.exponent.is_diagonal else gain
    return Correction(basis @ matrix @ transposed(basis), rotate(basis, offset))


def _levels(sigma: Any) -> Array:
    level = finite("sigma", sigma)
    if not ((level >= 0) & (level <= LARGEST_SIGMA)).all():
        raise ValueError(f"sigma must lie in [0, {LARGEST_SIGMA:g}], got {level.min():g} to {level.max():g}")
    return level


def _one(value: Array) -> Array:
    if value.ndim:
        raise ValueError(f"one number is needed, got an array of shape {value.shape}; call once for each")
    return value


def _shape(eta: Array | Windows) -> tuple[int, ...]:
    return () if isinstance(eta, Windows) else eta.shape


def _check_optimum(optimum: RLOptimum) -> None:
    if not isinstance(optimum, RLOptimum):
        raise TypeError(f"optimum must come from rl_optimum, got {type(optimum).__name__}")
