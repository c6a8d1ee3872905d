r"""What other libraries and papers call their noise level, in our units and back.

Ours, eta, multiplies dW in z = x / s and tau = sigma^2; the step from sigma to sigma' that ``kernel.gddim`` takes keeps
the share k = (sigma'/sigma)^(eta^2) of the noise prediction and draws the share sqrt(1 - k^2) anew.

=============================================  ===========================================  ====================
theirs                                         is ours when                                 valid for
=============================================  ===========================================  ====================
DDIM's eta_D; also k-diffusion's ancestral     1 - k^2 = eta_D^2 (1 - (sigma'/sigma)^2)     less than all noise
samplers and dpmpp_sde, which clamp it
k-diffusion's dpmpp_2m_sde, 3m_sde: eta_k      eta^2 = eta_k                                0 or more
SA-Solver's tau                                eta = tau                                    0 or more
Flow-GRPO's noise level a                      eta = a / sqrt(2)                            t < 1
DanceGRPO's constant e                         eta(sigma)^2 = e^2 / (2 sigma)               sigma > 0
CPS's eta_C                                    k = cos(pi eta_C / 2)                        0 <= eta_C < 1
EDM's gamma = S_churn / N                      (1 + gamma)^2 - 1                            0 to sqrt(2) - 1
                                               = eta^2 (1 - (sigma'/sigma)^2)
=============================================  ===========================================  ====================

Those with sigma and sigma' hold for one step. A constant of theirs is then an eta for each step of ours, and
``per_step`` makes a profile of them; for DDIM, CPS and EDM it depends on the grid, for CPS it has no limit.
For k-diffusion's and SA-Solver's multistep methods the relation is that of their first-order part. Flow-GRPO and
DanceGRPO take Euler-Maruyama steps, and EDM adds its noise first: ``kernel.flow_grpo``, ``kernel.dance_grpo`` and
``kernel.edm`` agree with gDDIM at the converted eta to first order in the step alone.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, non_negative, positive, real, shown, within
from gapbound.eta import Windows

LARGEST_GAMMA = math.sqrt(2) - 1


@door()
def from_ddim(eta_ddim: Any, sigma: Any, sigma_next: Any) -> Array:
    r"""Our eta of the gDDIM step that is DDIM's with ``eta_ddim``, for 0 < sigma' < sigma.

    .. math:: \eta^2 = \frac{\log(1 - \eta_D^2 (1 - \sigma'^2/\sigma^2))}{\log(\sigma'^2/\sigma^2)}

    eta_D = 0 and 1 are 0 and 1; between, eta tends to eta_D as the step gets shorter.

    Raises:
        ValueError: a step with eta_D^2 (1 - sigma'^2/sigma^2) >= 1, which no finite eta takes (k-diffusion's ancestral
            samplers clamp it there without saying so); levels that do not fall.
    """
    theirs, (sigma, sigma_next) = non_negative("eta_ddim", eta_ddim), _levels(sigma, sigma_next)
    drop = _drop(sigma, sigma_next)
    kept = (sigma_next / sigma) ** 2 + (1 - theirs) * (1 + theirs) * drop  # k^2
    if not (kept > 0).all():
        largest = np.min(1 / np.sqrt(drop))
        raise ValueError(
            f"DDIM draws all the noise anew at eta={largest:.4g} in this step, got eta_ddim={np.max(theirs):g}; no eta "
            "of ours is that large: take smaller steps, or a smaller eta_ddim"
        )
    return np.sqrt(_log_of(kept, theirs**2 * drop) / _log_ratio(sigma, sigma_next))


@door()
def to_ddim(eta: Any, sigma: Any, sigma_next: Any) -> Array:
    r"""DDIM's eta_D of a gDDIM step, ``eta_D^2 = (1 - k^2) / (1 - sigma'^2/sigma^2)``; the step admits every result.

    Raises:
        ValueError: a negative eta, levels that do not fall.
    """
    ours, (sigma, sigma_next) = non_negative("eta", eta), _levels(sigma, sigma_next)
    return np.sqrt(-np.expm1(ours**2 * _log_ratio(sigma, sigma_next)) / _drop(sigma, sigma_next))


@door()
def from_k_diffusion(eta_k: Any) -> Array:
    """Our eta of the eta of k-diffusion's dpmpp_2m_sde and dpmpp_3m_sde: the square root.

    Not for its ancestral samplers and dpmpp_sde, whose eta is DDIM's: ``from_ddim``.

    Raises:
        ValueError: it is negative.
    """
    return np.sqrt(non_negative("eta_k", eta_k))


@door()
def to_k_diffusion(eta: Any) -> Array:
    """The eta of k-diffusion's dpmpp_2m_sde and dpmpp_3m_sde: the square of ours.

    Raises:
        ValueError: eta is negative.
    """
    return non_negative("eta", eta) ** 2


@door()
def from_sa_solver(tau: Any) -> Array:
    """Our eta of SA-Solver's tau: the same number.

    Raises:
        ValueError: it is negative.
    """
    return non_negative("tau", tau)


@door()
def to_sa_solver(eta: Any) -> Array:
    """SA-Solver's tau: the same number as our eta.

    Raises:
        ValueError: it is negative.
    """
    return non_negative("eta", eta)


@door()
def from_flow_grpo(a: Any) -> Array:
    """Our eta of Flow-GRPO's noise level: a / sqrt(2). Its first step from t = 1 does not follow it.

    Raises:
        ValueError: it is negative.
    """
    return non_negative("a", a) / math.sqrt(2)


@door()
def to_flow_grpo(eta: Any) -> Array:
    """Flow-GRPO's noise level: sqrt(2) eta.

    Raises:
        ValueError: eta is negative.
    """
    return math.sqrt(2) * non_negative("eta", eta)


@door()
def from_dance_grpo(e: Any, sigma: Any) -> Array:
    """Our eta at the noise level sigma = t / (1 - t) > 0 of DanceGRPO's constant: e / sqrt(2 sigma).

    Raises:
        ValueError: e is negative or sigma not positive.
    """
    return non_negative("e", e) / np.sqrt(2 * positive("sigma", sigma))


@door()
def to_dance_grpo(eta: Any, sigma: Any) -> Array:
    """DanceGRPO's e that is our eta at the noise level sigma: sqrt(2 sigma) eta.

    Raises:
        ValueError: eta is negative or sigma not positive.
    """
    return non_negative("eta", eta) * np.sqrt(2 * positive("sigma", sigma))


@door()
def from_cps(eta_cps: Any, sigma: Any, sigma_next: Any) -> Array:
    r"""Our eta of the gDDIM step that is CPS's, ``eta^2 = log cos(pi eta_C / 2) / log(sigma'/sigma)``.

    It grows without bound as the step gets shorter.

    Raises:
        ValueError: eta_C is outside [0, 1), levels that do not fall.
    """
    theirs, (sigma, sigma_next) = within("eta_cps", eta_cps, 0.0, 1.0), _levels(sigma, sigma_next)
    if (theirs == 1).any():
        raise ValueError("eta_cps=1 draws all the noise anew, which no finite eta of ours does; take one below 1")
    angle = theirs * (math.pi / 2)
    return np.sqrt(_log_of(np.cos(angle) ** 2, np.sin(angle) ** 2) / _log_ratio(sigma, sigma_next))


@door()
def to_cps(eta: Any, sigma: Any, sigma_next: Any) -> Array:
    """CPS's eta_C of a gDDIM step, in [0, 1]: ``cos(pi eta_C / 2) = (sigma'/sigma)^(eta^2)``.

    Raises:
        ValueError: eta is negative, levels that do not fall.
    """
    ours, (sigma, sigma_next) = non_negative("eta", eta), _levels(sigma, sigma_next)
    log_kept = ours**2 * _log_ratio(sigma, sigma_next)
    return np.arctan2(np.sqrt(-np.expm1(log_kept)), np.exp(log_kept / 2)) * (2 / math.pi)


@door()
def from_edm(gamma: Any, sigma: Any, sigma_next: Any) -> Array:
    r"""Our eta of a step of EDM's stochastic sampler, ``eta^2 = gamma (2 + gamma) / (1 - sigma'^2/sigma^2)``.

    gamma is min(S_churn / N, sqrt(2) - 1) for sigma in [S_tmin, S_tmax], else 0; sigma' may be 0.

    Raises:
        ValueError: gamma is outside [0, sqrt(2) - 1], levels that do not fall.
    """
    theirs, (sigma, sigma_next) = within("gamma", gamma, 0.0, LARGEST_GAMMA), _levels(sigma, sigma_next, zero=True)
    return np.sqrt(theirs * (2 + theirs) / _drop(sigma, sigma_next))


@door()
def to_edm(eta: Any, sigma: Any, sigma_next: Any) -> Array:
    r"""EDM's gamma of a step with our eta, ``gamma = sqrt(1 + eta^2 (1 - sigma'^2/sigma^2)) - 1``; S_churn is N gamma.

    Raises:
        ValueError: gamma would pass sqrt(2) - 1, where EDM's sampler caps it; eta is negative; levels that do not fall.
    """
    ours, (sigma, sigma_next) = non_negative("eta", eta), _levels(sigma, sigma_next, zero=True)
    drop = _drop(sigma, sigma_next)
    added = ours**2 * drop
    if (added > 1 + 1e-12).any():
        raise ValueError(
            f"EDM caps gamma at sqrt(2) - 1, which is eta={np.min(1 / np.sqrt(drop)):.4g} in this step, got "
            f"eta={np.max(ours):g}; take smaller steps, or sampler='edm', which has no cap"
        )
    return added / (1 + np.sqrt(1 + added))


@door()
def per_step(sigmas: Any, etas: Any) -> Windows:
    """The profile with one eta for each step of a grid, to be given wherever an ``eta`` is.

    Args:
        sigmas: falling noise levels, shape (N + 1,).
        etas: our eta of each step, shape (N,).

    Raises:
        ValueError: the shapes do not fit, sigmas do not fall to 0 or more, an eta is negative.
    """
    levels, values = real("sigmas", sigmas), non_negative("etas", etas)
    if levels.ndim != 1 or values.shape != (levels.size - 1,):
        raise ValueError(f"per_step needs N + 1 sigmas and N etas, got shapes {levels.shape} and {values.shape}")
    return Windows(
        (low, high, eta) for (high, low), eta in zip(itertools.pairwise(levels.tolist()), values.tolist(), strict=True)
    )


def _levels(sigma: Any, sigma_next: Any, zero: bool = False) -> tuple[Array, Array]:
    high = positive("sigma", sigma)
    low = non_negative("sigma_next", sigma_next) if zero else positive("sigma_next", sigma_next)
    broadcastable("sigma and sigma_next", high.shape, low.shape)
    if not (low < high).all():
        raise ValueError(f"sigma_next must be below sigma, got sigma_next={shown(sigma_next)} and sigma={shown(sigma)}")
    return high, low


def _drop(sigma: Array, sigma_next: Array) -> Array:
    """1 - sigma'^2 / sigma^2."""
    return (1 - sigma_next / sigma) * (1 + sigma_next / sigma)


def _log_ratio(sigma: Array, sigma_next: Array) -> Array:
    """log(sigma'^2 / sigma^2), accurate for the shortest step and the longest."""
    return _log_of((sigma_next / sigma) ** 2, _drop(sigma, sigma_next))


def _log_of(kept: Array, gone: Array) -> Array:
    """Log of ``kept = 1 - gone``, from whichever of the two is the smaller."""
    with np.errstate(divide="ignore"):
        return np.where(gone < 0.5, np.log1p(-np.minimum(gone, 0.5)), np.log(kept))
