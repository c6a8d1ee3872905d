r"""Stochastic windows that move over the noise range: what training converges to, and the beta that corrects it.

MixGRPO trains one window of noise levels at a time. Each visit maximises E r - beta KL of its own sampler, which is an
SDE inside the window and the ODE outside of it, and the windows are visited again and again. The optimum of a window
depends on the score *below* it alone, so the visits settle after at most as many cycles as there are windows. What one
fixed window cannot reach, moving windows overshoot. For N(mu, S), a linear reward b'x and a noise range that is cut in
n windows of equal length in x = log(S + tau), the ODE that samples with the trained network moves the mean by

.. math:: \frac{\text{shift}}{S b / \beta} = \frac{2}{1 + a} \, n \, \big(1 - \rho^{a / (2n)}\big)
    \;\to\; \frac{a}{1 + a} \log \frac1\rho, \qquad a = \eta^2, \quad \rho = \frac{S}{S + \sigma_T^2},

where the tilted target moves it by 1. Windows that overlap overwrite each other: the last visit decides.

Reference: MixGRPO (Li et al., 2025), https://arxiv.org/abs/2507.21802.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, count, flag, number, positive, real, shown
from gapbound.eta import Eta, Windows, checked, log_variance_ratio, squared_integral
from gapbound.process import Process, checked_process

LARGEST_EDGE = 1e150  # a window's lower edge is squared


@door()
def equal_windows(variance: float, process: Process, windows: int, eta: float = 1.0) -> tuple[Windows, ...]:
    """Cut the noise range in windows of equal length in log(variance + sigma^2), listed from the noise to the data.

    Args:
        variance: S of the reference along the reward's direction, a positive number.
        process: sets sigma_T.
        windows: how many, n.
        eta: stochasticity inside each window.

    Raises:
        ValueError: the variance or the number of windows is not positive, sigma_T is infinite, or the windows are too
            thin for floating point.
    """
    v, n = number("variance", variance, positive), count("windows", windows)
    if np.isinf(checked_process(process).sigma_T).any():
        raise ValueError("an infinite noise range has no windows of equal length; start flow matching at t_max < 1")
    sigma_T = number("sigma_T", process.sigma_T)
    length = float(log_variance_ratio(v, 0.0, sigma_T))
    edges = np.sqrt(v * np.expm1(np.linspace(0, length, n + 1)))
    edges[-1] = sigma_T
    if not (np.diff(edges) > 0).all():
        raise ValueError(f"{n} windows between sigma = 0 and {sigma_T:g} coincide in floating point; use fewer")
    return tuple(Windows([(low, high, eta)]) for low, high in itertools.pairwise(edges))[::-1]


@door()
def sliding_windows(sigmas: Any, width: int, stride: int = 1, eta: float = 1.0) -> tuple[Windows, ...]:
    """Move a window of ``width`` steps down a grid by ``stride`` steps, as MixGRPO does, from the noise to the data.

    The last window ends at the last level: where the stride does not lead there, its last move is shorter.

    Args:
        sigmas: falling noise levels, shape (N + 1,).
        width: number of stochastic steps, at most N.
        stride: number of steps of one move; windows overlap where it is below the width.
        eta: stochasticity inside each window.

    Raises:
        ValueError: the levels do not fall, or the width or the stride is out of range.
    """
    levels, w, move = real("sigmas", sigmas), count("width", width), count("stride", stride)
    if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) < 0).all() or not levels[-1] >= 0:
        raise ValueError(f"sigmas must be one list of levels that fall to 0 or more, got {levels}")
    last = len(levels) - 1 - w
    if last < 0 or move > w:
        raise ValueError(
            f"a window needs a width of at most the {len(levels) - 1} steps and a stride of at most its width, got "
            f"width={w} and stride={move}"
        )
    starts = sorted({*range(0, last + 1, move), last})
    return tuple(Windows([(levels[k + w], levels[k], eta)]) for k in starts)


@door()
def moving_shift(
    variance: Any, process: Process, windows: Sequence[Windows], factors: Any = 1.0, eta: Eta = 0.0
) -> Array:
    r"""Return the shift of the mean that moving windows teach, over the tilted target's shift b S / beta.

    The reward is linear. With D_k(tau) the integral of eta_k^2 dtau / (S + tau) from 0 to tau, window k teaches the
    score 2 a/(1 + a) phi_k b / beta_k, and a sampler of stochasticity eta makes of it

    .. math:: \sum_k \frac{1}{f_k} \int \frac{a_k (1 + \eta^2)}{1 + a_k} \, e^{-(D_k + D) / 2} \, dx, \qquad
        x = \log (S + \tau), \quad a_k = \eta_k^2, \quad D = \int \frac{\eta^2 d\tau}{S + \tau},

    each window over the levels that no later one overwrites. One window under its own sampler gives 1 - e^{-D}.

    Args:
        variance: S along the reward's direction, positive numbers of any shape.
        process: sets sigma_T, one number.
        windows: the training profiles, in the order of their visits.
        factors: f_k, each window's beta over the target's: one number or one per window.
        eta: stochasticity that samples in the end, a number or ``Windows``; 0 is the ODE.

    Raises:
        ValueError: a variance or factor is not positive, no windows, or a window without noise.
        TypeError: windows that are not ``Windows``.
    """
    v, visits = positive("variance", variance), checked_visits(windows, process)
    shares = _shares(v, process, visits, _one_profile(eta))
    weights = checked_factors(factors, len(visits)).reshape(-1, *[1] * v.ndim)
    return (shares / weights).sum(0)


@door()
def beta_schedule(variance: float, process: Process, windows: Sequence[Windows], per_window: bool = False) -> Array:
    r"""Return the factors f_k by which to multiply beta so that the ODE moves the mean as the tilted target asks.

    The reward is linear. One common factor makes the shift exactly b S / beta:

    .. math:: f = \frac{2}{1 + a} \sum_k (1 - e^{-a \, l_k / 2}),

    l_k being the length of window k in log(S + tau), for windows that do not overlap.

    With ``per_window`` each window teaches the ODE what the target's own score moves it there, e^{-x_low / 2} -
    e^{-x_high / 2} with x = log(1 + tau / S), and the sum is that score's shift, 1 - rho^(1/2). At eta = 1 these
    factors are (1 + tau_low / S)^(1/2), and the network learns the target's own score exactly. At any other eta it does
    so as the windows get thin, where f_k -> 2 a/(1 + a) (1 + tau / S)^(1/2): no gap is left then at any eta.

    Args:
        variance: S along the reward's direction, one positive number.
        process: sets sigma_T.
        windows: the training profiles, in the order of their visits.
        per_window: a factor for each window instead of one for all.

    Returns:
        Array of shape (number of windows,); 1 for a window that later visits overwrite altogether.

    Raises:
        ValueError: as ``moving_shift``; also where the factors overflow.
    """
    v, visits = np.asarray(number("variance", variance, positive)), checked_visits(windows, process)
    taught = _shares(v, process, visits, np.zeros(()))
    if not flag("per_window", per_window):
        return np.full(len(visits), taught.sum())
    wanted = np.zeros(len(visits))
    for low, high, k in _owned(visits, process):
        near, far = (math.exp(-float(log_variance_ratio(v, 0.0, edge)) / 2) for edge in (low, high))
        wanted[k] += near - far
    owns = taught > 0
    if not (wanted[owns] > 0).all():
        raise ValueError("a window lies at so much noise that the target's score moves nothing there; leave it out")
    return np.where(owns, taught / np.where(owns, wanted, 1.0), 1.0)


def _shares(v: Array, process: Process, visits: Sequence[Windows], eta: Array | Windows) -> Array:
    """What each window, at the target's beta, adds to the shift over b S / beta; shape (windows, *shape of v)."""
    shares = np.zeros((len(visits), *v.shape))
    for low, high, k in _owned(visits, process, eta):
        a, b = _square_at(visits[k], low), _square_at(eta, low)
        felt = squared_integral(visits[k], 0.0, low, v) + squared_integral(eta, 0.0, low, v)
        length = log_variance_ratio(v, low, high)
        shares[k] += 2 * (a / (1 + a)) * ((1 + b) / (a + b)) * np.exp(-felt / 2) * -np.expm1(-(a + b) * length / 2)
    return shares


