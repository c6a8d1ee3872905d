"""Statements about Gaussian targets: laws, rates, divergences, attainment, and the counterexamples."""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, S, check, eta, m, m_pi, tau, v, z
from gapbound import symbolic


@check
def gaussian_law_solves_the_moment_equations(slip: Expr = 1) -> Residuals:
    """Mean and variance of the theorem against the moment equations that ``symbolic`` derives from the generator."""
    excess = sp.Symbol("e", real=True)
    ratio = (v + tau) / (v + S)
    law = m + (m_pi - m) * ratio ** (slip * HALF_POWER), v + tau + (excess - v) * ratio ** (1 + eta**2)
    residuals = []
    for ode, moment, start in zip(symbolic.moment_odes(), law, (m_pi, S + excess), strict=True):
        right = ode.rhs.subs({symbolic.tau: tau, symbolic.v: v, symbolic.eta: eta, symbolic.m: m})
        right = right.subs(ode.lhs.args[0].subs(symbolic.tau, tau), moment)
        residuals += [moment.diff(tau) - right, moment.subs(tau, S) - start]
    return tuple(sp.simplify(residual) for residual in residuals)


@check
def gap_is_a_difference_times_a_bracket(slip: Expr = 1) -> Residuals:
    """The factored gap of r = -a (x - c)^2, so that a zero bracket is a zero gap; and its expectation by moments."""
    a, c, excess, one, two = sp.symbols("a c e Phi_0 Phi_eta", real=True)
    delta = m_pi - m

    def expected(phi: Expr) -> Expr:
        return -a * ((m + delta * phi - c) ** 2 + v + (excess - v) * phi**2)

    bracket = 2 * (m - c) * delta + slip * (delta**2 + excess - v) * (one + two)
    return (sp.expand(expected(one) - expected(two) + a * (one - two) * bracket),)


@check
def leading_constants_on_the_line(slip: Expr = 1) -> Residuals:
    """The table of rates: T gap, T^2 gap (centred), gap / alpha_bar (centred), sigma_T gap, at eta = 1."""
    a, c, T = sp.symbols("a c T", positive=True)
    delta = m_pi - m

    def gap(top: Expr, excess: Expr) -> Expr:
        phi_0, phi = sp.sqrt(v / (v + top)), v / (v + top)
        return -a * (phi_0 - phi) * (2 * (m - c) * delta + (delta**2 + excess - v) * (phi_0 + phi))

    alpha = 1 / (1 + T**2)  # VP with sigma_T = T
    centred, at_m = {m_pi: m}, {c: m}
    claims = [
        (T * gap(T**2, 0), -2 * a * (m - c) * delta * sp.sqrt(v)),
        ((T**2 * gap(T**2, 0)).subs(centred), a * v**2),
        ((T**2 * gap(T**2, 0)).subs(at_m), a * v * (v - delta**2)),
        ((gap(T**2, 1) / alpha).subs(centred), a * v * (v - 1)),
        ((gap(T**2, 1) / alpha).subs(at_m), a * v * (v - 1 - delta**2)),
        (T * gap(T**2, 1 + 2 * T), -2 * a * (m - c) * delta * sp.sqrt(v) - 2 * a * v),
    ]
    return tuple(sp.simplify(sp.limit(sp.simplify(scaled), T, sp.oo) - slip * claim) for scaled, claim in claims)


@check
def cancelled_directions_leave_the_sde_s_own_rate(slip: Expr = 1) -> Residuals:
    """T^(1 + eta^2) gap of b'x at eta = 1/2 when sum_i b_i delta_i sqrt(v_i) = 0 in d = 2 with different variances."""
    T, one, two, share = sp.symbols("T v_1 v_2 k", positive=True)
    power = HALF_POWER.subs(eta, sp.Rational(1, 2))
    slopes = {one: share / sp.sqrt(one), two: -share / sp.sqrt(two)}
    ode = sum(g * sp.sqrt(w / (w + T**2)) for w, g in slopes.items())
    first = sp.simplify(sp.limit(T ** (2 * power) * ode, T, sp.oo))  # T^-3 against T^-5/4
    sde = sum(g * sp.limit((w * T**2 / (w + T**2)) ** power, T, sp.oo) for w, g in slopes.items())
    expected = -share * (one ** (power - sp.Rational(1, 2)) - slip * two ** (power - sp.Rational(1, 2)))
    return (sp.simplify(first - sde - expected),)


