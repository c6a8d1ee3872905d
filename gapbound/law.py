r"""Exact laws of the continuous-time sampler on Gaussian targets and affine scores.

On N(m, v) with prior N(0, sigma_T^2 + excess) in z, the sampler with stochasticity eta ends in

.. math:: \text{mean} = m (1 - \Phi), \qquad
   \text{var} = v (1 - \Phi^2) + \sigma_0^2 + \text{excess} \, \Phi^2, \qquad
   \Phi = \exp\Big(-\frac12 \int_{\sigma_0^2}^{\sigma_T^2} \frac{1 + \eta(\tau)^2}{v + \tau} \, d\tau\Big),

in each eigendirection of the covariance. Phi is the fraction of the initial error that survives. For constant eta it is
rho^((1 + eta^2)/2) with rho = (v + sigma_0^2)/(v + sigma_T^2), as in "Understanding Sampler Stochasticity in Training
Diffusion Models for RLHF" (https://arxiv.org/abs/2510.10767) for eta in {0, 1}.
"""

from __future__ import annotations

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable
from gapbound.affine import AffineScore, moments
from gapbound.eta import Eta, Windows, checked, log_variance_ratio, segments
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.process import Process, checked_process


@door()
def terminal_law(target: Gaussian | AffineScore, process: Process, eta: Eta, t_min: float = 0.0) -> Gaussian:
    r"""Exact law of z = x / s(t_min) when the eta-sampler on the model of ``target`` stops at ``t_min``.

    At t_min = 0 this is data space. T of the process, eta and the parameters of the target broadcast. Gaussians are in
    closed form; affine scores (``guided``) go through quadrature that is accurate to about 1e-13.

    Args:
        target: the law whose exact score drives the sampler, or an affine score.
        process: VE, VP or FlowMatching.
        eta: stochasticity, a number of at least 0 (0 the ODE, 1 the time reversal), an array, or ``Windows``.
        t_min: where sampling stops, 0 <= t_min < T; the law then contains the noise sigma(t_min).

    Raises:
        ValueError: negative eta, t_min outside [0, T), shapes that do not broadcast.
        TypeError: a target without a closed-form law (a mixture: use ``estimate_gap`` or ``simulate``).
    """
    eta = checked(eta)
    sigma_0, sigma_T = noise_range(process, t_min)
    if isinstance(target, AffineScore):
        check_batches(target, process, eta)
        return moments(target, sigma_0, sigma_T, process.prior_excess, eta)
    if not isinstance(target, Gaussian):
        raise TypeError(
            f"terminal_law needs a Gaussian or an affine score, got {type(target).__name__}; "
            "simulate and estimate_gap take any model"
        )
    check_batches(target, process, eta)
    variance, basis = target.spectrum
    log_phi = log_contraction(variance, sigma_0, sigma_T, eta)
    excess = _finite_excess(process)
    kept = -np.expm1(log_phi) * rotate(transposed(basis), target.mean)
    spread = -np.expm1(2 * log_phi) * variance + sigma_0**2 + excess * np.exp(2 * log_phi)
    if basis is None:
        return trusted(kept, spread, event=1)
    return trusted(rotate(basis, kept), (basis * spread[..., None, :]) @ transposed(basis), event=2)


def noise_range(process: Process, t_min: float = 0.0) -> tuple[Array, Array]:
    """``(sigma(t_min), sigma_T)``, each with a last axis of 1 for the dimension.

    Raises:
        ValueError: t_min is not below T.
        TypeError: ``process`` is not a Process.
    """
    sigma_0, sigma_T = checked_process(process).sigma(t_min), process.sigma_T
    if not (sigma_0 < sigma_T).all():
        raise ValueError(f"t_min must be below T, got t_min={t_min} and T={process.T}")
    return np.asarray(sigma_0)[..., None], np.asarray(sigma_T)[..., None]


def check_batches(model: Gaussian | AffineScore, process: Process, *etas: Array | Windows) -> None:
    """Refuse, by name, batches that do not broadcast.

    Raises:
        ValueError: they do not; says their shapes.
    """
    shapes = [model.batch_shape, np.shape(process.T), *(eta.shape for eta in etas if not isinstance(eta, Windows))]
    if sum(map(bool, shapes)) > 1:
        broadcastable("the batches of target, T and eta", *shapes)


def log_contraction(variance: Array, sigma_0: Array, sigma_T: Array, eta: Array | Windows) -> Array:
    r"""log Phi, shape (\*batch, d): -1/2 int (1 + eta^2) dtau / (v + tau). -inf at sigma_T = inf."""
    log_phi: Array = np.zeros(())
    for low, high, (value,) in segments(_over_dimensions(eta)):
        ratio = log_variance_ratio(variance, np.maximum(low, sigma_0), np.minimum(high, sigma_T))
        log_phi = log_phi - (1 + value**2) * ratio / 2
    return log_phi


def contraction_difference(
    variance: Array, sigma_0: Array, sigma_T: Array, eta_ref: Array | Windows, eta: Array | Windows
) -> tuple[Array, Array]:
    r"""``(Phi_ref - Phi, Phi_ref + Phi)``, the difference with full relative accuracy however small it is.

    log(Phi / Phi_ref) = -1/2 int (eta - eta_ref)(eta + eta_ref) dtau / (v + tau) is summed over segments, so that
    neither nearly equal eta nor nearly equal Phi are ever subtracted.
    """
    log_ref: Array = np.zeros(())
    log_phi, log_quotient = log_ref, log_ref
    for low, high, (ref, value) in segments(_over_dimensions(eta_ref), _over_dimensions(eta)):
        ratio = log_variance_ratio(variance, np.maximum(low, sigma_0), np.minimum(high, sigma_T))
        log_ref = log_ref - (1 + ref**2) * ratio / 2
        log_phi = log_phi - (1 + value**2) * ratio / 2
        # a range that reaches sigma_T = inf has ratio = inf, which equal eta must not turn into 0 * inf
        change = (value - ref) * (value + ref)
        log_quotient = log_quotient - change * np.where(change == 0, 0.0, ratio) / 2
    larger = np.exp(np.maximum(log_ref, log_phi))
    return -np.sign(log_quotient) * larger * -np.expm1(-np.abs(log_quotient)), np.exp(log_ref) + np.exp(log_phi)


def excess_less_variance(process: Process, variance: Array) -> Array:
    """Prior variance in z less v + sigma_T^2: the error of the start (irrelevant, and -v, at sigma_T = inf)."""
    return _finite_excess(process) - variance


def _finite_excess(process: Process) -> Array:
    excess = np.asarray(process.prior_excess)[..., None]
    return np.where(np.isfinite(excess), excess, 0.0)  # at sigma_T = inf Phi = 0 and the prior leaves no trace


def _over_dimensions(eta: Array | Windows) -> Array | Windows:
    return eta if isinstance(eta, Windows) else eta[..., None]