def _square_at(eta: Array | Windows, sigma: float) -> float:
    """The eta^2 just above a noise level."""
    return float(eta(sigma) if isinstance(eta, Windows) else eta) ** 2


def _owned(
    visits: Sequence[Windows], process: Process, eta: Array | Windows | None = None
) -> list[tuple[float, float, int]]:
    """Ranges of noise in which nothing jumps, each with the window that was the last to train it; below sigma_T."""
    sigma_T = float(np.asarray(process.sigma_T))
    profiles = [*visits, eta] if isinstance(eta, Windows) else [*visits]
    edges = {0.0, sigma_T} | {edge for own in profiles for window in own.windows for edge in window[:2]}
    cuts = sorted(edge for edge in edges if edge <= sigma_T)
    last, place = [-1] * (len(cuts) - 1), {edge: k for k, edge in enumerate(cuts)}
    for k, own in enumerate(visits):
        for low, high, value in own.windows:
            if value > 0 and low < sigma_T:
                start, stop = place[low], place[min(high, sigma_T)]
                last[start:stop] = [k] * (stop - start)
    return [(*ends, k) for ends, k in zip(itertools.pairwise(cuts), last, strict=True) if k >= 0]


def checked_visits(windows: Sequence[Windows], process: Process) -> list[Windows]:
    """The validated profiles.

    Raises:
        ValueError: none, one without noise below sigma_T, or one that starts above 1e150.
        TypeError: not a sequence of ``Windows``.
    """
    if isinstance(windows, Windows) or not isinstance(windows, Sequence):
        raise TypeError(f"windows must be a list of Windows, one for each visit, got {type(windows).__name__}")
    sigma_T = float(np.max(checked_process(process).sigma_T))
    if not windows:
        raise ValueError("windows must hold at least one Windows, got none")
    for own in windows:
        if not isinstance(own, Windows):
            raise TypeError(f"windows must hold Windows alone, got {shown(own)}; write Windows([(low, high, eta)])")
        if not any(eta > 0 and low < sigma_T for low, _, eta in own.windows):
            raise ValueError(f"every visit needs noise below sigma_T = {sigma_T:g} to learn from, got {own}")
        if any(low > LARGEST_EDGE for low, _, _ in own.windows):
            raise ValueError(f"windows must start below sigma = {LARGEST_EDGE:g}, got {own}")
    return list(windows)


def checked_factors(factors: Any, windows: int) -> Array:
    """One positive factor for each window."""
    values = positive("factors", factors)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != windows):
        raise ValueError(f"factors must be one number or one per window ({windows}), got shape {values.shape}")
    return np.broadcast_to(values, (windows,))


def _one_profile(eta: Any) -> Array | Windows:
    profile = checked(eta)
    if not isinstance(profile, Windows) and profile.ndim:
        raise ValueError(f"eta must be one number or Windows, got shape {profile.shape}; call once for each")
    return profile
