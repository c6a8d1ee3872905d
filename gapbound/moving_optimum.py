r"""The score, or the N-step network, that windows trained one by one converge to on a Gaussian.

A visit maximises E r - beta KL of a sampler that is an SDE inside its window and the ODE outside of it. With the ODE
below the window, z_0 = psi z + m, the exponent r / beta is again quadratic at the window's foot; inside, the optimum is
that of ``optimum`` with the clock started at the foot. So a visit needs the score below its window and nothing else: n
windows that do not overlap settle in one cycle from the data upwards, in at most n cycles in any order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, count, positive, shown
from gapbound.affine import AffineScore, ode_map
from gapbound.eta import EDGE, Windows, segments
from gapbound.exponent import Exponent, diag, left_over
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.law import noise_range
from gapbound.moving_windows import checked_factors, checked_visits
from gapbound.optimum import SLOWEST, RLOptimum
from gapbound.process import Process
from gapbound.regulator import RLOptimumDiscrete, untrained, visited
from gapbound.reward import Linear, Quadratic

SETTLED = 1e-13  # relative change of the controls of a whole cycle below which the visits have settled


@dataclass(frozen=True, eq=False)
class _Piece:
    """The control of one visit where it is still in force: ``bridge`` is its optimum with the clock 0 at ``foot``."""

    low: float
    high: float
    foot: float
    eta: float
    bridge: RLOptimum

    def clock(self, sigma: Array) -> Array:
        """Return the noise level above the window's foot, for levels inside the piece."""
        inside = np.clip(sigma, self.low, self.high)
        with np.errstate(invalid="ignore"):
            above = np.sqrt(np.maximum(inside - self.foot, 0.0)) * np.sqrt(inside + self.foot)
        return np.where(np.isinf(inside), np.inf, above)

    def holds(self, sigma: Array) -> Array:
        """Whether a step down from sigma starts in the piece: the upper edge belongs to it."""
        above = (self.low * (1 + EDGE) < sigma) | ((sigma == 0) & (self.low == 0))
        return above & (sigma <= self.high * (1 + EDGE))


