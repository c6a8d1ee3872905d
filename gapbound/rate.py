r"""How fast the gap closes as sigma_T grows: leading exponent and constant, read from the sympy terms of ``symbolic``.

A sampler's own error E r(Y^eta) - E_target r is a sum of families of terms (``symbolic.families``), each a coefficient
times a power of 1/T (VE), alpha_bar_T (VP) or 1/sigma_T (flow matching started below t = 1); the gap is the reference's
error less the sampler's. ``rate`` adds what has equal exponents, in rising order, until something is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, choice, positive
from gapbound.eta import Eta
from gapbound.gaussian import Gaussian
from gapbound.process import Process
from gapbound.reward import Reward


@dataclass(frozen=True)
class Rate:
    """``of ~ constant * variable^exponent`` as sigma_T grows.

    Attributes:
        exponent: power of the variable: negative for T and sigma_T, positive for alpha_bar_T; None where the gap is 0
            for every sigma_T.
        constant: signed; 0.0 where the exponent is None.
        variable: "T" (VE), "alpha_bar_T" (VP) or "sigma_T" (flow matching).
        of: "gap" or "error".
        next_exponent: of the next term, None if the known orders hold none. The closer it is to ``exponent``, the
            larger sigma_T must be before the leading term is all one sees.
    """

    exponent: float | None
    constant: float
    variable: str
    of: str = "gap"
    next_exponent: float | None = None

    @door(value=positive)
    def __call__(self, value: Any) -> Array:
        """The leading term where the variable is ``value``, positive.

        Raises:
            ValueError: the value is not positive, or the term leaves the range of floats.
        """
        value = np.asarray(value, dtype=float)
        return np.zeros_like(value) if self.exponent is None else self.constant * value**self.exponent

    def __str__(self) -> str:
        """As in "gap ~ 0.495 T^-1"."""
        if self.exponent is None:
            return f"{self.of} = 0 for every {self.variable}"
        return f"{self.of} ~ {self.constant:.3g} {self.variable}^{self.exponent:.4g}"


@door()
def rate(
    target: Gaussian,
    process: Process | type[Process],
    reward: Reward,
    eta: Eta = 1.0,
    eta_ref: Eta = 0.0,
    of: str = "gap",
) -> Rate:
    r"""Leading term of the gap, or of the eta-sampler's own error, as sigma_T grows.

    In the eigenbasis of the covariance, with g the gradient of r at the mean m and e = 0, 1, 1 + 2 sigma_T,

    .. math:: \mathrm{error} = -\sum_i g_i m_i \Phi_i - \sum_{ij} A_{ij} (m_i m_j + 1_{i=j} (e - v_i)) \Phi_i \Phi_j,
        \qquad \Phi_i = \Big(\frac{v_i}{v_i + \sigma_T^2}\Big)^{(1 + \eta^2)/2}.

    Sampling ends at t = 0. Sums that cancel to 1e-12 of their absolute terms count as 0, and the next power leads.
    Where everything cancels (eta = eta_ref; VP with m = 0, v = 1) the result has exponent None and constant 0. A sum
    over anisotropic directions may cancel at eta_ref and not at eta: the exponent of the gap then depends on eta.

    Args:
        target: Gaussian without batch axes.
        process: VE, VP or FlowMatching, the class or an instance: only its kind matters.
        reward: ``Quadratic`` or ``Linear``.
        eta: stochasticity, one number or ``Windows``. A window at fixed sigma multiplies the constant; only a window
            that reaches sigma = inf changes the exponent.
        eta_ref: of the reference sampler; without meaning for an error.
        of: "gap", the reference less the eta-sampler, or "error", the eta-sampler less the target.

    Raises:
        ValueError: batch axes, an array of eta or one above 1e6, an unknown ``of``, a constant that no float holds,
            cancellation in every known order.
        TypeError: another target, process or reward.
    """
    from gapbound.rate_terms import leading_term

    choice("of", of, ("gap", "error"))
    return leading_term(target, process, reward, eta, eta_ref, of)
