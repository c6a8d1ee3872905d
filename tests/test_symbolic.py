"""The sympy derivations, against mpmath, the numerical modules, and sympy on other routes."""

import re
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

from gapbound import VE, VP, Bump, Cosine, FlowMatching, Gaussian, HalfSpace, Linear, Quadratic, reward_gap
from gapbound import symbolic as s
from gapbound.law import terminal_law
from gapbound.reward import AbsoluteDeviation

PROCESSES = {"VE": VE(3.7), "VP": VP(1.3), "flow": FlowMatching(0.83)}
NUMBERS = {s.m: 1.234, s.m_pi: -0.321, s.v: 0.567, s.a: 0.89, s.b: -1.7, s.c: 0.43}


def number(expression, **extra):
    values = NUMBERS | {getattr(s, name): value for name, value in extra.items()}
    return float(expression.subs(values))


def test_moment_odes_are_those_of_a_small_euler_maruyama_step():
    v, tau, eta, mean, var, step = sp.symbols("v tau eta mean var step", positive=True)
    # z' = z + (1 + eta^2)/2 score step + eta sqrt(step) xi is affine: its first two moments are exact
    gain = 1 - (1 + eta**2) / 2 * step / (v + tau)
    stepped = (s.m + gain * (mean - s.m), gain**2 * var + eta**2 * step)
    for ode, state, after in zip(s.moment_odes(), (mean, var), stepped, strict=True):
        derived = ode.rhs.subs({s.v: v, s.tau: tau, s.eta: eta}).subs(ode.lhs.args[0].subs(s.tau, tau), state)
        falling = sp.limit(sp.expand((after - state) / step), step, 0)
        assert sp.simplify(derived + falling) == 0


def test_terminal_moments_satisfy_the_odes_and_start_at_the_prior():
    for ode, moment, start in zip(s.moment_odes(), s.terminal_moments(), (s.m_pi, s.v_pi), strict=True):
        along = moment.subs(s.rho, s.RHO).subs(s.sigma_0, sp.sqrt(s.tau))
        residual = along.diff(s.tau) - ode.rhs.subs(ode.lhs.args[0], along)
        assert sp.simplify(residual) == 0
        assert sp.simplify(along.subs(s.tau, s.sigma_T**2) - start) == 0


def test_terminal_moments_are_those_of_the_theory():
    mean, var = s.terminal_moments()
    assert sp.simplify(mean - (s.m + (s.m_pi - s.m) * s.rho ** ((1 + s.eta**2) / 2))) == 0
    excess = s.v_pi - s.v - s.sigma_T**2
    assert sp.simplify(var - (s.v + s.sigma_0**2 + excess * s.rho ** (1 + s.eta**2))) == 0
    assert s.contraction().free_symbols == {s.rho, s.eta}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("kind", PROCESSES)
def test_terminal_moments_equal_terminal_law(kind, eta):
    process, t_min = PROCESSES[kind], 0.21
    law = terminal_law(Gaussian(1.234, 0.567), process, eta, t_min)
    at = {"m_pi": 0, "eta": eta, "sigma_0": float(process.sigma(t_min)), "sigma_T": float(process.sigma_T)}
    mean, var = (moment.subs(s.rho, s.RHO) for moment in s.terminal_moments())
    v_pi = float(process.prior_variance)
    assert law.mean[0] == pytest.approx(number(mean, v_pi=v_pi, **at), rel=1e-13)
    assert law.cov[0] == pytest.approx(number(var, v_pi=v_pi, **at), rel=1e-13)


def test_window_factor_is_the_integral_of_eta_squared_over_the_window():
    integral = sp.integrate(s.eta**2 / (s.v + s.tau), (s.tau, s.sigma_a**2, s.sigma_b**2))
    assert sp.simplify(sp.log(s.window_factor()) + integral / 2).equals(0)


def test_adjacent_windows_compose_and_a_full_window_gives_the_eta_sampler():
    middle = sp.Symbol("sigma_m", positive=True)
    whole = s.window_factor()
    parts = whole.subs(s.sigma_b, middle) * whole.subs(s.sigma_a, middle)
    assert sp.expand_log(sp.log(parts / whole), force=True).equals(0)
    full = whole.subs({s.sigma_a: s.sigma_0, s.sigma_b: s.sigma_T}) * sp.sqrt(s.RHO)
    assert sp.expand_log(sp.log(full / s.contraction().subs(s.rho, s.RHO)), force=True).equals(0)


