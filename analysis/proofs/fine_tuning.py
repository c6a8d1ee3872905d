r"""The optimum of KL-regularised RL: an h-transform, its Gaussian closed form, linear rewards, one fixed window.

Reference N(0, v) (lengths from its mean), r / beta = g y - H y^2 / 2, h(z, tau) = E[exp(r(Y_0) / beta) | Y_tau = z].
"""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, S, check, eta, tau, v, y, z

STRENGTH = 2 * eta**2 / (1 + eta**2)  # what s* adds, over grad log h
H, C, phi = sp.symbols("H C phi", positive=True)
g = sp.Symbol("g", real=True)


def _generator(u: Expr, score: tuple[Expr, Expr]) -> Expr:
    """L u = c score . grad u + eta^2/2 Lap u in the plane."""
    return HALF_POWER * (score[0] * u.diff(z) + score[1] * u.diff(y)) + eta**2 / 2 * (u.diff(z, 2) + u.diff(y, 2))


@check
def h_transform_moves_the_score(slip: Expr = 1) -> Residuals:
    """(L(h u) - u L h) / h is the generator for the score s + 2 eta^2/(1 + eta^2) grad log h."""
    q, h, u = (sp.Function(name, positive=True)(z, y) for name in "qhu")
    score = (q.diff(z) / q, q.diff(y) / q)
    moved = tuple(s + slip * STRENGTH * h.diff(x) / h for s, x in zip(score, (z, y), strict=True))
    conjugated = (_generator(h * u, score) - u * _generator(h, score)) / h
    return (sp.simplify(sp.expand(conjugated - _generator(u, moved))),)


@check
def optimum_of_eta_1_diffuses_the_tilted_law(slip: Expr = 1) -> Residuals:
    """At eta = 1, q h solves the heat equation where q does and d tau h = L h: s* is the score of a diffused law."""
    q, h = (sp.Function(name, positive=True)(z, tau) for name in "qh")
    moved = q.diff(z, 2) / 2 * h + q * (slip * q.diff(z) / q * h.diff(z) + h.diff(z, 2) / 2)
    return (sp.simplify(sp.expand((q * h).diff(z, 2) / 2 - moved)),)


def _log_h() -> Expr:
    """log h of the Gaussian integral over Y_0 ~ N(phi z, C)."""
    mean = phi * z
    return g * mean - H * mean**2 / 2 - sp.log(1 + H * C) / 2 + C * (g - H * mean) ** 2 / (2 * (1 + H * C))


@check
def gaussian_control_solves_the_backward_equation(slip: Expr = 1) -> Residuals:
    """grad log h = phi (g - H phi z)/(1 + H C), and d tau log h = c s grad + eta^2/2 (Lap + grad^2) of it."""
    log_h = _log_h()
    slope = log_h.diff(z)
    rates = {phi: -HALF_POWER * phi / (v + tau), C: eta**2 * phi**2}  # phi = Phi, C = v - phi^2 (v + tau)
    change = sum(log_h.diff(x) * rate for x, rate in rates.items())
    backward = -HALF_POWER * z / (v + tau) * slope + eta**2 / 2 * (log_h.diff(z, 2) + slip * slope**2)
    spread = (-2 * phi * rates[phi] * (v + tau) - phi**2) - rates[C]  # of v - phi^2 (v + tau)
    return (
        sp.simplify(slope - slip * phi * (g - H * phi * z) / (1 + H * C)),
        sp.simplify(change - backward),
        sp.simplify(spread),
    )


@check
def law_of_the_optimum_completes_the_square(slip: Expr = 1) -> Residuals:
    """N(a, C) times exp(g y - H y^2/2) has the mean W a + C_* g and the variance C_* = C/(1 + H C), W = 1/(1 + H C)."""
    a = sp.Symbol("a", real=True)
    exponent = -((y - a) ** 2) / (2 * C) + g * y - H * y**2 / 2
    variance = C / (1 + H * C)
    mean = a / (1 + H * C) + slip * variance * g
    return sp.simplify(exponent.diff(y).subs(y, mean)), sp.simplify(exponent.diff(y, 2) + 1 / variance)


@check
def shifts_of_a_linear_reward(slip: Expr = 1) -> Residuals:
    """SDE: int eta^2 phi^2 = v (1 - rho^(eta^2)). ODE: int k/2 phi rho^(1/2) = 2 v/(1 + eta^2) (1 - rho^(eta^2/2))."""
    rho = v / (v + tau)
    control = rho**HALF_POWER  # grad log h, over b / beta
    claimed = v * (1 - rho ** (eta**2)), slip * 2 * v / (1 + eta**2) * (1 - rho ** (eta**2 / 2))
    rates = eta**2 * control * rho**HALF_POWER, STRENGTH / 2 * control * sp.sqrt(rho)
    ratio = (claimed[1] / claimed[0]).subs(tau, S)
    kept = (v / (v + S)) ** (eta**2 / 2)
    return (
        *(sp.simplify(shift.diff(tau) - rate) for shift, rate in zip(claimed, rates, strict=True)),
        sp.simplify(ratio * (1 + eta**2) * (1 + kept) / 2 - 1),
        *(shift.subs(tau, 0) for shift in claimed),
    )


@check
def a_fixed_window_never_reaches_the_tilt(slip: Expr = 1) -> Residuals:
    """Mean and variance that are missing, with C = v (1 - E): v E g/((1+Hv)(1+HC)), H v^2 E^2/((1+HC)^2 (1+Hv))."""
    E = sp.Symbol("E", positive=True)
    left = v * (1 - E)
    W = 1 / (1 + H * left)
    mean, variance = W * left * g, W * left + W**2 * v * E
    tilted = v / (1 + H * v)
    return (
        sp.simplify(tilted * g - mean - slip * v * E * g * W / (1 + H * v)),
        sp.simplify(variance - tilted - slip * H * v**2 * E**2 * W**2 / (1 + H * v)),
    )


@check
def shifts_of_a_window(slip: Expr = 1) -> Residuals:
    """The same shifts where the control begins at tau_a: v (1 - x^(eta^2)) and 2 v/(1 + eta^2) (1 - x^(eta^2/2))."""
    low = sp.Symbol("a", positive=True)
    x, root = (v + low) / (v + tau), sp.sqrt(v / (v + tau))
    control = root * x ** (eta**2 / 2)
    claimed = v * (1 - x ** (eta**2)), slip * 2 * v / (1 + eta**2) * (1 - x ** (eta**2 / 2))
    rates = eta**2 * control**2, STRENGTH / 2 * control * root
    return (
        *(sp.simplify(shift.diff(tau) - rate) for shift, rate in zip(claimed, rates, strict=True)),
        *(shift.subs(tau, low) for shift in claimed),
    )