@dataclass(frozen=True, eq=False)
class MovingOptimum(AffineScore):
    """The score that moving windows teach; see ``moving_optimum``.

    Attributes:
        reference: N(mu, S), untrained.
        pieces: the controls in force, from the data to the noise.
    """

    reference: Gaussian
    pieces: tuple[_Piece, ...] = ()

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.reference.dim

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the batch of the reference and beta."""
        return np.broadcast_shapes(self.reference.batch_shape, *(piece.bridge.batch_shape for piece in self.pieces))

    @property
    def is_diagonal(self) -> bool:
        """Whether the coordinates do not interact."""
        return self.reference.is_diagonal and self._shares_axes

    @property
    def variance_range(self) -> tuple[float, float]:
        """Smallest and largest variance at which the score changes its behaviour; see ``RLOptimum``."""
        lam = self.reference.spectrum[0]
        ranges = [(piece.bridge.variance_range, math.isinf(piece.high)) for piece in self.pieces]
        low = min([float(lam.min()), *(own[0] for own, _ in ranges)])
        return low, max([float(lam.max()), *(own[1] for own, endless in ranges if endless)])

    @property
    def pure_noise_mean(self) -> Array:
        """The denoiser at sigma = inf: mu, moved by a window that reaches there; see ``RLOptimum``."""
        if not self.pieces or math.isfinite(self.pieces[-1].high):
            return self.reference.mean
        pull = self.pieces[-1].bridge.pure_noise_mean
        if np.isinf(pull).any():
            return np.full(np.broadcast_shapes(pull.shape, self.reference.mean.shape), np.inf)
        return self.reference.mean + rotate(self.reference.spectrum[1], pull)

    @property
    def cuts(self) -> Windows:
        """Windows of eta 0 whose edges are where the score jumps or bends; exact laws are integrated between them."""
        edges = {0.0, math.inf}
        for piece in self.pieces:
            own = (math.hypot(piece.foot, edge) for low, _, _ in piece.bridge.cuts.windows for edge in (low,))
            edges |= {piece.low, piece.high} | {edge for edge in own if piece.low < edge < piece.high}
        return Windows([(low, high, 0.0) for low, high in itertools.pairwise(sorted(edges))])

    def gain(self, sigma: Any) -> Array:
        """(S + tau)^-1 and, inside a window, what its control adds."""
        tau = np.asarray(sigma, dtype=float)[..., None] ** 2
        return self._placed(1 / (self.reference.spectrum[0] + tau), self._control(sigma)[0], np.ones(1))

    def kept(self, sigma: Any) -> Array:
        """S (S + tau)^-1 less tau times the control's gain: nothing is subtracted from 1."""
        tau, lam = np.asarray(sigma, dtype=float)[..., None] ** 2, self.reference.spectrum[0]
        return self._placed(lam / (lam + tau), self._control(sigma)[0], -tau)

    def offset(self, sigma: Any) -> Array:
        """G mu and, inside a window, what its control adds."""
        gain, mean = self.gain(sigma), self.reference.mean
        pull = rotate(self.reference.spectrum[1], self._control(sigma)[1])
        return (gain * mean if self.is_diagonal else rotate(gain, mean)) + pull

    def diagonalised(self) -> tuple[AffineScore, Array | None]:
        """The model on the eigenbasis of S, if the reward is diagonal there."""
        lam, basis = self.reference.spectrum
        if basis is None or not self._shares_axes:
            return self, None
        return replace(self, reference=trusted(rotate(transposed(basis), self.reference.mean), lam, event=1)), basis

    @property
    def _shares_axes(self) -> bool:
        return all(piece.bridge.exponent.is_diagonal for piece in self.pieces)

    def _control(self, sigma: Any) -> tuple[Array, Array]:
        """``(K, f)`` of the score's change f - K (z - mu) on the eigenbasis of S."""
        sigma, lam = np.asarray(sigma, dtype=float), self.reference.spectrum[0]
        pull: Array = np.zeros_like(sigma[..., None] * lam)
        gain = pull if self._shares_axes else diag(pull)
        for piece in self.pieces:
            inside = piece.holds(sigma)[..., None]
            if not inside.any():
                continue
            clock = piece.clock(sigma)
            (own, own_pull), strength = piece.bridge.control(clock), piece.bridge.strength(clock)
            pull = np.where(inside, strength * own_pull, pull)
            if not self._shares_axes:
                inside, strength = inside[..., None], strength[..., None]
            gain = np.where(inside, strength * own, gain)
        return gain, pull

    def _placed(self, own: Array, control: Array, factor: Array) -> Array:
        """own + factor * control, from the eigenbasis of S back to the coordinates."""
        basis = self.reference.spectrum[1]
        if self._shares_axes:
            values = own + factor * control
            return values if basis is None else (basis * values[..., None, :]) @ transposed(basis)
        matrix = diag(own) + factor[..., None] * control
        return matrix if basis is None else basis @ matrix @ transposed(basis)


