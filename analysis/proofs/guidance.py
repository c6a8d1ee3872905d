"""Guided samplers on Gaussians: moments, limits from pure noise, and the gap that stays."""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, check, eta, tau

v_u, v_c, w = sp.symbols("v_u v_c w", positive=True)
m_u, m_c = sp.symbols("m_u m_c", real=True)
GAIN = (1 - w) / (v_u + tau) + w / (v_c + tau)
PSI = (v_u / (v_u + tau)) ** (HALF_POWER * (1 - w)) * (v_c / (v_c + tau)) ** (HALF_POWER * w)


@check
def guided_moments(slip: Expr = 1) -> Residuals:
    """Psi' = -c G Psi, (Psi M)' = -c Psi o, (Psi^2 V)' = -eta^2 Psi^2 and o = G m_u + w (m_c - m_u)/(v_c + tau)."""
    mean, variance = sp.Function("M")(tau), sp.Function("V")(tau)
    offset = (1 - w) * m_u / (v_u + tau) + w * m_c / (v_c + tau)
    rules = {
        mean.diff(tau): HALF_POWER * (GAIN * mean - offset),
        variance.diff(tau): 2 * HALF_POWER * GAIN * variance - eta**2,
    }
    residuals = (
        PSI.diff(tau) / PSI + slip * HALF_POWER * GAIN,
        ((PSI * mean).diff(tau).subs(rules) + HALF_POWER * PSI * offset) / PSI,
        ((PSI**2 * variance).diff(tau).subs(rules) + eta**2 * PSI**2) / PSI**2,
        offset - GAIN * m_u - w * (m_c - m_u) / (v_c + tau),
    )
    return tuple(sp.simplify(sp.expand(residual)) for residual in residuals)


@check
def guided_limits_at_eta_1(slip: Expr = 1) -> Residuals:
    """Primitives of Psi^2 and w Psi/(v_c + tau) at eta = 1 in y = (v_c + tau)/(v_u + tau), from y = v_c/v_u to 1."""
    ratio, one = (v_c + tau) / (v_u + tau), PSI.subs(eta, 1)
    square = v_u ** (2 - 2 * w) * v_c ** (2 * w) / (v_u - v_c) * ratio ** (1 - 2 * w) / (1 - 2 * w)
    pull = -(v_u ** (1 - w)) * v_c**w / (v_u - v_c) * ratio ** (-w)
    variance = (v_u * v_c - v_u ** (2 - 2 * w) * v_c ** (2 * w)) / ((2 * w - 1) * (v_u - v_c))
    share = (v_u - v_u ** (1 - w) * v_c**w) / (v_u - v_c)
    residuals = (
        square.diff(tau) / one**2 - 1,
        pull.diff(tau) / one * (v_c + tau) - w,
        square.subs(ratio, 1) - square.subs(ratio, v_c / v_u) - slip * variance,
        pull.subs(ratio, 1) - pull.subs(ratio, v_c / v_u) - slip * share,
    )
    return tuple(
        sp.simplify(sp.powsimp(sp.expand_power_base(sp.expand(sp.simplify(residual)), force=True), force=True))
        for residual in residuals
    )


@check
def guided_variances_differ_by_sinh(slip: Expr = 1) -> Residuals:
    """With v_c = v_u e^-s and a = 2w - 1, times e^(w s) 2 sinh(s/2): ODE 2 sinh(s/2), eta = 1 2 sinh(a s/2)/a."""
    s = sp.Symbol("s", positive=True)
    a = 2 * w - 1
    ode = sp.exp(-w * s)
    sde = (sp.exp(-s) - sp.exp(-2 * w * s)) / (a * (1 - sp.exp(-s)))
    factor = sp.exp(w * s) * (sp.exp(s / 2) - sp.exp(-s / 2))
    claimed = (sp.exp(s / 2) - sp.exp(-s / 2)), slip * (sp.exp(a * s / 2) - sp.exp(-a * s / 2)) / a
    return tuple(
        sp.simplify(sp.expand(sp.simplify(found * factor - claim)))
        for found, claim in zip((ode, sde), claimed, strict=True)
    )