def test_factored_gap_equals_the_difference_of_expectations():
    assert sp.expand(s.gap() - s.gap_as_difference()) == 0
    assert s.gap().has(s.Phi_ref - s.Phi)


@pytest.mark.parametrize("kind", PROCESSES)
def test_gap_equals_reward_gap(kind):
    process, eta, eta_ref = PROCESSES[kind], 1.3, 0.4
    ratio = s.contraction().subs(s.rho, s.RHO)
    at = {"sigma_0": 0, "sigma_T": float(process.sigma_T)}
    fractions = [number(ratio, eta=value, **at) for value in (eta_ref, eta)]
    symbolic = number(s.gap(), Phi_ref=fractions[0], Phi=fractions[1], m_pi=0, excess=float(process.prior_excess))
    exact = reward_gap(Gaussian(1.234, 0.567), process, Quadratic(0.89, 0.43, -1.7), eta, eta_ref)
    assert symbolic == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("kind", PROCESSES)
def test_prior_excess_and_start_are_those_of_the_process(kind):
    process = PROCESSES[kind]
    small = float(process.alpha_bar(process.T)) if kind == "VP" else 1 / float(process.sigma_T)
    family = s.KINDS[kind]
    assert float(family.sigma_squared.subs(s.y, small)) == pytest.approx(float(process.sigma_T) ** 2)
    assert float(family.scale.subs(s.y, small)) == pytest.approx(float(process.scale(process.T)))
    excess = sum(float(coefficient) * small**-k for k, coefficient in s.prior_excess(kind).items())
    assert excess == pytest.approx(float(process.prior_excess))


@pytest.mark.parametrize("kind", s.KINDS)
def test_phi_coefficients_are_the_taylor_coefficients(kind):
    n, _ = s.surviving(kind)
    at = {s.v: sp.Rational(7, 5), s.p: sp.Rational(9, 8)}
    sigma_squared = sp.lambdify(s.y, s.KINDS[kind].sigma_squared, "mpmath")
    with mp.workdps(60):
        v, p = mp.mpf(7) / 5, mp.mpf(9) / 8

        def regular(small):  # Phi / y^(n p) as a function of y^n, smooth at 0
            y = small ** (mp.mpf(1) / n)
            return (v / ((v + sigma_squared(y)) * small)) ** p

        step = mp.mpf("1e-6")
        nodes = [step * k for k in range(1, 9)]
        fitted = mp.lu_solve(
            mp.matrix([[x**k for k in range(8)] for x in nodes]), mp.matrix([regular(x) for x in nodes])
        )
        for order in range(4):
            derived = mp.mpf(sp.N(s.phi_coefficient(kind, order).subs(at), 40))
            assert abs(fitted[order] / derived - 1) < 1e-8


@pytest.mark.parametrize("kind", s.KINDS)
def test_families_sum_to_the_difference_of_expectations_in_two_dimensions(kind):
    v1, v2, f1, f2 = sp.symbols("v1 v2 f1 f2", positive=True)
    a11, a12, a22, b1, b2, c1, c2, m1, m2, d1, d2 = sp.symbols("a11 a12 a22 b1 b2 c1 c2 m1 m2 d1 d2", real=True)
    A, b, c = sp.Matrix([[a11, a12], [a12, a22]]), sp.Matrix([b1, b2]), sp.Matrix([c1, c2])
    mean, error, target = sp.Matrix([m1, m2]), sp.Matrix([d1 * f1, d2 * f2]), sp.diag(v1, v2)
    excess = sum(coefficient * s.y**-k for k, coefficient in s.prior_excess(kind).items())
    cov = target + sp.diag((excess - v1) * f1**2, (excess - v2) * f2**2)

    def expected(mu, S):
        return (-(mu - c).T * A * (mu - c) + b.T * mu)[0] - (A * S).trace()

    difference = expected(mean + error, cov) - expected(mean, target)
    gradient = b - 2 * A * (mean - c)
    total = 0
    for atom, factors, shift in s.families(kind).values():
        for i, (vi, fi, di) in enumerate([(v1, f1, d1), (v2, f2, d2)]):
            for j, (fj, dj) in enumerate([(f1, d1), (f2, d2)]):
                values = {s.A: A[i, j], s.g: gradient[i], s.delta: di, s.delta_w: dj, s.same: int(i == j), s.v: vi}
                if factors == 2:
                    total += atom.subs(values, simultaneous=True) * fi * fj * s.y**shift
                elif i == j:
                    total += atom.subs(values, simultaneous=True) * fi
    assert sp.expand(difference - total) == 0


