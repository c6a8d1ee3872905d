r"""An ODE on a score that was trained at eta: the correction, both gaps of it, and the eta at which there is none.

Shifts of a linear reward are in units of b v / beta, r = rho^(eta^2 / 2), n = 1 / eta^2, so that rho^(1/2) = r^n.
"""

from __future__ import annotations

import sympy as sp

from analysis.proofs.fine_tuning import STRENGTH
from analysis.proofs.registry import HALF_POWER, Expr, Residuals, check, eta, tau, v

r, n, H = sp.symbols("r n H", positive=True)
SDE, ODE, CORRECTED = 1 - r**2, 2 * (1 - r) * n / (n + 1), 1 - r**n
f = (1 - r**n) / (1 - r)


@check
def the_weight_makes_the_control_that_of_eta_1(slip: Expr = 1) -> Residuals:
    """W k phi_eta = phi_1, W = (1 + eta^2)/(2 eta^2) ((v + tau)/v)^((eta^2 - 1)/2): the ODE moves by 1 - rho^(1/2)."""
    share = v / (v + tau)
    weight = (1 + eta**2) / (2 * eta**2) * share ** ((1 - eta**2) / 2)
    shift = v * (1 - sp.sqrt(share))  # of the ODE that runs on the control of eta = 1
    return (
        sp.simplify(weight * STRENGTH * share**HALF_POWER - slip * share),
        sp.simplify(shift.diff(tau) - share * sp.sqrt(share) / 2),
    )


@check
def widening_is_a_product_of_two_factors(slip: Expr = 1) -> Residuals:
    """corrected - plain = (1 - r)(f - 2n/(n + 1)), corrected + plain - 2 SDE = (1 - r)(f - 2r - 2/(n + 1))."""
    return (
        sp.simplify(CORRECTED - ODE - (1 - r) * (f - slip * 2 * n / (n + 1))),
        sp.simplify(CORRECTED + ODE - 2 * SDE - (1 - r) * (f - 2 * r - slip * 2 / (n + 1))),
    )


@check
def the_second_factor_touches_0_at_its_last_root(slip: Expr = 1) -> Residuals:
    """At r = 1 f = n and f' = n(n - 1)/2; both f - 2r - 2/(n + 1) and its slope vanish where n = (1 + sqrt 17)/2."""
    x, last = sp.Symbol("x", positive=True), (1 + sp.sqrt(17)) / 2
    series = [sp.ff(n, k) / sp.factorial(k) * (-x) ** k for k in range(1, 4)]  # (1 - x)^n - 1, x = 1 - r
    near = sp.expand(-sum(series) / x)
    value, slope = near.subs(x, 0), -near.diff(x).subs(x, 0)
    return (
        sp.simplify(value - slip * n),
        sp.simplify(slope - slip * n * (n - 1) / 2),
        sp.simplify((value - 2 - 2 / (n + 1)).subs(n, last)),
        sp.simplify((slope - 2).subs(n, last)),
    )


@check
def matched_eta_solves_the_magnets_equation(slip: Expr = 1) -> Residuals:
    """ODE = SDE where eta^2 = 1/n = (1 - r)/(1 + r), which is tanh(eta^2 L / 4) for r = exp(-eta^2 L / 2)."""
    half = sp.Symbol("x", positive=True)  # eta^2 L / 4
    return (
        sp.simplify((ODE - slip * SDE).subs(n, (1 + r) / (1 - r))),
        sp.simplify(((1 - r) / (1 + r)).subs(r, sp.exp(-2 * half)) - sp.tanh(half).rewrite(sp.exp)),
    )


@check
def ode_of_a_quadratic_optimum(slip: Expr = 1) -> Residuals:
    """Psi = (v/(v + tau))^(1/2) B^(-1/(1 + eta^2)), B = 1 + H v (1 - q^2), and the control's push as -dq.

    In x = log((v + tau)/v), where q = exp(-eta^2 x/2) has the slope -eta^2 q/2.
    """
    x, q, B = sp.symbols("x q B", positive=True)
    bent = 1 + H * v * (1 - q**2)
    phi, scale = sp.exp(-x / 2) * q, v * sp.exp(x)  # scale = dtau/dx = v + tau
    rate = -1 / sp.Integer(2) - slip / (1 + eta**2) * bent.diff(q) / bent * (-(eta**2) * q / 2)  # of log Psi
    psi = sp.exp(-x / 2) * B ** (-slip / (1 + eta**2))
    pushed = psi * STRENGTH / 2 * phi / B * scale
    claimed = -2 * v / (1 + eta**2) * B ** (-(2 + eta**2) / (1 + eta**2)) * (-(eta**2) * q / 2)
    return (
        sp.simplify(rate + scale * (1 / scale + STRENGTH * phi**2 * H / bent) / 2),
        sp.simplify(sp.powsimp(sp.expand_power_base(pushed / claimed), force=True) - 1),
    )
