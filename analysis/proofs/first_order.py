r"""Windows that move, and what a small change of the score or a step's defect does to the reward, on Gaussians.

Lengths in x = log(1 + tau/v), a = eta^2; a window runs from ``low`` on. The tilted target of a linear reward is N(m, v)
with its mean moved, whose score differs from the reference's by 1/(v + tau) in units of that shift over v.
"""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, check, eta, tau, v, y, z

low = sp.Symbol("a", positive=True)  # tau at the foot of a window
STRENGTH = 2 * eta**2 / (1 + eta**2)
LEFT = sp.sqrt(v / (v + tau))  # what the ODE keeps from tau down to 0
CONTROL = LEFT * ((v + low) / (v + tau)) ** (eta**2 / 2)  # grad log h in a window, per b / beta


@check
def moving_window_adds_its_own_shift(slip: Expr = 1) -> Residuals:
    """The ODE's shift of a window up to tau is (2 v/(1 + a)) (1 - ((v + low)/(v + tau))^(a/2)), whatever is below."""
    claimed = slip * 2 * v / (1 + eta**2) * (1 - ((v + low) / (v + tau)) ** (eta**2 / 2))
    return sp.simplify(claimed.diff(tau) - STRENGTH / 2 * CONTROL * LEFT), claimed.subs(tau, low)


@check
def schedule_teaches_the_target_at_eta_1(slip: Expr = 1) -> Residuals:
    """At eta = 1 the control over the factor (1 + low/v)^(1/2) is v/(v + tau), the target's change of the score."""
    taught = (STRENGTH * CONTROL).subs(eta, 1) / (slip * sp.sqrt(1 + low / v))
    return (sp.simplify(taught - v / (v + tau)),)


@check
def thin_windows_need_this_factor(slip: Expr = 1) -> Residuals:
    """At the foot of a window the control over (2 a/(1 + a)) (1 + tau/v)^(1/2) is the target's change of the score."""
    taught = (STRENGTH * CONTROL).subs(low, tau) / (slip * STRENGTH * sp.sqrt(1 + tau / v))
    return (sp.simplify(taught - v / (v + tau)),)


@check
def perturbed_generator_applied_to_the_value_function(slip: Expr = 1) -> Residuals:
    """With d tau u = L u, (L_theta - d tau) u = c (s_theta - s) . grad u: the exact identity's integrand."""
    u = sp.Function("u")(z, y)
    score, moved = ((sp.Function(name + "1")(z, y), sp.Function(name + "2")(z, y)) for name in "sq")
    laplacian = eta**2 / 2 * (u.diff(z, 2) + u.diff(y, 2))
    own, other = (HALF_POWER * (f[0] * u.diff(z) + f[1] * u.diff(y)) + laplacian for f in (score, moved))
    claimed = slip * HALF_POWER * sum((b - f) * u.diff(x) for b, f, x in zip(moved, score, (z, y), strict=True))
    return (sp.simplify(sp.expand(other - own - claimed)),)


@check
def defect_of_a_gddim_step(slip: Expr = 1) -> Residuals:
    """A - A_exact = 2 c (c - 1) p (1 - p) h^2 + O(h^3), h = log(sigma/low), p = tau/(v + tau), dp/dh = 2 p (1 - p)."""
    h, p = sp.symbols("h p", positive=True)
    below = v + tau * sp.exp(-2 * h)
    step = (1 - tau / (v + tau) * (1 - sp.exp(-(1 + eta**2) * h))) - (below / (v + tau)) ** HALF_POWER
    quadratic = sp.series(step, h, 0, 3).removeO()
    c, share = HALF_POWER, tau / (v + tau)
    claimed = slip * 2 * c * (c - 1) * share * (1 - share)
    rise = share.subs(tau, sp.exp(2 * h)).diff(h) - (2 * p * (1 - p)).subs(p, share.subs(tau, sp.exp(2 * h)))
    return (
        sp.simplify(quadratic.coeff(h, 2) - claimed),
        sp.simplify(quadratic.coeff(h, 1)),
        sp.simplify(rise),
        sp.simplify(c * (c - 1) - (eta**4 - 1) / 4),
    )
