"""Terminal laws: moment equations of x in each model's own time, many digits, windows, rotations, limits, bad input."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import ortho_group
from strategies import FAMILIES, etas, exact_law, powers, processes, signed, windows

import gapbound as gb

COV = np.array([[1.1, 0.5, -0.2], [0.5, 0.7, 0.1], [-0.2, 0.1, 0.4]])
MEAN = np.array([0.7, -0.3, 1.2])
WINDOW = gb.Windows([(0.15, 0.5, 1.7), (0.9, 1.3, 0.6)])

# dx = f x dt + g dB: the process, f(t), g(t)^2, scale(t), variance of the noise in x at t, variance of the prior
MODELS = {
    "VE": (gb.VE(1.8), lambda t: 0.0, lambda t: 2 * t, lambda t: 1.0, lambda t: t**2, 1.8**2),
    "VP 2t": (
        *(gb.VP(1.1), lambda t: -t, lambda t: 2 * t),
        *(lambda t: math.exp(-(t**2) / 2), lambda t: 1 - math.exp(-(t**2)), 1.0),
    ),
    "VP constant": (
        *(gb.VP(1.3, "constant"), lambda t: -0.5, lambda t: 1.0),
        *(lambda t: math.exp(-t / 2), lambda t: 1 - math.exp(-t), 1.0),
    ),
    "flow": (
        *(gb.FlowMatching(0.7), lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
        *(lambda t: 1 - t, lambda t: t**2, 1.0),
    ),
}


def moment_equations(model, eta, t_min, d=3):
    """Mean and covariance of x at ``t_min`` from the reverse SDE in x and t; no noise level appears.

    dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dB, run down from T, for the exact score of N(s m, s^2 S + noise).
    """
    process, f, g2, scale, noise, prior = model
    jumps = sorted({float(edge) for low, high, _ in eta.windows for edge in (low, high)} if eta is WINDOW else set())
    cuts = [
        float(process.T),
        *(t for t in reversed([time_of(process, s) for s in jumps]) if t_min < t < process.T),
        t_min,
    ]
    state = np.concatenate([np.zeros(d), prior * np.eye(d).ravel()])
    for start, end in itertools.pairwise(cuts):
        value = float(eta(process.sigma((start + end) / 2))) if eta is WINDOW else eta

        def slope(t, state, value=value):
            s, m, V = scale(t), state[:d], state[d:].reshape(d, d)
            G = np.linalg.inv(s**2 * COV + noise(t) * np.eye(d))
            pull = f(t) * np.eye(d) + (1 + value**2) / 2 * g2(t) * G
            dm = pull @ m - (1 + value**2) / 2 * g2(t) * G @ (s * MEAN)
            dV = pull @ V + V @ pull.T - value**2 * g2(t) * np.eye(d)
            return np.concatenate([dm, dV.ravel()])

        state = solve_ivp(slope, (start, end), state, method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    s = scale(t_min)
    return state[:d] / s, state[d:].reshape(d, d) / s**2


def time_of(process, sigma):
    """The time at which the noise-to-signal ratio is ``sigma``."""
    match process:
        case gb.VE():
            return sigma
        case gb.FlowMatching():
            return sigma / (1 + sigma)
        case _:
            return math.log1p(sigma**2) ** (0.5 if process.beta == "2t" else 1.0)


@pytest.mark.parametrize("t_min", [0.0, 0.2])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.8, WINDOW], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_law_solves_the_moment_equations_in_the_models_own_time(name, eta, t_min):
    law = gb.terminal_law(gb.Gaussian(MEAN, COV), MODELS[name][0], eta, t_min)
    mean, cov = moment_equations(MODELS[name], eta, t_min)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(law.cov, cov, rtol=1e-9, atol=1e-10)


def test_the_moment_equations_tell_a_wrong_eta_and_a_wrong_prior():
    mean, cov = moment_equations(MODELS["VE"], 1.0, 0.0)
    wrong_eta = gb.terminal_law(gb.Gaussian(MEAN, COV), gb.VE(1.8), 1.01)
    wrong_prior = gb.terminal_law(gb.Gaussian(MEAN, COV), gb.VP(math.log1p(1.8**2), "constant"), 1.0)
    assert np.abs(wrong_eta.cov - cov).max() > 1e-4
    assert np.abs(wrong_prior.cov - cov).max() > 1e-3
    np.testing.assert_allclose(wrong_prior.mean, mean, rtol=1e-9)


@settings(max_examples=150)
@given(
    m=signed(1e6),
    v=powers(-12, 12),
    process=processes(),
    eta=st.one_of(etas(), windows()),
    stop=st.sampled_from([0.0, 1e-3, 0.5]),
)
def test_law_is_accurate_to_1e_12(m, v, process, eta, stop):
    t_min = stop * float(process.T)
    law = gb.terminal_law(gb.Gaussian(m, v), process, eta, t_min)
    sigma_0, sigma_T = float(process.sigma(t_min)), float(process.sigma_T)
    with mp.workdps(120):
        mean, var = exact_law(m, v, sigma_0, sigma_T, float(process.prior_excess), eta)
        assert abs(mp.mpf(float(law.mean[0])) - mean) <= 2e-12 * abs(mean) + mp.mpf(10) ** -300
        assert abs(mp.mpf(float(law.cov[0])) - var) <= 2e-12 * var


@settings(max_examples=150)
@given(
    m=signed(1e6),
    v=powers(-12, 12),
    process=processes(-3, 150),
    eta=st.one_of(etas(), windows(), st.sampled_from([1e3, 1e50, 1e100])),
)
def test_law_is_finite_with_positive_variance_and_a_mean_between_prior_and_target(m, v, process, eta):
    law = gb.terminal_law(gb.Gaussian(m, v), process, eta)
    assert np.isfinite(law.cov).all()
    assert (law.cov > 0).all()
    assert min(0.0, m) <= float(law.mean[0]) <= max(0.0, m)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_noise_always_brings_the_mean_nearer_to_the_target(family):
    eta = np.linspace(0, 3, 13)
    law = gb.terminal_law(gb.Gaussian(1.0, 0.5), FAMILIES[family](2.0), eta)
    assert law.mean.shape == (13, 1)
    assert (np.diff(law.mean[:, 0]) > 0).all()


def test_continuous_laws_of_the_theory():
    law = gb.terminal_law(gb.Gaussian(0.7, 0.5), gb.VP(math.log(26), "constant"), np.array([0.0, 1.0, 1.5]))
    np.testing.assert_allclose(law.cov[:, 0], [0.510, 0.500, 0.500], atol=5e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_window_over_everything_equals_its_eta(family):
    target, process = gb.Gaussian(MEAN, COV), FAMILIES[family](2.0)
    for eta in (0.0, 0.6, 1.7):
        law, everywhere = (
            gb.terminal_law(target, process, value, 0.1) for value in (eta, gb.Windows([(0, math.inf, eta)]))
        )
        np.testing.assert_array_equal(law.mean, everywhere.mean)
        np.testing.assert_array_equal(law.cov, everywhere.cov)


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_compose(family):
    target, process = gb.Gaussian(MEAN, COV), FAMILIES[family](2.0)
    whole = gb.terminal_law(target, process, gb.Windows([(0.2, 1.5, 1.3)]))
    split = gb.terminal_law(target, process, gb.Windows([(0.9, 1.5, 1.3), (0.2, 0.4, 1.3), (0.4, 0.9, 1.3)]))
    np.testing.assert_allclose(split.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(split.cov, whole.cov, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_multiplies_the_surviving_error_by_the_factor_of_the_theory(family):
    m, v, process = 1.0, 0.5, FAMILIES[family](3.0)
    low, high, eta = 0.4, 1.1, 1.6
    ode, mixed = (gb.terminal_law(gb.Gaussian(m, v), process, e) for e in (0.0, gb.Windows([(low, high, eta)])))
    factor = ((v + low**2) / (v + high**2)) ** (eta**2 / 2)
    np.testing.assert_allclose((m - mixed.mean) / (m - ode.mean), factor, rtol=1e-13)
    np.testing.assert_allclose((mixed.cov - v) / (ode.cov - v), factor**2, rtol=1e-12)


def test_windows_act_only_between_t_min_and_T():
    target, process = gb.Gaussian(1.0, 0.5), gb.VE(2.0)
    inside = gb.terminal_law(target, process, gb.Windows([(0.3, 2.0, 1.2)]), t_min=0.3)
    beyond = gb.terminal_law(target, process, gb.Windows([(0.1, 7.0, 1.2)]), t_min=0.3)
    np.testing.assert_array_equal(inside.cov, beyond.cov)
    outside = gb.terminal_law(target, process, gb.Windows([(0.1, 0.3, 1.2), (2.0, 7.0, 1.2)]), t_min=0.3)
    np.testing.assert_array_equal(outside.cov, gb.terminal_law(target, process, 0.0, t_min=0.3).cov)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0, gb.Windows([(0.3, 1.1, 1.7)])], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_full_covariance_is_the_rotation_of_the_diagonal_case(family, eta):
    rng, d = np.random.default_rng(2), 4
    m, v, Q = rng.normal(size=d), 10 ** rng.uniform(-2, 2, d), ortho_group.rvs(d, random_state=rng)
    cov, process = (Q * v) @ Q.T, FAMILIES[family](4.0)
    diagonal = gb.terminal_law(gb.Gaussian(m, v), process, eta, 0.1)
    full = gb.terminal_law(gb.Gaussian(Q @ m, (cov + cov.T) / 2), process, eta, 0.1)
    np.testing.assert_allclose(full.mean, Q @ diagonal.mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(full.cov, (Q * diagonal.cov) @ Q.T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 3.0, gb.Windows([(0.5, math.inf, 1.0)])], ids=str)
@pytest.mark.parametrize(
    "process", [gb.FlowMatching(), gb.FlowMatching(1), gb.VP(40.0), gb.VP(1500.0, "constant")], ids=str
)
def test_from_infinite_noise_the_law_is_the_target(process, eta):
    assert np.isinf(process.sigma_T)
    law = gb.terminal_law(gb.Gaussian(MEAN, COV), process, eta)
    np.testing.assert_allclose(law.mean, MEAN, rtol=1e-14)
    np.testing.assert_allclose(law.cov, COV, rtol=0, atol=1e-14)


def test_infinite_and_finite_noise_share_a_batch():
    law = gb.terminal_law(gb.Gaussian(0.7, 0.5), gb.FlowMatching([0.6, 1.0]), np.array([[0.0], [1.0]]))
    assert law.mean.shape == (2, 2, 1)
    np.testing.assert_allclose(law.mean[:, 1], 0.7)
    single = gb.terminal_law(gb.Gaussian(0.7, 0.5), gb.FlowMatching(0.6), 1.0)
    np.testing.assert_allclose(law.cov[1, 0], single.cov)


def test_vp_far_beyond_overflow_of_sigma_squared_is_exact():
    law = gb.terminal_law(gb.Gaussian(0.7, 0.5), gb.VP(30.0), 0.0)  # sigma_T = 1e195
    np.testing.assert_allclose([law.mean[0], law.cov[0]], [0.7, 0.5], rtol=1e-15)


@pytest.mark.parametrize("eta_shape", [(), (3,), (2, 1)])
@pytest.mark.parametrize("T_shape", [(), (3,)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("full", [False, True])
def test_shapes_are_the_common_batch_then_the_dimension(full, batch, T_shape, eta_shape):
    target = gb.Gaussian(np.full((*batch, 3), 0.3), np.broadcast_to(COV, (*batch, 3, 3)) if full else np.full(3, 0.5))
    law = gb.terminal_law(target, gb.VP(np.full(T_shape, 1.2)), np.full(eta_shape, 0.8))
    common = np.broadcast_shapes(batch, T_shape, eta_shape)
    assert law.mean.shape == (*common, 3)
    assert law.cov.shape == ((*common, 3, 3) if full else (*common, 3))
    one = gb.terminal_law(gb.Gaussian(np.full(3, 0.3), COV if full else np.full(3, 0.5)), gb.VP(1.2), 0.8)
    np.testing.assert_allclose(law.mean, np.broadcast_to(one.mean, law.mean.shape), rtol=1e-14)
    np.testing.assert_allclose(law.cov, np.broadcast_to(one.cov, law.cov.shape), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"eta": -0.1}, ValueError, r"eta must be 0 or more, got -0\.1"),
        ({"eta": [0.5, -2.0]}, ValueError, r"eta must be 0 or more, got -2\.0 at index \(1,\)"),
        ({"eta": None}, TypeError, "eta must be a real number or an array of them, got None"),
        ({"eta": True}, TypeError, "eta must be a real number"),
        ({"t_min": 3.0}, ValueError, r"t_min must be below T, got t_min=3\.0 and T=3\.0"),
        ({"t_min": 5.0}, ValueError, r"t must lie in \[0, 3\], got 5\.0"),
        ({"t_min": -1e-9}, ValueError, r"t must lie in \[0, 3\], got -1e-09"),
        ({"t_min": math.nan}, ValueError, "t must be finite, got nan"),
        ({"process": gb.VE([1.0, 3.0]), "t_min": 2.0}, ValueError, r"below T, got t_min=2\.0 and T=\[1\. 3\.\]"),
        ({"eta": [1.0, 2.0, 3.0]}, ValueError, r"the batches of target, T and eta do not broadcast: shapes \(2,\)"),
        ({"process": gb.VE([1.0, 2.0, 3.0])}, ValueError, r"do not broadcast: shapes \(2,\) and \(3,\)"),
        ({"process": "VE"}, TypeError, "process must be an instance of VE, VP or FlowMatching, got 'VE'"),
        ({"target": (0.0, 1.0)}, TypeError, "terminal_law needs a Gaussian or an affine score, got tuple"),
        (
            {"target": gb.GaussianMixture([1.0], [[0.0]], [[1.0]])},
            TypeError,
            "got GaussianMixture; simulate and estimate_gap take any model",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_met(change, error, match):
    call = {"target": gb.Gaussian([[0.1], [0.2]], 1.0), "process": gb.VE(3.0), "eta": 1.0}
    with pytest.raises(error, match=match):
        gb.terminal_law(**(call | change))
