r"""Sympy derivations of every closed form on Gaussian targets: moments, windows, the gap, its rates, rewards.

Nothing here is typed in that can be derived: the sampler dz = -(1 + eta^2)/2 score dtau + eta dW goes in, formulas come
out. ``gapbound.rate`` reads its numbers from here, the tests check the numerical modules against it, and

    python -m analysis.derivations

prints all of it as a LaTeX fragment. Symbols: target N(m, v), prior N(m_pi, v_pi) in z = x / s, sampling from sigma_T
down to sigma_0, reward r = -a (x - c)^2 + b x. Where a rate is meant sigma_0 = 0, and the small quantity y is 1/T (VE),
alpha_bar_T (VP) or 1/sigma_T (flow matching started below t = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import sympy as sp

Expr = Any  # sympy ships no types

tau, v, w, rho = sp.symbols("tau v w rho", positive=True)
sigma_0, sigma_T, sigma_a, sigma_b = sp.symbols("sigma_0 sigma_T sigma_a sigma_b", positive=True)
eta, p, h, y = sp.symbols("eta p h y", positive=True)
m, m_pi, v_pi, z = sp.symbols("m m_pi v_pi z", real=True)
a, b, c, omega, phi = sp.symbols("a b c omega phi", real=True)
Phi, Phi_ref, excess = sp.symbols("Phi Phi_ref e", real=True)
A, g, delta, delta_w, same = sp.symbols("A g delta delta_w same", real=True)

HALF_POWER = (1 + eta**2) / 2  # Phi = rho^HALF_POWER
UNIT = sp.Dummy("u", real=True)  # standard normal
POINT = m + sp.sqrt(v) * UNIT  # x under N(m, v)
RHO = (v + sigma_0**2) / (v + sigma_T**2)


@cache
def moment_odes() -> tuple[Expr, Expr]:
    r"""``dM/dtau`` and ``dV/dtau`` of the sampler on N(m, v), from its generator applied to z and z^2.

    As tau falls, d E f = E[(1 + eta^2)/2 score f' + eta^2/2 f''] |dtau|, with score = -(z - m)/(v + tau).
    """
    mean, var = sp.Function("M")(tau), sp.Function("V")(tau)

    score = -(z - m) / (v + tau)

    def expected_change(f: Expr) -> Expr:
        generated = HALF_POWER * score * f.diff(z) + eta**2 / 2 * f.diff(z, 2)
        powers = sp.Poly(generated, z).all_coeffs()[::-1]
        moments = [sp.Integer(1), mean, var + mean**2]
        return -sum(coefficient * moment for coefficient, moment in zip(powers, moments, strict=False))

    mean_rate = sp.factor(expected_change(z))
    var_rate = sp.simplify(expected_change(z**2) - 2 * mean * mean_rate)
    return sp.Eq(mean.diff(tau), mean_rate), sp.Eq(var.diff(tau), sp.collect(sp.expand(var_rate), var, sp.factor))


def _propagate(ode: Expr, start: Expr, end: Expr, initial: Expr) -> Expr:
    """The linear ``ode`` in u = v + tau, solved by integrating factor from ``initial`` at u = start to u = end."""
    u, q = sp.symbols("u q", positive=True, cls=sp.Dummy)
    state = sp.Dummy("state")
    # q = eta^2, exp(k log u) written u^k and by hand: sympy then integrates at once what takes it a minute otherwise
    right = ode.rhs.subs(ode.lhs.args[0], state).subs({tau: u - v, eta: sp.sqrt(q)})
    growth = right.diff(state)
    source = sp.factor(right - growth * state)
    homogeneous = sp.exp(sp.factor(sp.integrate(growth, u)))
    primitive = sp.integrate(sp.powsimp(source / homogeneous), u, manual=True)
    constant = initial / homogeneous.subs(u, start) - primitive.subs(u, start)
    return sp.simplify(homogeneous.subs(u, end) * (constant + primitive.subs(u, end))).subs(q, eta**2)


@cache
def terminal_moments() -> tuple[Expr, Expr]:
    r"""Mean and variance at tau = sigma_0^2, in terms of rho = (v + sigma_0^2)/(v + sigma_T^2)."""
    mean_ode, var_ode = moment_odes()
    top = sp.Dummy("U", positive=True)  # v + sigma_T^2; the end is rho times it
    mean = _propagate(mean_ode, top, rho * top, m_pi)
    above_target = _propagate(var_ode, top, rho * top, v_pi) - rho * top
    fraction = sp.powsimp(sp.simplify((mean - m) / (m_pi - m)))
    squared = sp.powsimp(sp.simplify(above_target / (v_pi - top)))
    return m + (m_pi - m) * fraction, v + sigma_0**2 + (v_pi - v - sigma_T**2) * squared


@cache
def contraction() -> Expr:
    """Phi, the fraction of the mean's initial error that survives: a power of rho."""
    mean, _ = terminal_moments()
    return sp.simplify((mean - m) / (m_pi - m))


@cache
def window_factor() -> Expr:
    """What one window (sigma_a, sigma_b, eta) multiplies Phi by: Phi over the window, over Phi of the ODE there."""
    ratio = (v + sigma_a**2) / (v + sigma_b**2)
    return sp.powsimp(contraction() / contraction().subs(eta, 0)).subs(rho, ratio)


@cache
def quadratic_expectation() -> Expr:
    """E r for r = -a (x - c)^2 + b x under N(m, v), by integration."""
    distance = sp.Dummy("d", real=True)
    expression = _expectation(-a * (POINT - c) ** 2 + b * POINT).subs(c, m - distance)
    return sp.collect(sp.expand(expression), -a).subs(distance, m - c)


@cache
def gap_as_difference() -> Expr:
    """E r(Y^ref) - E r(Y^eta) as it stands, for sigma_0 = 0, v_pi = sigma_T^2 + e, in terms of Phi_ref and Phi."""

    def expected(fraction: Expr) -> Expr:
        law = {m: m + (m_pi - m) * fraction, v: v + (excess - v) * fraction**2}
        return quadratic_expectation().subs(law, simultaneous=True)

    return sp.expand(expected(Phi_ref) - expected(Phi))


@cache
def gap() -> Expr:
    """The same, factored as (Phi_ref - Phi) times a bracket."""
    bracket = sp.cancel(gap_as_difference() / (Phi_ref - Phi))
    total = sp.Dummy("S")
    bracket = sp.expand(bracket.subs(Phi_ref, total - Phi))
    return (Phi_ref - Phi) * (_tidy(bracket.coeff(total, 0)) + _tidy(bracket.coeff(total, 1)) * (Phi_ref + Phi))


@dataclass(frozen=True)
class Kind:
    """A family of processes as sigma_T grows: what it is at the start, as functions of the small quantity y."""

    variable: str  # what rates are written in: "T", "alpha_bar_T" or "sigma_T"
    sign: int  # 1 if the variable is y itself, -1 if it is 1/y
    sigma_squared: Expr  # sigma_T^2
    scale: Expr  # s_T
    prior_variance: Expr  # of x_T

    @property
    def symbol(self) -> Expr:
        """The variable as a sympy symbol."""
        return sp.Symbol({"alpha_bar_T": r"\bar{\alpha}_{T}"}.get(self.variable, self.variable), positive=True)


KINDS = {
    "VE": Kind("T", -1, y**-2, sp.Integer(1), y**-2),
    "VP": Kind("alpha_bar_T", 1, 1 / y - 1, sp.sqrt(y), sp.Integer(1)),
    "flow": Kind("sigma_T", -1, y**-2, 1 / (1 + 1 / y), sp.Integer(1)),
}


class Term(NamedTuple):
    """``coefficient * y^exponent``."""

    coefficient: Expr
    exponent: Expr


@cache
def prior_excess(kind: str) -> dict[int, Expr]:
    """Prior variance in z less sigma_T^2, as ``{k: coefficient of y^-k}``: 0, 1, and 1 + 2/y."""
    family = KINDS[kind]
    value = sp.expand(sp.cancel(family.prior_variance / family.scale**2 - family.sigma_squared))
    powers = range(int(sp.degree(value.subs(y, 1 / y), y)) + 1) if value != 0 else [0]
    return {k: value.coeff(y, -k) for k in powers}


@cache
def surviving(kind: str) -> tuple[int, Expr]:
    """``(n, q)`` with v/(v + sigma_T^2) = v y^n q(y^n), q(0) = 1; q is returned as a function of y^n, written y."""
    ratio = sp.cancel(v / (v + KINDS[kind].sigma_squared))
    numerator, denominator = (sp.Poly(part, y) for part in sp.fraction(sp.together(ratio)))
    n = min(numerator.monoms())[0] - min(denominator.monoms())[0]
    rest = sp.cancel(ratio / (v * y**n)).subs(y, y ** sp.Rational(1, n))
    return n, sp.factor(rest)


@cache
def phi_coefficient(kind: str, order: int) -> Expr:
    """Coefficient of y^(n (p + order)) in Phi = (v/(v + sigma_T^2))^p, by the binomial series of q^p = (1 + k y)^-p."""
    _, rest = surviving(kind)
    slope = sp.cancel(1 / rest - 1).coeff(y, 1)
    return v**p * sp.expand_func(sp.binomial(-p, order)) * slope**order


@cache
def families(kind: str) -> dict[str, tuple[Expr, int, int]]:
    r"""The sampler's own error E r(Y) - E_target r as a sum over families ``{name: (atom, factors, shift)}``.

    In the eigenbasis, with g the gradient of r at m, delta = m_pi - m and surviving fractions Phi_i,

    .. math:: \sum_i g_i \delta_i \Phi_i - \sum_{ij} A_{ij} (\delta_i \delta_j + 1_{i=j} (e - v_i)) \Phi_i \Phi_j.

    ``atom`` is the coefficient (``same`` stands for 1_{i=j}, ``delta_w`` for delta_j), ``factors`` the number of Phi,
    and ``shift`` the power of y that the excess e brings.
    """
    curvature = {
        f"curvature{k or ''}": (-A * ((delta * delta_w - same * v if k == 0 else 0) + same * coefficient), 2, -k)
        for k, coefficient in prior_excess(kind).items()
    }
    return {"slope": (g * delta, 1, 0)} | curvature


@cache
def family_products(kind: str, factors: int, order: int) -> tuple[Expr, ...]:
    """Coefficient of y^(n (factors p + order)) in Phi(v), or in Phi(v) Phi(w), as the products it is the sum of."""
    if factors == 1:
        return (phi_coefficient(kind, order),)
    return tuple(
        phi_coefficient(kind, k) * phi_coefficient(kind, order - k).subs(v, w, simultaneous=True)
        for k in range(order + 1)
    )


def family_exponent(kind: str, factors: int, shift: int, order: int, power: Any) -> Any:
    """Exponent of y in the term of this order, for Phi = (v/(v + sigma_T^2))^power."""
    n, _ = surviving(kind)
    return n * (factors * power + order) + shift


@cache
def error_terms(kind: str, orders: int = 1) -> tuple[Term, ...]:
    """E r(Y^eta) - E_target r in d = 1, the first ``orders`` terms of each family; g and delta written out."""
    error = {delta: m_pi - m, delta_w: m_pi - m}
    one_dimension = {w: v, A: a, same: 1, g: quadratic_expectation().diff(m), p: HALF_POWER} | error
    terms = []
    for atom, factors, shift in families(kind).values():
        for order in range(orders):
            value = (atom * sum(family_products(kind, factors, order))).subs(one_dimension)
            terms.append(Term(sp.powsimp(value), sp.expand(family_exponent(kind, factors, shift, order, HALF_POWER))))
    return tuple(terms)


@cache
def gap_terms(kind: str, orders: int = 1) -> tuple[Term, ...]:
    """ODE less eta-sampler in d = 1: the error's terms at eta = 0, less those at eta."""
    terms = error_terms(kind, orders)
    deterministic = tuple(Term(t.coefficient.subs(eta, 0), t.exponent.subs(eta, 0)) for t in terms)
    return deterministic + tuple(Term(-t.coefficient, t.exponent) for t in terms)


def leading_term(terms: tuple[Term, ...]) -> Term:
    """The non-zero term of smallest exponent for every eta > 0; terms of equal exponent are added."""
    terms = tuple(t for t in terms if sp.simplify(t.coefficient) != 0)
    lowest = min((t.exponent for t in terms), key=lambda exponent: exponent.subs(eta, 1))
    if not all(sp.expand(t.exponent - lowest).is_nonnegative for t in terms):
        raise ArithmeticError(f"the exponents {[t.exponent for t in terms]} have no order valid for every eta")
    total = sum(t.coefficient for t in terms if sp.expand(t.exponent - lowest) == 0)
    return Term(_tidy(total), lowest)


def _tidy(constant: Expr) -> Expr:
    """``constant`` as a product, with the distances m - m_pi and m - c kept in one piece."""
    shift, distance = sp.symbols("d f", cls=sp.Dummy)
    written = sp.powsimp(sp.expand(constant.subs({m_pi: m - shift, c: m - distance}, simultaneous=True)))
    return sp.powsimp(sp.factor(written)).subs({shift: m - m_pi, distance: m - c})


class Row(NamedTuple):
    """One row of the table of rates: ``of`` ~ constant * variable^exponent."""

    kind: str
    of: str
    case: str
    variable: str
    exponent: Expr
    constant: Expr


CASES: dict[str, dict[Expr, Expr]] = {"uncentred": {}, "m = m_pi": {m: m_pi}, "m = c": {c: m}}


@cache
def rate_table() -> tuple[Row, ...]:
    """Leading terms for r = -a (x - c)^2, eta > 0: the gap to the ODE, and each sampler's own error.

    A row holds where its constant is not 0. Where the bracket of a centred VE or VP row is 0 the gap and the error
    vanish for every sigma_T: in d = 1 nothing of higher order is left.
    """
    rows = []
    for kind, family in KINDS.items():
        for of, terms in (("gap", gap_terms(kind)), ("error", error_terms(kind))):
            for case, values in CASES.items():
                term = leading_term(tuple(Term(t.coefficient.subs({b: 0} | values), t.exponent) for t in terms))
                exponent = sp.expand(family.sign * term.exponent)
                rows.append(Row(kind, of, case, family.variable, exponent, term.coefficient))
    return tuple(rows)


@cache
def expectations() -> dict[str, Expr]:
    """E r under N(m, v) in d = 1 for the closed-form rewards, by integration."""
    edge = (c - m) / sp.sqrt(v)  # x = c
    wave = sp.expand_trig(sp.cos((omega * m + phi) + omega * (POINT - m)))
    return {
        "quadratic": quadratic_expectation(),
        "linear": _expectation(b * POINT),
        "half-space": sp.simplify(_expectation(sp.Integer(1), edge)),
        "absolute deviation": _folded(_expectation(POINT - c, edge) - _expectation(POINT - c, -sp.oo, edge)),
        "bump": _bump(),
        "cosine": sp.trigsimp(sp.factor(_expectation(wave), deep=True)),
    }


def _expectation(integrand: Expr, low: Expr = -sp.oo, high: Expr = sp.oo) -> Expr:
    """E of a function of ``UNIT`` over low < UNIT < high."""
    density = sp.exp(-(UNIT**2) / 2) / sp.sqrt(2 * sp.pi)
    return sp.integrate(sp.expand(integrand * density), (UNIT, low, high))


def _bump() -> Expr:
    """E exp(-(x - c)^2/(2 h^2)): the exponent's square completed, so that sympy integrates a plain bell."""
    exponent = sp.expand(-((POINT - c) ** 2) / (2 * h**2) - UNIT**2 / 2)
    peak = sp.solve(exponent.diff(UNIT), UNIT)[0]
    curvature = sp.factor(-exponent.diff(UNIT, 2))
    bell = sp.integrate(sp.exp(-curvature * UNIT**2 / 2) / sp.sqrt(2 * sp.pi), (UNIT, -sp.oo, sp.oo))
    return sp.simplify(bell) * sp.exp(sp.factor(sp.simplify(exponent.subs(UNIT, peak))))


def _folded(expression: Expr) -> Expr:
    """E |x - c| with its two error functions, of opposite arguments, joined."""
    distance = sp.Dummy("d", real=True)
    joined = sp.expand(sp.simplify(expression.subs(c, m - distance).rewrite(sp.erf)))
    return joined.subs(distance, m - c)


# --- LaTeX ------------------------------------------------------------------------------------------------------------

NAMES = {"flow": r"flow, $t_{\max} < 1$", "m = m_pi": r"$m = m_\pi$", "m = c": r"$m = c$"}

REWARDS = {
    "quadratic": "-a (x - c)^2 + b x",
    "linear": "b x",
    "half-space": r"\mathbf{1}\{x > c\}",
    "absolute deviation": "|x - c|",
    "bump": "e^{-(x - c)^2 / (2 h^2)}",
    "cosine": r"\cos(\omega x + \phi)",
}


def formulas() -> dict[str, tuple[str, Expr]]:
    """Every derived formula as ``{label: (a sentence, an equation)}``."""
    (mean_ode, var_ode), (mean, var) = moment_odes(), terminal_moments()
    entries = {
        "rho": ("Variance ratio", _equation("rho", RHO)),
        "mean-ode": (r"Mean along the sampler, $\tau$ falling", mean_ode),
        "variance-ode": (r"Variance along the sampler, $\tau$ falling", var_ode),
        "mean": (r"Mean at $\tau = \sigma_0^2$", _equation(r"\mathrm{E}\,z", mean)),
        "variance": (r"Variance at $\tau = \sigma_0^2$", _equation(r"\mathrm{Var}\,z", var)),
        "contraction": (r"Surviving fraction of the initial error, $\eta$ constant", _equation("Phi", contraction())),
        "window": (r"Factor of $\Phi$ for one window of $\eta$", _equation(r"\Phi_{w}", window_factor())),
        "gap": (
            r"Gap for $r = -a(x - c)^2 + b x$, $\sigma_0 = 0$, prior variance $\sigma_T^2 + e$",
            _equation(r"\mathrm{GAP}", gap()),
        ),
    }
    for kind, family in KINDS.items():
        n, _ = surviving(kind)
        first, second = (phi_coefficient(kind, k) * family.symbol ** (family.sign * n * (p + k)) for k in (0, 1))
        sentence = rf"$\Phi$ to two orders at $\sigma_0 = 0$, $p = (1 + \eta^2)/2$, {NAMES.get(kind, kind)}"
        entries[f"phi-{kind}"] = (sentence, _equation("Phi", first * (1 + sp.powsimp(second / first))))
    for name, value in expectations().items():
        sentence = f"Expectation under $N(m, v)$, {name} reward $r = {REWARDS[name]}$"
        entries[f"expectation-{name.replace(' ', '-')}"] = (sentence, _equation(r"\mathrm{E}\,r", value))
    return entries


def latex_document() -> str:
    """All formulas as labelled equations, and the table of rates, as a LaTeX fragment (needs amsmath)."""
    equations = [
        f"{sentence}:\n\\begin{{equation}}\\label{{eq:{label}}}\n  {_latex(equation)}\n\\end{{equation}}"
        for label, (sentence, equation) in formulas().items()
    ]
    table = [
        r"\begin{table}",
        r"\caption{Leading terms for $r = -a(x - c)^2$, $\eta > 0$: the gap to the ODE, and each sampler's own error.}",
        r"\label{tab:rates}",
        r"\begin{tabular}{llll}",
        r"  process & of & case & leading term \\ \hline",
        *(f"  {_latex_row(row)} \\\\" for row in rate_table()),
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n\n".join(["% printed by python -m analysis.derivations", *equations, "\n".join(table)]) + "\n"


def _equation(name: str, value: Expr) -> Expr:
    return sp.Eq(sp.Symbol(name), value, evaluate=False)


def _latex(expression: Expr) -> str:
    return str(sp.latex(expression, order="old"))


def _latex_row(row: Row) -> str:
    term = f"${_latex(row.constant)} \\; {_latex(KINDS[row.kind].symbol ** row.exponent)}$"
    return " & ".join([NAMES.get(row.kind, row.kind), row.of, NAMES.get(row.case, row.case), term])
