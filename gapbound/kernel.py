r"""One-step kernels: every sampler once, as coefficients of a step from sigma down to sigma_next in z = x / s.

With the noise prediction eps = -sigma score(z), the denoised point D = z - sigma eps and xi ~ N(0, I),

.. math:: z' = D + \text{carry} \cdot \epsilon + \text{std} \cdot \xi,

and for the samplers that evaluate the model a second time, at z' and sigma_next,

.. math:: z'' = D + \text{carry}_2 \cdot \epsilon + \text{again} \cdot \epsilon' + \text{std} \cdot \xi.

A sampler with churn adds its noise first: with ``raised``, eps and D are those of z + std xi at the level raised, where
raised^2 = sigma^2 + std^2, and no noise follows.

Closed-form laws (``chain``), simulation (``simulate``) and schedulers of other libraries all read these coefficients.
The eta of other libraries differs: ours multiplies dW, and DDIM's agrees with it at 0 and 1 only; ``units`` converts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, choice
from gapbound.eta import Windows, mean_square, squared_integral

OURS = "eta"


@dataclass(frozen=True)
class Step:
    """Coefficients of one step; see the module.

    ``again`` is None where the model is evaluated once, ``raised`` where no noise comes before that.
    """

    carry: Array
    std: Array
    carry_2: Array | None = None
    again: Array | None = None
    raised: Array | None = None


def ddim(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""DDIM: carry = sqrt(sigma'^2 - n^2), std = n, n^2 = eta^2 sigma'^2 (1 - sigma'^2/sigma^2).

    Valid only while eta^2 (1 - sigma'^2/sigma^2) <= 1; a last step to sigma' = 0 has no noise and admits every eta.

    Reference: Denoising Diffusion Implicit Models (Song et al., 2021), https://arxiv.org/abs/2010.02502

    Raises:
        ValueError: the step does not admit this eta; says the largest that works and names gDDIM.
    """
    eta2 = _admissible_square(sigma, sigma_next, eta)
    share = np.where(sigma_next > 0, eta2 * (1 - (sigma_next / sigma) ** 2), 0.0)
    share = np.minimum(share, 1.0)  # the largest admissible eta may pass 1 by a rounding
    return Step(sigma_next * np.sqrt(1 - share), sigma_next * np.sqrt(share))