@door()
def moving_optimum(
    reference: Gaussian,
    reward: Quadratic | Linear,
    beta: Any,
    process: Process,
    windows: Sequence[Windows],
    factors: Any = 1.0,
    cycles: int | None = None,
) -> MovingOptimum:
    r"""Return the score that windows trained one by one converge to, accepted wherever a target is.

    Each visit sets the score inside its window to the optimum of E r - beta f_k KL, the KL being that of its own
    sampler to the reference. One window gives ``rl_optimum`` with that profile. ``terminal_law(optimum, process, 0.0)``
    is what the ODE then draws.

    Args:
        reference: Gaussian, any batch.
        reward: ``Quadratic`` (A of any sign and any principal axes) or ``Linear``.
        beta: temperature, positive; an array broadcasts with the batch.
        process: VE, VP or FlowMatching.
        windows: the training profiles, in the order of their visits.
        factors: f_k, one number or one per window; ``beta_schedule`` gives those that correct the tilt.
        cycles: how often all windows are visited; None for until nothing changes.

    Raises:
        ValueError: beta or a factor is not positive, shapes do not fit, a window's optimum does not exist (says from
            which beta on it does), or a window reaches sigma = inf at an eta in (0, 1/3).
        TypeError: another reward or reference, or windows that are not ``Windows``.
    """
    if not isinstance(reference, Gaussian):
        raise TypeError(f"reference must be a Gaussian, got {type(reference).__name__}")
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"only Quadratic and Linear rewards have an affine optimum, got {shown(reward)}")
    beta, visits = positive("beta", beta), checked_visits(windows, process)
    factor = checked_factors(factors, len(visits))
    broadcastable("the batches of the reference, beta and T", reference.batch_shape, beta.shape, np.shape(process.T))
    # the controls live on the eigenbasis around mu; the reward over beta is a quadratic form there
    model = MovingOptimum(trusted(np.zeros_like(reference.mean), reference.spectrum[0], event=1))
    order = []
    for own, own_beta in zip(visits, (beta * f for f in factor), strict=True):
        order.append(_Visit(own, Exponent.of(reference, reward, own_beta), reward, own_beta, process))
    if cycles is None and not _overlap(visits):
        cycles, order = (
            1,
            sorted(order, key=lambda visit: visit.windows.windows[0][0]),
        )  # each needs those below it alone
    for _ in range(len(visits) + 1 if cycles is None else count("cycles", cycles)):
        before = model
        for visit in order:
            model = _trained(model, visit)
        if cycles is None and _settled(before, model):
            break
    return replace(model, reference=reference)


@door()
def moving_optimum_discrete(
    reference: Gaussian | AffineScore,
    reward: Quadratic | Linear,
    beta: Any,
    process: Process,
    windows: Sequence[Windows],
    factors: Any = 1.0,
    cycles: int | None = None,
    *,
    sampler: str = "gddim",
    steps: int | None = None,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
) -> RLOptimumDiscrete:
    r"""Return the network that N-step training converges to when windows are optimised one by one.

    Each visit is ``rl_optimum_discrete`` with its window's noise, except that the steps outside of the window are ODE
    steps with the network as it then is. ``optimum.law`` is what the N-step ODE draws in the end.

    Args:
        reference: Gaussian or affine score (``guided``), any batch.
        reward: ``Quadratic`` or ``Linear``.
        beta: temperature, positive; an array broadcasts with the batch.
        process: start and prior, with one T.
        windows: the training profiles, in the order of their visits.
        factors: f_k, see ``moving_optimum``.
        cycles: how often all windows are visited; None for until nothing changes.
        sampler: of the policy, see ``rl_optimum_discrete``.
        steps: as the following, see ``discrete_law``.
        sigmas: the noise levels themselves.
        grid: kind of grid.
        t_min: where it stops.

    Raises:
        ValueError: see ``rl_optimum_discrete``; also no windows, or a factor that is not positive.
        TypeError: see ``rl_optimum_discrete``; also windows that are not ``Windows``.
    """
    visits = checked_visits(windows, process)
    factor = checked_factors(factors, len(visits))
    model, beta = untrained(reference, reward, beta, process, sampler, 0.0, steps, sigmas, grid, t_min)
    for _ in range(len(visits) + 1 if cycles is None else count("cycles", cycles)):
        before = model
        for own, f in zip(visits, factor, strict=True):
            model = visited(model, own, reward, beta * f)
        if cycles is None and _same([before.gains, before.pulls], [model.gains, model.pulls]):
            break
    return model


@dataclass(frozen=True, eq=False)
class _Visit:
    """One window's turn: its profile, the reward over its beta as an exponent at the data, and where they come from."""

    windows: Windows
    exponent: Exponent
    reward: Quadratic | Linear
    beta: Array
    process: Process