def _relative() -> tuple[Expr, Expr, dict[Expr, Expr]]:
    """Relative variance excess x and squared shift t^2 of the law in units of q_tau, with their d tau."""
    x, square = sp.Function("x")(tau), sp.Function("h")(tau)
    rate = eta**2 / (v + tau)  # (v + tau)^(2c) over v + tau
    return x, square, {x.diff(tau): rate * x, square.diff(tau): rate * square}


@check
def chi_square_dissipates_on_gaussians(slip: Expr = 1) -> Residuals:
    """d tau chi^2 = eta^2 E_q|f'|^2 along the sampler, by the closed forms of both; nothing at eta = 0."""
    x, square, flow = _relative()
    one_plus = sp.exp(square / (1 - x)) / sp.sqrt(1 - x**2)
    energy = one_plus * (x**2 / (1 - x**2) + square / (1 - x) ** 2) / (v + tau)
    return (sp.simplify(one_plus.diff(tau).subs(flow) - slip * eta**2 * energy),)


@check
def entropy_dissipates_on_gaussians(slip: Expr = 1) -> Residuals:
    """d tau KL = eta^2/2 E|grad log f|^2 along the sampler."""
    x, square, flow = _relative()
    kl = (x - sp.log(1 + x) + square) / 2
    information = (x**2 / (1 + x) + square) / (v + tau)
    return (sp.simplify(kl.diff(tau).subs(flow) - slip * eta**2 / 2 * information),)


@check
def gaussian_divergences(slip: Expr = 1) -> Residuals:
    """chi^2 + 1, E_q|f'|^2, KL of N(-t, 1 + x) against N(0, 1), by integrating polynomials against Gaussians."""
    x, shift = sp.Symbol("x", real=True), sp.Symbol("t", real=True)
    w = 1 + x
    # pi^2/q is exp of a quadratic: precision 2/w - 1, linear part -2t/w, constant -t^2/w
    precision, linear, constant = 2 / w - 1, -2 * shift / w, -(shift**2) / w
    one_plus = sp.exp(constant + linear**2 / precision / 2) / (w * sp.sqrt(precision))
    slope, offset = 1 - 1 / w, -shift / w  # score of pi less that of q: slope y + offset
    energy = (slope * linear / precision + offset) ** 2 + slope**2 / precision
    log_ratio = (-sp.log(w) - ((z + shift) ** 2 / w) + z**2) / 2
    kl = _mean(log_ratio, -shift, w)
    inside = {x: sp.Symbol("k", positive=True) / (1 + sp.Symbol("k", positive=True))}  # 0 < x < 1
    return (
        sp.simplify((one_plus**2 - slip * sp.exp(2 * shift**2 / (1 - x)) / (1 - x**2)).subs(inside)),
        sp.simplify(energy - x**2 / (1 - x**2) - shift**2 / (1 - x) ** 2),
        sp.simplify(kl - (x - sp.log(1 + x) + shift**2) / 2),
    )


@check
def chi_square_bound_is_attained_to_first_order(slip: Expr = 1) -> Residuals:
    """B1 over the error of a linear reward tends to 1 with the shift, for the ODE and for the SDE (v_pi = v + S).

    The sum of both over the gap tends to (1 + rho^(eta^2/2))/(1 - rho^(eta^2/2)).
    """
    delta = sp.Symbol("delta", positive=True)
    rho = v / (v + S)
    distance = sp.sqrt(sp.exp(delta**2 / (v + S)) - 1)
    bounds = sp.sqrt(v) * distance, sp.sqrt(v) * distance * rho ** (eta**2 / 2)
    errors = delta * sp.sqrt(rho), delta * rho**HALF_POWER
    ratios = [bound / error for bound, error in zip(bounds, errors, strict=True)]
    of_the_gap = sum(bounds) / (errors[0] - errors[1])
    left = rho ** (eta**2 / 2)
    limits = [(ratio, 1) for ratio in ratios] + [(of_the_gap, (1 + left) / (1 - left))]
    return tuple(sp.simplify(sp.limit(sp.simplify(ratio), delta, 0) - slip * expected) for ratio, expected in limits)