def gddim(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""gDDIM and, with the target's ``variance`` v, its exact-marginal form.

    .. math:: \text{carry} = \frac{\sqrt{v_s v_t} R - v}{\sigma}, \quad \text{std}^2 = v_s (1 - R^2), \quad
        R = (v_s / v_t)^{\eta^2/2}, \quad v_s = v + \sigma'^2, \quad v_t = v + \sigma^2

    At v = 0: carry = sigma' k, std^2 = sigma'^2 (1 - k^2), k = (sigma'/sigma)^(eta^2). Valid for every eta; eta = 0 is
    DDIM, eta = 1 equals DDIM at eta = 1, eta -> inf re-noises completely. With v the variance of a Gaussian target the
    transition is the exact one at any step size.

    Reference: gDDIM: Generalized denoising diffusion implicit models (Zhang et al., 2023),
    https://arxiv.org/abs/2206.05564
    """
    decorrelation = squared_integral(eta, sigma_next, sigma, variance)  # -log R^2
    v_s = variance + sigma_next**2
    correlated = np.sqrt(v_s) * np.sqrt(1 + variance / sigma**2) * np.exp(-decorrelation / 2)
    return Step(correlated - variance / sigma, np.sqrt(v_s * -np.expm1(-decorrelation)))


def euler_maruyama(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""Euler-Maruyama in tau: z + (1 + eta^2)/2 h score + eta sqrt(h) xi, h = sigma^2 - sigma'^2. Weak order 1."""
    h, eta2 = _finite_span("euler-maruyama", sigma, sigma_next), mean_square(eta, sigma_next, sigma)
    return Step(sigma - (1 + eta2) / 2 * h / sigma, np.sqrt(eta2 * h))


def heun(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    """Heun's method for the ODE dz = eps dsigma; a last step to sigma' = 0 is an Euler step. Order 2.

    Reference: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Algorithm 1,
    https://arxiv.org/abs/2206.00364

    Raises:
        ValueError: eta is not 0.
    """
    eta2 = mean_square(eta, sigma_next, sigma)
    if np.any(eta2):
        raise ValueError(f"heun integrates the ODE, got eta={np.sqrt(np.max(eta2)):g}; use eta=0 or 'stochastic-heun'")
    _finite_span("heun", sigma, sigma_next)
    if not np.any(sigma_next):
        return Step(sigma_next, eta2)
    last = sigma_next == 0
    return Step(
        sigma_next, eta2, np.where(last, 0.0, (sigma + sigma_next) / 2), np.where(last, 0.0, (sigma_next - sigma) / 2)
    )


def stochastic_heun(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""Heun in tau with additive noise, the same xi in both stages; a last step to sigma' = 0 is Euler-Maruyama.

    .. math:: z'' = z + c \frac{h}{2} (\text{score} + \text{score}') + \eta \sqrt h \, \xi, \qquad c = (1 + \eta^2)/2

    Weak order 2 for additive noise (Kloeden & Platen, Numerical Solution of Stochastic Differential Equations, 15.1).
    """
    first = euler_maruyama(sigma, sigma_next, eta)
    if not np.any(sigma_next):
        return first
    half_push = (sigma - first.carry) * sigma / 2  # c h / 2
    last = sigma_next == 0
    again = np.where(last, 0.0, -half_push / np.where(last, 1.0, sigma_next))
    return Step(first.carry, first.std, np.where(last, first.carry, sigma - half_push / sigma), again)


def edm(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""EDM's stochastic sampler: noise raises sigma to (1 + gamma) sigma, Heun's ODE step goes from there to sigma'.

    .. math:: (1 + \gamma)^2 = 1 + \eta^2 (1 - \sigma'^2/\sigma^2)

    The published gamma is a number, capped at sqrt(2) - 1 (eta^2 (1 - sigma'^2/sigma^2) <= 1, DDIM's limit);
    ``units.from_edm`` converts. There is no cap here, and no inflation of the noise (S_noise = 1). Noising and the ODE
    each carry marginals to marginals, so that these are kept to order 2; anything else, such as what is left of the
    start, is carried to order 1.

    Reference: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Algorithm 2,
    https://arxiv.org/abs/2206.00364
    """
    churn2 = mean_square(eta, sigma_next, sigma) * _finite_span("edm", sigma, sigma_next)
    raised = np.sqrt(sigma**2 + churn2)
    ode = heun(raised, sigma_next, np.zeros(()))
    return Step(ode.carry, np.sqrt(churn2), ode.carry_2, ode.again, raised)


def flow_grpo(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""Flow-GRPO's step: Euler-Maruyama in the time t of flow matching, noise level a = sqrt(2) eta.

    .. math:: x' = x - (t - t') \Big(u + \frac{g^2}{2t} \epsilon\Big) + g \sqrt{t - t'} \, \xi, \quad
        u = \epsilon - D, \quad g^2 = a^2 \frac{t}{1 - t} = 2 \eta^2 \sigma

    g is singular at t = 1: the first step from there takes g^2 = a^2 / (1 - t') = 2 eta^2 (1 + sigma') instead, t' its
    own end, as the published code does. A last step to sigma' = 0 leaves its noise in the sample.

    Reference: Flow-GRPO: Training Flow Matching Models via Online RL (Liu et al., 2025),
    https://arxiv.org/abs/2505.05470
    """
    square = 2 * mean_square(eta, sigma_next, sigma)
    return _flow_euler(sigma, sigma_next, square * np.where(np.isinf(sigma), 1 + sigma_next, sigma))


def dance_grpo(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""DanceGRPO's step: that of ``flow_grpo`` with a constant g = e, which is the argument ``eta`` here.

    In our units eta(sigma)^2 = e^2 / (2 sigma): no constant eta is its limit. Regular at t = 1.

    Reference: DanceGRPO: Unleashing GRPO on Visual Generation (Xue et al., 2025), https://arxiv.org/abs/2505.07818
    """
    return _flow_euler(sigma, sigma_next, mean_square(eta, sigma_next, sigma))


def cps(sigma: Array, sigma_next: Array, eta: Array | Windows, variance: Any = 0.0) -> Step:
    r"""Coefficients-preserving sampling: gDDIM with k = cos(pi eta_C / 2) in every step, whatever its length.

    The argument ``eta`` is eta_C in [0, 1]; of a window over a part of the step, its root mean square. As the steps get
    shorter the noise of a given stretch grows without bound, and on N(m, v) the variance ends at v (1 + k) / 2: the
    sampler does not converge to the data.

    Reference: Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching (2025),
    https://arxiv.org/abs/2509.05952

    Raises:
        ValueError: eta_C is above 1.
    """
    share = np.sqrt(mean_square(eta, sigma_next, sigma))
    if (share > 1 + 1e-12).any():
        raise ValueError(
            f"CPS's own eta lies in [0, 1], got {np.max(share):g}; 1 re-noises completely, and units.to_cps converts "
            "from ours"
        )
    angle = np.minimum(share, 1.0) * (np.pi / 2)  # a mean over a window may pass 1 by a rounding
    return Step(sigma_next * np.cos(angle), sigma_next * np.sin(angle))


def _flow_euler(sigma: Array, sigma_next: Array, square: Array) -> Step:
    """Euler-Maruyama in t = sigma / (1 + sigma) on x = (1 - t) z, with noise of variance ``square`` per unit of t."""
    left = 1 - sigma_next / sigma  # (t - t') (1 + sigma') / t
    return Step(sigma_next - left * square / 2, np.sqrt(square * left * (1 + sigma_next) / (1 + 1 / sigma)))


@dataclass(frozen=True)
class Sampler:
    """A named kernel and what the rest of the library must know of it.

    Attributes:
        coefficients: (sigma, sigma_next, eta, variance) -> Step.
        weak_order: order at which the law tends to that of continuous time as the steps shrink; 0 where it does not.
        covariance_aware: whether it needs the variances of a Gaussian target (they are 0 for all others).
        ode_order: the same at eta = 0, where it differs.
        marginal_order: the same for the marginals alone, of a chain started from one; where it differs.
        keeps_points: whether the marginals of a point target are exact at any step.
        unit: what its argument ``eta`` is: ours, or the number that its paper calls so.
    """

    coefficients: Callable[..., Step]
    weak_order: float
    covariance_aware: bool = False
    ode_order: float | None = None
    marginal_order: float | None = None
    keeps_points: bool = False
    unit: str = OURS

    @property
    def converges(self) -> bool:
        """Whether the law tends to that of continuous time at every eta that is admitted."""
        return self.weak_order > 0

    @property
    def orders(self) -> tuple[float, float, float]:
        """Of the law at eta > 0, of the law at eta = 0, of the marginals at eta > 0."""
        ode, marginals = (self.weak_order if x is None else x for x in (self.ode_order, self.marginal_order))
        return self.weak_order, ode, marginals


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(ddim, 1, keeps_points=True),
    "gddim": Sampler(gddim, 1, keeps_points=True),
    "exact": Sampler(gddim, float("inf"), covariance_aware=True, keeps_points=True),
    "euler-maruyama": Sampler(euler_maruyama, 1),
    "heun": Sampler(heun, 2, keeps_points=True),
    "stochastic-heun": Sampler(stochastic_heun, 2),
    "edm": Sampler(edm, 1, ode_order=2, marginal_order=2, keeps_points=True),
    "flow-grpo": Sampler(flow_grpo, 1),
    "dance-grpo": Sampler(dance_grpo, 1, unit="e"),
    "cps": Sampler(cps, 0, ode_order=1, keeps_points=True, unit="eta_C"),
}


def sampler_table() -> str:
    """What each of ``SAMPLERS`` keeps and how fast it converges, one line a sampler; tests measure every entry."""
    heads = ("sampler", "its eta", "marginals of a point", "other marginals", "law", "ODE's law", "converges")
    rows = [heads]
    for name, sampler in SAMPLERS.items():
        law, ode, marginals = (_order_in_words(order) for order in sampler.orders)
        points, limit = "exact" if sampler.keeps_points else marginals, "yes" if sampler.converges else "no"
        rows.append((name, sampler.unit, points, marginals, law, ode, limit))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _order_in_words(order: float) -> str:
    return "exact" if np.isinf(order) else f"order {order:g}" if order else "wrong limit"


@door()
def step(sampler: str, sigma: Any, sigma_next: Any, eta: Array | Windows, variance: Array | None = None) -> Step:
    """Coefficients of one step of the named sampler; ``variance`` is a Gaussian target's, and "exact" alone uses it.

    Raises:
        ValueError: an unknown sampler, or an eta or a step that it does not admit.
    """
    kind = SAMPLERS[choice("sampler", sampler, SAMPLERS)]
    v = variance if kind.covariance_aware else 0.0
    return kind.coefficients(np.asarray(sigma, dtype=float), np.asarray(sigma_next, dtype=float), eta, v)


def check(sampler: str, sigmas: Array, eta: Array | Windows, variance: Array | None) -> None:
    """Refuse, before any work, a sampler that does not fit the model or a grid, shape (N + 1, ...), that it can't walk.

    Raises:
        ValueError: an unknown sampler; "exact" where the target has no ``variance`` (is not a Gaussian); DDIM with an
            eta beyond what its widest step admits.
    """
    if SAMPLERS[choice("sampler", sampler, SAMPLERS)].covariance_aware and variance is None:
        raise ValueError(f"sampler {sampler!r} needs the variances of a Gaussian target; use 'gddim' for other models")
    if sampler == "ddim":
        limit = np.min([_largest_eta(s, s_next) for s, s_next in itertools.pairwise(sigmas)])
        for sigma, sigma_next in itertools.pairwise(sigmas):
            _admissible_square(sigma, sigma_next, eta, limit)


def _largest_eta(sigma: Array, sigma_next: Array) -> Array:
    """The largest eta of a DDIM step; a step to sigma' = 0 adds no noise and admits every eta."""
    with np.errstate(divide="ignore"):
        return np.where(sigma_next > 0, 1 / np.sqrt(1 - (sigma_next / sigma) ** 2), np.inf)


def _admissible_square(sigma: Array, sigma_next: Array, eta: Array | Windows, limit: Any = None) -> Array:
    eta2 = mean_square(eta, sigma_next, sigma)
    largest = _largest_eta(sigma, sigma_next)
    if (np.sqrt(eta2) > largest * (1 + 1e-12)).any():
        raise ValueError(
            f"DDIM admits eta up to {np.min(largest) if limit is None else limit:.4g} on this grid, got "
            f"eta={np.sqrt(np.max(eta2)):.4g}; use sampler='gddim', which is valid for every eta, or smaller steps"
        )
    return eta2


def _finite_span(name: str, sigma: Array, sigma_next: Array) -> Array:
    if not np.isfinite(sigma).all():
        raise ValueError(
            f"{name} cannot step from sigma=inf; start flow matching at t_max < 1, or use sampler='gddim' or 'ddim'"
        )
    return sigma**2 - sigma_next**2