@pytest.mark.parametrize("kind", s.KINDS)
def test_family_products_are_the_taylor_coefficients_of_phi_times_phi(kind):
    n, rest = s.surviving(kind)
    product = rest**s.p * rest.subs(s.v, s.w) ** s.p
    for order in range(3):
        taylor = sp.diff(product, s.y, order).subs(s.y, 0) / sp.factorial(order)
        derived = sum(s.family_products(kind, 2, order)) / (s.v * s.w) ** s.p
        assert sp.simplify(derived - taylor) == 0
    assert s.family_exponent(kind, 2, -1, 3, s.p) == n * (2 * s.p + 3) - 1


@pytest.mark.parametrize("of", ["error", "gap"])
@pytest.mark.parametrize("eta", [0.5, 1.3])
@pytest.mark.parametrize("kind", s.KINDS)
def test_truncated_series_leaves_the_next_power(kind, eta, of):
    n, _ = s.surviving(kind)
    values = {symbol: sp.Rational(str(value)) for symbol, value in NUMBERS.items()}
    excess = sum(coefficient * s.y**-k for k, coefficient in s.prior_excess(kind).items())
    fraction = (s.v / (s.v + s.KINDS[kind].sigma_squared)) ** s.HALF_POWER
    law = {s.m: s.m + (s.m_pi - s.m) * fraction, s.v: s.v + (excess - s.v) * fraction**2}
    expected = s.quadratic_expectation()
    exact = expected.subs(law, simultaneous=True) - expected
    if of == "gap":
        exact = exact.subs(s.eta, 0) - exact
    terms = {"error": s.error_terms, "gap": s.gap_terms}[of]
    series = sum(t.coefficient * s.y**t.exponent for t in terms(kind, 3))
    left = sp.lambdify(s.y, (exact - series).subs(values | {s.eta: sp.Rational(str(eta))}), "mpmath")
    with mp.workdps(400):
        slope = mp.log10(left(mp.mpf(10) ** -20) / left(mp.mpf(10) ** -21))
    first_left_out = min(float(t.exponent.subs(s.eta, eta)) for t in terms(kind, 1)) + 3 * n
    assert float(slope) == pytest.approx(first_left_out, abs=0.02)


def row(kind, of, case):
    (found,) = [r for r in s.rate_table() if (r.kind, r.of, r.case) == (kind, of, case)]
    return found


V, D = s.v, s.m - s.m_pi
UNCENTRED = 2 * s.a * (s.m - s.c) * D
TABLE = [
    ("VE", "gap", "uncentred", -1, UNCENTRED * sp.sqrt(V)),
    ("VE", "gap", "m = m_pi", -2, s.a * V**2),
    ("VE", "gap", "m = c", -2, s.a * V * (V - D**2)),
    ("VE", "error", "uncentred", -(1 + s.eta**2), UNCENTRED * V**s.HALF_POWER),
    ("VE", "error", "m = m_pi", -2 * (1 + s.eta**2), s.a * V ** (2 + s.eta**2)),
    ("VE", "error", "m = c", -2 * (1 + s.eta**2), s.a * V ** (1 + s.eta**2) * (V - D**2)),
    ("VP", "gap", "uncentred", sp.Rational(1, 2), UNCENTRED * sp.sqrt(V)),
    ("VP", "gap", "m = m_pi", 1, s.a * V * (V - 1)),
    ("VP", "gap", "m = c", 1, s.a * V * (V - 1 - D**2)),
    ("VP", "error", "uncentred", s.HALF_POWER, UNCENTRED * V**s.HALF_POWER),
    ("VP", "error", "m = m_pi", 1 + s.eta**2, s.a * V ** (1 + s.eta**2) * (V - 1)),
    ("VP", "error", "m = c", 1 + s.eta**2, s.a * V ** (1 + s.eta**2) * (V - 1 - D**2)),
    ("flow", "gap", "uncentred", -1, UNCENTRED * sp.sqrt(V) - 2 * s.a * V),
    ("flow", "gap", "m = m_pi", -1, -2 * s.a * V),
    ("flow", "gap", "m = c", -1, -2 * s.a * V),
    ("flow", "error", "uncentred", -(1 + s.eta**2), UNCENTRED * V**s.HALF_POWER),
    ("flow", "error", "m = m_pi", -(1 + 2 * s.eta**2), -2 * s.a * V ** (1 + s.eta**2)),
    ("flow", "error", "m = c", -(1 + 2 * s.eta**2), -2 * s.a * V ** (1 + s.eta**2)),
]