@check
def duhamel_on_gaussians(slip: Expr = 1) -> Residuals:
    """For r = x and r = x^2: d tau E_ODE u(Y_tau, tau) is -eta^2/2 E_q[f' u'], and its ends are E r of the samplers."""
    delta, excess = sp.symbols("delta e", real=True)
    root, phi = sp.Function("R", positive=True)(tau), sp.Function("phi", positive=True)(tau)  # R^2 = (v+tau)/(v+S)
    rules = {root.diff(tau): root / (2 * (v + tau)), phi.diff(tau): -HALF_POWER * phi / (v + tau)}
    mean, variance = m + delta * root, v + tau + excess * root**2  # the ODE's law at tau
    values = (m + phi * (z - m), (m + phi * (z - m)) ** 2 + v - phi**2 * (v + tau))
    ends = ({tau: 0, phi: 1}, {tau: S, root: 1})
    residuals = []
    for value, power in zip(values, (1, 2), strict=True):
        by_parts = (z - m) / (v + tau) * value.diff(z) - value.diff(z, 2)  # int q f' u' = E_ODE of this
        along = _mean(value, mean, variance)
        change = along.diff(tau).subs(rules) + slip * eta**2 / 2 * _mean(by_parts, mean, variance)
        residuals.append(sp.simplify(sp.expand(change)))
        for end, (shift, spread) in zip(ends, ((root, root**2), (phi, phi**2)), strict=True):
            expected = (m + delta * shift) ** power + (power - 1) * (v + excess * spread)
            residuals.append(sp.expand((along - expected).subs(end)))
    return tuple(residuals)


def _mean(polynomial: Expr, mean: Expr, variance: Expr) -> Expr:
    """E of a polynomial in z of degree 2 at most under N(mean, variance)."""
    moments = (1, mean, mean**2 + variance)
    return sum(a * b for a, b in zip(sp.Poly(polynomial, z).all_coeffs()[::-1], moments, strict=False))


@check
def duhamel_is_attained_by_a_linear_reward(slip: Expr = 1) -> Residuals:
    """B4's third form over |gap| is sqrt(1 + chi^2) at every eta, for N(m, v), r = x and v_pi = v + S."""
    delta, top = sp.symbols("delta w", positive=True)  # w = v + tau
    rho = v / (v + S)
    root = delta / (v + S)  # sqrt(I_T / (1 + chi^2))
    exponent = sp.expand(-sp.Rational(1, 2) - HALF_POWER)  # of w, in a sqrt(g_max)
    primitive = top ** (exponent + 1) / (exponent + 1)
    integral = sp.sqrt(v + S) * v**HALF_POWER * (primitive.subs(top, v + S) - primitive.subs(top, v))
    bound = eta**2 / 2 * root * integral
    gap = delta * (sp.sqrt(rho) - rho**HALF_POWER)
    attained = sp.simplify(sp.powsimp(sp.expand(bound - slip * gap), force=True))
    return attained, sp.simplify(primitive.diff(top) - top**exponent)


@check
def true_kappa_fails_for_a_learned_score(slip: Expr = 1) -> Residuals:
    """p* = N(0, v), model N(0, k v), ODE, pi = q_T: W2 is sqrt(v)(x - 1); the true kappa claims sqrt(v) log x."""
    k = 1 + sp.Symbol("k", positive=True)
    w = k * v
    x = sp.sqrt((v + S) / (w + S) * k)  # sd of the ODE's law over sqrt(v)
    error = (1 / (v + tau) - 1 / (w + tau)) * sp.sqrt(v + tau)  # ||s_theta - s||, for w > v
    integrand = sp.sqrt(v / (v + tau)) * error / 2
    primitive = sp.sqrt(v) / 2 * (sp.log(v + tau) - sp.log(w + tau))
    claimed = primitive.subs(tau, S) - primitive.subs(tau, 0)
    return (
        sp.simplify(primitive.diff(tau) - integrand),
        sp.simplify(sp.expand_log(claimed - slip * sp.sqrt(v) * sp.log(x), force=True)),
    )


@check
def infinite_chi_square_breaks_every_bound(slip: Expr = 1) -> Residuals:
    """Exp(a x^2) is in L^2(p*) for a < 1/(4v), in L^1 of the ODE's law for a < 1/(2 v_pi rho): equal at 2(v + S)."""
    v_pi = 2 * slip * (v + S)
    return (sp.simplify(1 / (4 * v) - 1 / (2 * v_pi * v / (v + S))),)


@check
def value_functions_solve_the_backward_equation(slip: Expr = 1) -> Residuals:
    """E[Y_0 | Y_tau = z] and E[Y_0^2 | ...] on N(m, v) solve d tau u = c s u' + eta^2/2 u'', and are z, z^2 at 0."""
    phi = (v / (v + tau)) ** HALF_POWER
    mean = m + phi * (z - m)
    residuals = []
    for value, end in ((mean, z), (mean**2 + v - phi**2 * (v + tau), z**2)):
        drift = -slip * HALF_POWER * (z - m) / (v + tau) * value.diff(z)
        residuals += [sp.simplify(value.diff(tau) - drift - eta**2 / 2 * value.diff(z, 2))]
        residuals += [sp.simplify(value.subs(tau, 0) - end)]
    return tuple(residuals)
