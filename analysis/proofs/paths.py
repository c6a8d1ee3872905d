"""Laws of paths: KL, Fisher information, how much of the end one step explains, and the start from pure noise."""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, check, eta, m, t, tau, v, z


@check
def path_kl_is_cheapest_at_eta_1(slip: Expr = 1) -> Residuals:
    """(1 + eta^2)^2/(8 eta^2) = c^2/(2 eta^2) = 1/2 + (1 - eta^2)^2/(8 eta^2)."""
    factor = slip * (1 + eta**2) ** 2 / (8 * eta**2)
    excess = (1 - eta**2) ** 2 / (8 * eta**2)
    return sp.simplify(factor - HALF_POWER**2 / (2 * eta**2)), sp.simplify(factor - sp.Rational(1, 2) - excess)


@check
def fisher_information_of_a_shared_mean(slip: Expr = 1) -> Residuals:
    """d tau of (1 + eta^2)^2/(4 eta^2) (1/v - 1/(v + tau)) is c^2/eta^2 times the squared d score / d m."""
    information = slip * (1 + eta**2) ** 2 / (4 * eta**2) * (1 / v - 1 / (v + tau))
    response = (-(z - m) / (v + tau)).diff(m)
    return sp.simplify(information.diff(tau) - HALF_POWER**2 / eta**2 * response**2), information.subs(tau, 0)


@check
def shares_of_steps_telescope(slip: Expr = 1) -> Residuals:
    """Phi^2 n^2 / v for the exact step is a^x (1 - q^x) = (v/v_s)^x - (v/v_t)^x with x = eta^2; and the best x."""
    v_s, v_t = sp.symbols("v_s v_t", positive=True)
    x, a, q = eta**2, v / v_s, v_s / v_t
    share = a ** (1 + x) * v_s * (1 - q**x) / v
    A, B, power = sp.symbols("A B x", positive=True)  # -log a and -log q
    best = slip * sp.log((A + B) / A) / B
    slope = (sp.exp(-A * power) - sp.exp(-(A + B) * power)).diff(power) * sp.exp(A * power)
    return (
        sp.simplify(sp.expand_power_base(share - slip * (a**x - (v / v_t) ** x), force=True)),
        sp.simplify(sp.expand(slope).subs(power, best)),
    )


@check
def signal_of_one_path_is_share_over_one_plus_share(slip: Expr = 1) -> Residuals:
    """E and Var of (c xi + e zeta) xi with c^2 + e^2 = 1 are c and 1 + c^2: squared signal-to-noise c^2/(1 + c^2)."""
    c, one, two = sp.Symbol("c", positive=True), sp.Symbol("xi", real=True), sp.Symbol("zeta", real=True)
    rest = sp.sqrt(1 - c**2)

    def mean(expression: Expr) -> Expr:
        moments = {0: 1, 1: 0, 2: 1, 3: 0, 4: 3}  # of a standard normal
        terms = sp.Poly(sp.expand(expression), one, two).terms()
        return sum(factor * moments[i] * moments[j] for (i, j), factor in terms)

    gradient = (c * one + rest * two) * one
    first = mean(gradient)
    variance = mean(gradient**2) - first**2
    return sp.simplify(first - c), sp.simplify(first**2 / variance - slip * c**2 / (1 + c**2))


@check
def flow_is_regular_at_t_1_and_the_sde_forgets(slip: Expr = 1) -> Residuals:
    """On N(m, v): the ODE's drift at t = 1 is x - m although g^2 = 2t/(1 - t) is not finite; corr(Y, Y') tends to 0."""
    x = sp.Symbol("x", real=True)
    score = -(x - (1 - t) * m) / ((1 - t) ** 2 * v + t**2)
    drift = sp.simplify(-x / (1 - t) - t / (1 - t) * score)
    square = sp.simplify((1 - t) ** 2 * (t**2 / (1 - t) ** 2).diff(t))  # s^2 d sigma^2 / dt
    upper = sp.Symbol("w", positive=True)
    from_above = ((v + tau) / (v + upper)) ** HALF_POWER * sp.sqrt((v + upper) / (v + tau))
    correlation = sp.simplify(from_above - ((v + tau) / (v + upper)) ** (eta**2 / 2))
    return (
        sp.simplify(sp.limit(drift, t, 1) - slip * (x - m)),
        sp.simplify(square - 2 * t / (1 - t)),
        sp.limit(1 / square, t, 1),
        sp.simplify(sp.powsimp(correlation, force=True)),
        sp.limit(((v + tau) / (v + upper)) ** sp.Rational(1, 2), upper, sp.oo),  # eta = 1
    )