@pytest.mark.parametrize(("kind", "of", "case", "exponent", "constant"), TABLE)
def test_derived_rates_are_those_of_the_theory(kind, of, case, exponent, constant):
    derived = row(kind, of, case)
    assert sp.expand(derived.exponent - exponent) == 0
    assert sp.simplify(derived.constant - constant.subs(s.CASES[case])) == 0


def test_every_kind_quantity_and_case_has_one_row():
    keys = [(r.kind, r.of, r.case) for r in s.rate_table()]
    assert len(keys) == len(set(keys)) == len(TABLE)


@pytest.mark.parametrize(
    "values",
    [
        {s.c: s.m, s.v: (s.m - s.m_pi) ** 2, s.excess: 0},  # VE
        {s.c: s.m, s.v: 1 + (s.m - s.m_pi) ** 2, s.excess: 1},  # VP
        {s.m: s.m_pi, s.v: 1, s.excess: 1},  # VP
    ],
)
def test_where_the_centred_bracket_is_zero_the_gap_vanishes_at_every_sigma(values):
    assert sp.expand(s.gap_as_difference().subs(s.b, 0).subs(values)) == 0


def test_leading_term_refuses_exponents_without_an_order():
    terms = (s.Term(s.a, sp.Integer(2)), s.Term(s.a, s.eta + 1))
    with pytest.raises(ArithmeticError, match="no order valid for every eta"):
        s.leading_term(terms)


REWARDS = {
    "quadratic": (Quadratic(0.89, 0.43, -1.7), lambda x: -mp.mpf("0.89") * (x - 0.43) ** 2 - mp.mpf("1.7") * x),
    "linear": (Linear(-1.7), lambda x: -mp.mpf("1.7") * x),
    "half-space": (HalfSpace(1.0, 0.43), lambda x: 1 if x > 0.43 else 0),
    "absolute deviation": (AbsoluteDeviation(0.43), lambda x: abs(x - 0.43)),
    "bump": (Bump(0.43, 0.8), lambda x: mp.exp(-((x - 0.43) ** 2) / (2 * mp.mpf("0.64")))),
    "cosine": (Cosine(2.1, 0.3), lambda x: mp.cos(2.1 * x + 0.3)),
}


@pytest.mark.parametrize("name", REWARDS)
def test_expectations_equal_quadrature_and_the_reward_module(name):
    reward, function = REWARDS[name]
    derived = number(s.expectations()[name], h=0.8, omega=2.1, phi=0.3)
    m, sd = 1.234, mp.sqrt(0.567)
    edges = [m - 12 * sd, 0.43, m, m + 12 * sd]
    quadrature = mp.quad(lambda x: function(x) * mp.npdf(x, m, sd), edges)
    assert derived == pytest.approx(float(quadrature), rel=1e-12)
    assert derived == pytest.approx(float(reward.expectation(Gaussian(1.234, 0.567))), rel=1e-13)


def test_latex_has_every_formula_once_with_matching_brackets():
    document = s.latex_document()
    labels = re.findall(r"\\label\{([^}]*)\}", document)
    assert sorted(labels) == sorted([*(f"eq:{name}" for name in s.formulas()), "tab:rates"])
    assert {"expectation-half-space", "gap", "window", "mean-ode", "phi-flow"} <= s.formulas().keys()
    plain = document.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert document.count(r"\left") == document.count(r"\right")
    assert document.count(r"\begin{") == document.count(r"\end{")
    assert document.count("$") % 2 == 0
    table = document[document.index(r"\begin{tabular}") :]
    assert [line.count(" & ") for line in table.splitlines() if "&" in line] == [3] * (1 + len(s.rate_table()))


def test_latex_of_the_gap_is_the_formula():
    document = s.latex_document()
    assert r"\left(\Phi_{ref} - \Phi\right)" in document
    assert r"\rho = \frac{v + \sigma_{0}^{2}}{v + \sigma_{T}^{2}}" in document
    assert r"  VE & gap & $m = m_\pi$ & $a v^{2} \; \frac{1}{T^{2}}$ \\" in document


@pytest.mark.slow
def test_module_prints_the_document():
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-m", "analysis.derivations"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == s.latex_document()


def test_expected_rewards_do_not_contain_the_integration_variable():
    assert all(s.UNIT not in value.free_symbols for value in s.expectations().values())
    assert np.isfinite([number(value, h=0.8, omega=2.1, phi=0.3) for value in s.expectations().values()]).all()
