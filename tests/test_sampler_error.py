"""A sampler's own error: moment ODEs, its leading term, rotations, rewards without a rearrangement."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import ortho_group

import gapbound as gb
from gapbound.gap import sampler_error
from gapbound.rate import rate

PROCESSES = [gb.VE(1.7), gb.VP(1.3), gb.FlowMatching(0.6)]
REWARD = gb.Quadratic(1.234, 0.3, -0.7, 0.11)


def moments_by_ode(m, v, process, eta):
    """Mean and variance of the eta-sampler on N(m, v), integrated in tau from the prior down to 0."""

    def change(tau, state):
        mean, variance = state
        pull = (1 + eta**2) / 2 / (v + tau)
        return [pull * (mean - m), 2 * pull * variance - eta**2]

    start = [0.0, float(process.prior_variance)]
    solution = solve_ivp(change, (float(process.sigma_T) ** 2, 0.0), start, method="DOP853", rtol=1e-11, atol=1e-13)
    return solution.y[:, -1]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
def test_error_equals_the_moment_odes_less_the_target(process, eta):
    m, v = 0.7, 0.5
    mean, variance = moments_by_ode(m, v, process, eta)
    A, c, b = 1.234, 0.3, -0.7
    plain = -A * ((mean - c) ** 2 + variance - (m - c) ** 2 - v) + b * (mean - m)
    assert sampler_error(gb.Gaussian(m, v), process, REWARD, eta)[()] == pytest.approx(plain, rel=1e-8)


@pytest.mark.parametrize("family", [gb.VE, lambda T: gb.VP(T, "constant")], ids=["VE", "VP"])
@pytest.mark.parametrize("best", [-0.7, 0.7], ids=["uncentred", "centred"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_error_tends_to_its_leading_term_sign_and_constant_included(family, best, eta):
    T = 1e7 if family is gb.VE else 60.0
    target, reward = gb.Gaussian(0.7, 0.4), gb.Quadratic(1.3, best)
    leading = rate(target, family(1.0), reward, eta, of="error")
    value = T if leading.variable == "T" else np.exp(-T)
    assert sampler_error(target, family(T), reward, eta) / leading(value) == pytest.approx(1.0, abs=1e-5)
    assert leading.of == "error"


@pytest.mark.parametrize("shape", [(), (3,)])
def test_error_of_a_full_covariance_is_that_of_the_rotated_diagonal_case(shape):
    rng = np.random.default_rng(5)
    Q = ortho_group.rvs(3, random_state=6)
    mean, variance = rng.normal(size=(*shape, 3)), rng.uniform(0.2, 2, (*shape, 3))
    A = rng.normal(size=(3, 3))
    A, c = A + A.T, rng.normal(size=3)
    diagonal = sampler_error(gb.Gaussian(mean, variance), PROCESSES[1], gb.Quadratic(A, c), 0.8)
    full = gb.Gaussian(mean @ Q.T, Q * variance[..., None, :] @ Q.T)
    rotated = sampler_error(full, PROCESSES[1], gb.Quadratic(Q @ A @ Q.T, Q @ c), 0.8)
    assert diagonal.shape == shape
    np.testing.assert_allclose(rotated, diagonal, rtol=1e-12)


def test_a_window_over_all_noise_is_the_constant_and_a_start_at_pure_noise_leaves_no_error():
    target = gb.Gaussian(0.7, 0.5)
    everywhere = gb.Windows([(0, np.inf, 1.5)])
    assert sampler_error(target, gb.VE(3.0), REWARD, everywhere) == sampler_error(target, gb.VE(3.0), REWARD, 1.5)
    assert sampler_error(target, gb.FlowMatching(1.0), REWARD, 0.5) == 0
    assert sampler_error(gb.Gaussian(0.0, 1.0), gb.VP(1.0), gb.Quadratic(1.0, 0.4), 0.0) == 0


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_a_callable_agrees_with_the_reward_it_spells_out_within_its_stated_error(process):
    target = gb.Gaussian(0.7, 0.5)
    measured = sampler_error(target, process, lambda x: -1.234 * (x[:, 0] - 0.3) ** 2 - 0.7 * x[:, 0], 0.5)
    exact = float(sampler_error(target, process, REWARD, 0.5))
    assert float(measured.value) == pytest.approx(exact, rel=1e-9)
    assert abs(float(measured.value) - exact) <= float(measured.error) + 1e-13


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="sampler_error needs a Gaussian target, got Guided"):
        sampler_error(gb.guided(gb.Gaussian(0, 1), gb.Gaussian(1, 0.5), 3.0), gb.VE(2.0), REWARD)
    with pytest.raises(ValueError, match=r"eta must be 0 or more, got -0\.5"):
        sampler_error(gb.Gaussian(0, 1), gb.VE(2.0), REWARD, -0.5)
    with pytest.raises(ValueError, match="does not fit the dimension 1"):
        sampler_error(gb.Gaussian(0, 1), gb.VE(2.0), gb.Linear([1.0, 2.0]))
