r"""Samplers of N steps and RL on them. A step goes from tau = sigma^2 to u tau, and z' = D + kappa eps + n xi.

``drop`` is sigma (sigma - kappa), so that z' = z + drop score + n xi.
"""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, check, eta, m, tau, v, z

u = sp.Symbol("u", positive=True)
x = eta**2
KERNELS = {  # (drop, n^2) over tau
    "ddim": (1 - sp.sqrt(u * (1 - x * (1 - u))), x * u * (1 - u)),
    "gddim": (1 - u**HALF_POWER, u * (1 - u**x)),
}
P, N, q, Y = sp.symbols("P N q Y", real=True)


@check
def exact_step_is_the_transition(slip: Expr = 1) -> Residuals:
    """kappa = (sqrt(v_s v_t) R - v)/sigma: A = (v_s/v_t)^c, A^2 v_t + n^2 = v_s, and two steps are one."""
    v_s, v_t, v_r = sp.symbols("v_s v_t v_r", positive=True)

    def step(low: Expr, high: Expr) -> tuple[Expr, Expr]:
        R = (low / high) ** (x / 2)
        sigma = sp.sqrt(high - v)
        kappa = (sp.sqrt(low * high) * slip * R - v) / sigma
        return (v + sigma * kappa) / high, low * (1 - R**2)

    A, square = step(v_s, v_t)
    A_2, square_2 = step(v_r, v_s)
    whole, noise = step(v_r, v_t)
    residuals = (A - (v_s / v_t) ** HALF_POWER, A**2 * v_t + square - v_s, A_2 * A - whole)
    residuals += (A_2**2 * square + square_2 - noise,)
    return tuple(sp.simplify(sp.powsimp(sp.expand_power_base(sp.expand(r), force=True), force=True)) for r in residuals)


@check
def the_mean_is_exact_at_eta_1(slip: Expr = 1) -> Residuals:
    """gDDIM and DDIM at eta = 1 multiply the error of the mean by (v + tau')/(v + tau), the continuous factor."""
    drops = [drop.subs(eta, 1) for drop, _ in KERNELS.values()]
    return tuple(sp.simplify(1 - tau * drop / (v + tau) - slip * (v + u * tau) / (v + tau)) for drop in drops)


@check
def points_keep_their_marginals(slip: Expr = 1) -> Residuals:
    """kappa^2 + n^2 = tau': a point target's marginals are exact at any step."""
    return tuple(sp.simplify(sp.expand((1 - drop) ** 2 + square - slip * u)) for drop, square in KERNELS.values())


@check
def kernels_are_consistent_to_first_order(slip: Expr = 1) -> Residuals:
    """At u = 1 drop and n^2 vanish and have the slopes -c and -eta^2: they are c h and eta^2 h up to O(h^2/tau)."""
    residuals = []
    for drop, square in KERNELS.values():
        residuals += [drop.subs(u, 1), square.subs(u, 1)]
        residuals += [sp.simplify(drop.diff(u).subs(u, 1) + slip * HALF_POWER)]
        residuals += [sp.simplify(square.diff(u).subs(u, 1) + slip * x)]
    return tuple(residuals)


@check
def regulator_solves_its_bellman_equation(slip: Expr = 1) -> Residuals:
    """u = N (q - P Y)/(1 + P N) maximises V(Y + u) - u^2/(2N), and V becomes (P, q)/(1 + P N) up to a constant."""
    control = sp.Symbol("u", real=True)

    def worth(move: Expr) -> Expr:
        return -P * (Y + move) ** 2 / 2 + q * (Y + move) - move**2 / (2 * N)

    best = slip * N * (q - P * Y) / (1 + P * N)
    value = worth(best)
    expected = (q * Y - P * Y**2 / 2) / (1 + P * N)
    return (
        sp.simplify(worth(control).diff(control).subs(control, best)),
        sp.simplify((value - expected).diff(Y)),
    )


@check
def reweighted_steps_share_the_mean(slip: Expr = 1) -> Residuals:
    """N(Y, N) weighted by exp(V) has the regulator's mean and the variance N/(1 + P N); its integral is V's step."""
    exponent = -((z - Y) ** 2) / (2 * N) - P * z**2 / 2 + q * z
    mean = Y + slip * N * (q - P * Y) / (1 + P * N)
    log_integral = sp.simplify(exponent.subs(z, mean))  # up to a constant, as the curvature is one
    expected = (q * Y - P * Y**2 / 2) / (1 + P * N)
    return (
        sp.simplify(exponent.diff(z).subs(z, mean)),
        sp.simplify(exponent.diff(z, 2) + (1 + P * N) / N),
        sp.simplify((log_integral - expected).diff(Y)),
    )


@check
def regulator_tends_to_the_riccati_equation(slip: Expr = 1) -> Residuals:
    """One step of the recursion over h, h -> 0, is the equation that log h = -P z^2/2 + q z of the optimum solves."""
    h, H = sp.symbols("h H", positive=True)
    slope = sp.Symbol("g", real=True)
    A, b, noise = 1 - HALF_POWER * h / (v + tau), HALF_POWER * h * m / (v + tau), x * h
    step_P, step_q = A**2 * P / (1 + P * noise), A * (q - P * b) / (1 + P * noise)
    rates = [sp.limit((after - before) / h, h, 0) for after, before in ((step_P, P), (step_q, q))]
    phi, C = sp.Function("phi")(tau), sp.Function("C")(tau)
    known = {phi.diff(tau): -HALF_POWER * phi / (v + tau), C.diff(tau): x * phi**2}
    curvature = H * phi**2 / (1 + H * C)
    pull = phi * (slope + H * phi * m) / (1 + H * C)  # grad log h = phi (g - H phi (z - m))/(1 + H C)
    exact = {P: curvature, q: pull}
    return tuple(
        sp.simplify(found.diff(tau).subs(known) - slip * rate.subs(exact))
        for found, rate in zip((curvature, pull), rates, strict=True)
    )


@check
def ode_keeps_its_share_of_a_step(slip: Expr = 1) -> Residuals:
    """The ODE's step on the trained network moves by drop^0/drop of the control, which tends to 1/(1 + eta^2)."""
    ode = KERNELS["gddim"][0].subs(eta, 0)
    shares = [sp.limit(ode.diff(u) / drop.diff(u), u, 1) for drop, _ in KERNELS.values()]
    return tuple(sp.simplify(share - slip / (1 + x)) for share in shares)