def _trained(model: MovingOptimum, visit: _Visit) -> MovingOptimum:
    """One visit, in coordinates of the eigenbasis around mu: new controls inside its windows."""
    lam, after, exponent, top = model.reference.spectrum[0], model, visit.exponent, noise_range(visit.process)[1]
    for low, high, (eta,) in segments(visit.windows):
        if low >= top.max():
            break
        if eta > 0:
            base = trusted(np.zeros_like(lam), lam + low**2, event=1)
            bridge = RLOptimum(base, exponent, np.asarray(eta), visit.reward, visit.beta, visit.process)
            piece = _Piece(low, high, low, float(eta), bridge)
            _check_existence(piece, visit.beta, top)
            after = _overwritten(after, piece)
            if math.isfinite(high):
                exponent = _through_the_bridge(piece)
        elif math.isfinite(high):
            psi, mean = ode_map(model, low, high)
            exponent = _through_the_ode(exponent, psi, mean)
    return after


def _check_existence(piece: _Piece, beta: Array, top: Array) -> None:
    bridge, ceiling = piece.bridge, np.minimum(piece.high, top)
    if np.isinf(ceiling).any() and piece.eta < SLOWEST:
        raise ValueError(
            f"at eta={piece.eta:g} the bias of the start falls too slowly for sigma_T = inf; use eta of at least 1/3 "
            "in a window that reaches there, or t_max < 1"
        )
    clock = np.where(np.isinf(ceiling), np.inf, np.sqrt(np.maximum(ceiling - piece.foot, 0) * (ceiling + piece.foot)))
    lowest = bridge.exponent.lowest(left_over(bridge.reference.spectrum[0], clock, bridge.eta))
    if not (lowest > -1).all():
        needed, met = np.broadcast_arrays(-lowest * beta, beta)
        worst = np.unravel_index(int(np.argmin(lowest)), lowest.shape)
        raise ValueError(
            "the optimum of a window does not exist: E[exp(r / beta)] is infinite from its upper edge; its beta must "
            f"be above about {float(needed[worst]):g}, got {float(met[worst]):g}"
        )


def _through_the_bridge(piece: _Piece) -> Exponent:
    """log h at the upper edge of a window, from the exponent at its foot: y_foot | y ~ N(phi y, C)."""
    gain, pull = piece.bridge.control(piece.clock(np.asarray(piece.high)))
    return Exponent(gain, pull)


def _through_the_ode(exponent: Exponent, psi: Array, mean: Array) -> Exponent:
    """The exponent as a function of where an affine ODE y_low = psi y + mean starts."""
    H, g = exponent.curvature, exponent.slope
    if exponent.is_diagonal:
        return Exponent(psi * H * psi, psi * (g - H * mean))
    if psi.ndim < 2 or psi.shape[-2] != psi.shape[-1] or psi.shape[-1] != H.shape[-1]:
        psi = diag(psi)
    return Exponent(transposed(psi) @ H @ psi, rotate(transposed(psi), g - rotate(H, mean)))


def _overwritten(model: MovingOptimum, new: _Piece) -> MovingOptimum:
    """The model with ``new`` in force, and of the others what it leaves of them."""
    kept = [new]
    for old in model.pieces:
        for low, high in ((old.low, min(old.high, new.low)), (max(old.low, new.high), old.high)):
            if low < high:
                kept.append(replace(old, low=low, high=high))
    return replace(model, pieces=tuple(sorted(kept, key=lambda piece: piece.low)))


def _settled(before: MovingOptimum, after: MovingOptimum) -> bool:
    if [(piece.low, piece.high) for piece in before.pieces] != [(piece.low, piece.high) for piece in after.pieces]:
        return False
    parts = [
        [part for piece in model.pieces for part in (piece.bridge.exponent.curvature, piece.bridge.exponent.slope)]
        for model in (before, after)
    ]
    return _same(*parts)


def _same(before: Iterable[Array], after: Iterable[Array]) -> bool:
    return all(np.abs(new - old).max() <= SETTLED * np.abs(new).max() for old, new in zip(before, after, strict=True))


def _overlap(visits: Sequence[Windows]) -> bool:
    """Whether a level is trained twice, or a visit has several windows, which may enclose another's."""
    if any(sum(eta > 0 for _, _, eta in own.windows) > 1 for own in visits):
        return True
    ranges = sorted(window[:2] for own in visits for window in own.windows if window[2] > 0)
    return any(following < high for (_, high), (following, _) in itertools.pairwise(ranges))
