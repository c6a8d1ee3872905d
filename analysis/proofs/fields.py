"""Identities between densities q, density ratios f and value functions u of any shape: what the proofs integrate.

q, f and u are undetermined sympy functions, with d tau q replaced by the heat equation.
"""

from __future__ import annotations

import sympy as sp

from analysis.proofs.registry import HALF_POWER, Expr, Residuals, check, eta, tau, y, z

LINE, PLANE = (z,), (z, y)


def _gradient(f: Expr, x: tuple[Expr, ...]) -> list[Expr]:
    return [f.diff(xi) for xi in x]


def _divergence(field: list[Expr], x: tuple[Expr, ...]) -> Expr:
    return sum(component.diff(xi) for component, xi in zip(field, x, strict=True))


def _dot(left: list[Expr], right: list[Expr]) -> Expr:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _laplacian(f: Expr, x: tuple[Expr, ...]) -> Expr:
    return _divergence(_gradient(f, x), x)


def _functions(names: str, x: tuple[Expr, ...]) -> list[Expr]:
    return [sp.Function(name, real=True)(*x, tau) for name in names.split()]


def _score(q: Expr, x: tuple[Expr, ...]) -> list[Expr]:
    return [g / q for g in _gradient(q, x)]


def _scaled(field: list[Expr], factor: Expr) -> list[Expr]:
    return [factor * component for component in field]


def _backward(u: Expr, q: Expr, x: tuple[Expr, ...]) -> Expr:
    """L u = c s . grad u + eta^2/2 Lap u: d tau u along the sampler."""
    return HALF_POWER * _dot(_score(q, x), _gradient(u, x)) + eta**2 / 2 * _laplacian(u, x)


def _upward(f: Expr, q: Expr, x: tuple[Expr, ...]) -> Expr:
    """The generator (eta^2 - 1)/2 s . grad f + eta^2/2 Lap f of the reversed process: -d tau f."""
    return (eta**2 - 1) / 2 * _dot(_score(q, x), _gradient(f, x)) + eta**2 / 2 * _laplacian(f, x)


def _plain(expression: Expr) -> Expr:
    """Derivatives carried out, over one denominator."""
    return sp.simplify(sp.expand(expression.doit()))


@check
def dissipation_identity(slip: Expr = 1) -> Residuals:
    """d tau (q phi(u)) = -eta^2/2 q phi''(u) |grad u|^2 + a divergence, for d tau u = L u."""
    x, phi = PLANE, sp.Function("phi")
    q, u = _functions("q u", x)
    value = phi(u)
    dummy = sp.Dummy()
    first, second = (phi(dummy).diff(dummy, k).subs(dummy, u) for k in (1, 2))
    left = _laplacian(q, x) / 2 * value + q * first * _backward(u, q, x)
    grad = _gradient(u, x)
    fluxes = _divergence(_scaled(_gradient(q, x), value / 2), x) + _divergence(_scaled(grad, eta**2 / 2 * q * first), x)
    return (_plain(left - fluxes + slip * eta**2 / 2 * q * second * _dot(grad, grad)),)


@check
def reversed_dissipation_identity(slip: Expr = 1) -> Residuals:
    """d tau (q phi(f)) = +eta^2/2 q phi''(f) |grad f|^2 + a divergence, for d tau f = -(upward generator) f."""
    x, phi = PLANE, sp.Function("phi")
    q, f = _functions("q f", x)
    dummy = sp.Dummy()
    first, second = (phi(dummy).diff(dummy, k).subs(dummy, f) for k in (1, 2))
    left = _laplacian(q, x) / 2 * phi(f) - q * first * _upward(f, q, x)
    grad = _gradient(f, x)
    fluxes = _divergence(_scaled(_gradient(q, x), phi(f) / 2), x)
    fluxes -= _divergence(_scaled(grad, eta**2 / 2 * q * first), x)
    return (_plain(left - fluxes - slip * eta**2 / 2 * q * second * _dot(grad, grad)),)


@check
def density_ratio_is_carried_upwards(slip: Expr = 1) -> Residuals:
    """d tau (q f u) is a divergence if f solves the upward and u the backward equation."""
    x = PLANE
    q, f, u = _functions("q f u", x)
    left = _laplacian(q, x) / 2 * f * u - q * u * _upward(f, q, x) + q * f * _backward(u, q, x)
    pairing = [f * b - u * a for a, b in zip(_gradient(f, x), _gradient(u, x), strict=True)]
    fluxes = _divergence(_scaled(_gradient(q, x), f * u / 2), x)
    fluxes += slip * _divergence(_scaled(pairing, eta**2 / 2 * q), x)
    return (_plain(left - fluxes),)


@check
def duhamel_identity(slip: Expr = 1) -> Residuals:
    """d tau (q f u) = -eta^2/2 q grad f . grad u + a divergence, f carried by the ODE and u by the SDE."""
    x = PLANE
    q, f, u = _functions("q f u", x)
    transported = _dot(_score(q, x), _gradient(f, x)) / 2
    left = _laplacian(q, x) / 2 * f * u + q * transported * u + q * f * _backward(u, q, x)
    fluxes = _divergence(_scaled(_gradient(q, x), f * u / 2), x)
    fluxes += _divergence(_scaled(_gradient(u, x), eta**2 / 2 * q * f), x)
    return (_plain(left - fluxes + slip * eta**2 / 2 * q * _dot(_gradient(f, x), _gradient(u, x))),)


@check
def backward_equation_in_quantiles(slip: Expr = 1) -> Residuals:
    """Along a quantile, which moves at -s/2, d tau u = eta^2/2 (1/q) d_z (q d_z u)."""
    q, u = _functions("q u", LINE)
    along = _backward(u, q, LINE) - slip * _score(q, LINE)[0] / 2 * u.diff(z)
    return (_plain(along - eta**2 / 2 / q * (q * u.diff(z)).diff(z)),)


@check
def residual_of_the_guess(slip: Expr = 1) -> Residuals:
    """w = sum gamma_k u_k misses the backward equation by (1 - eta^2)/(2q) div(q sum u_k grad gamma_k)."""
    p, u = _functions("p_1 p_2", LINE), _functions("u_1 u_2", LINE)
    q = sum(p)
    shares = [part / q for part in p]
    w = sum(share * value for share, value in zip(shares, u, strict=True))
    heat = {part.diff(tau): part.diff(z, 2) / 2 for part in p}
    own = {value.diff(tau): _backward(value, part, LINE) for value, part in zip(u, p, strict=True)}
    J = sum(value * share.diff(z) for share, value in zip(shares, u, strict=True))
    missed = w.diff(tau).subs(heat | own) - _backward(w, q, LINE)
    return (_plain(missed - slip * (1 - eta**2) / (2 * q) * (q * J).diff(z)),)


@check
def score_of_a_mixture_splits_across_its_modes(slip: Expr = 1) -> Residuals:
    """Components p_k(z) N(y; 0, u) that differ in z alone: d_y d_z log q = 0, and d_y log q = -y/u; times q^2 and q."""
    u = sp.Symbol("u", positive=True)
    parts = [sp.Function(name, positive=True)(z) for name in ("p_1", "p_2")]
    q = sum(p * sp.exp(-width * y**2 / (2 * u)) for p, width in zip(parts, (1, slip), strict=True))
    return sp.expand(q * q.diff(z, y) - q.diff(z) * q.diff(y)), sp.expand(q.diff(y) + y / u * q)
