"""What windows trained one by one converge to: against one fixed window, the N-step network, and exact training."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import gapbound as gb
from gapbound import training
from gapbound.training.policy import PerStep

REFERENCE, REWARD, BETA = gb.Gaussian(0.4, 0.8), gb.Quadratic(0.7, -0.3, 0.2), 1.1
PROCESS = gb.VE(6.0)
PLANE = gb.Gaussian([0.4, -1.0], [[1.0, 0.3], [0.3, 0.6]])
CROSSED = gb.Quadratic([[0.7, 0.2], [0.2, 0.3]], -0.3, 0.2)


def close(left, right, tolerance=1e-11):
    np.testing.assert_allclose(left.mean, right.mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(left.matrix, right.matrix, rtol=0, atol=tolerance)


def drawn(windows, eta=0.0, process=PROCESS, **kwargs):
    return gb.terminal_law(gb.moving_optimum(REFERENCE, REWARD, BETA, process, windows, **kwargs), process, eta)


@pytest.mark.parametrize("process", [gb.VE(4.0), gb.FlowMatching(1.0)], ids=["VE", "endless"])
@pytest.mark.parametrize(
    "profile", [[(0.3, 2.0, 1.3)], [(0.3, 2.0, 1.3), (3.0, 5.0, 0.5)], [(0, 2, 0.7), (2, 5, 1.5)], [(1, np.inf, 1.5)]]
)
def test_one_visit_is_the_optimum_of_a_fixed_window(process, profile):
    own = gb.Windows(profile)
    moving = gb.moving_optimum(PLANE, CROSSED, BETA, process, [own])
    fixed = gb.rl_optimum(PLANE, CROSSED, BETA, process, own)
    for eta in (0.0, 1.0, own):
        close(gb.terminal_law(moving, process, eta), gb.terminal_law(fixed, process, eta))


def test_one_window_over_everything_is_the_optimum_at_that_eta():
    for eta in (0.5, 1.0):
        whole = [gb.Windows([(0.0, np.inf, eta)])]
        moving = gb.moving_optimum(PLANE, CROSSED, BETA, gb.FlowMatching(1.0), whole)
        fixed = gb.rl_optimum(PLANE, CROSSED, BETA, gb.FlowMatching(1.0), eta)
        close(
            gb.terminal_law(moving, gb.FlowMatching(1.0), 0.0), gb.terminal_law(fixed, gb.FlowMatching(1.0), 0.0), 1e-9
        )


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.5])
def test_linear_rewards_shift_the_mean_by_the_closed_form(eta):
    """Per eigendirection, whatever the overlap, order and factors; the covariance is the reference's."""
    reward, beta = gb.Linear([0.5, -0.8]), 1.3
    lam, basis = np.linalg.eigh(PLANE.matrix)
    windows = gb.sliding_windows(gb.grid(PROCESS, 12), 4, 2, 1.2)[::-1]
    factors = np.linspace(0.5, 2.0, len(windows))
    optimum = gb.moving_optimum(PLANE, reward, beta, PROCESS, windows, factors)
    law, plain = (gb.terminal_law(model, PROCESS, eta) for model in (optimum, PLANE))
    shift = gb.moving_shift(lam, PROCESS, windows, factors, eta) * lam * (basis.T @ reward.b) / beta
    np.testing.assert_allclose(law.mean - plain.mean, basis @ shift, rtol=1e-10)
    np.testing.assert_allclose(law.matrix, plain.matrix, rtol=1e-11)


def test_visits_settle_in_one_cycle_from_the_data_and_in_n_from_the_noise():
    """A window's optimum depends on the score below it alone."""
    down = gb.equal_windows(0.8, PROCESS, 4, 1.2)
    settled = drawn(down)
    close(drawn(down[::-1], cycles=1), settled)
    close(drawn(down, cycles=4), settled)
    assert abs(drawn(down, cycles=3).mean[0] - settled.mean[0]) > 1e-3
    lapped = gb.sliding_windows(gb.grid(PROCESS, 8), 4, 2, 1.2)
    close(drawn(lapped), drawn(lapped, cycles=9))


def test_the_n_step_network_tends_to_it_at_order_1():
    length, windows = np.log1p(36 / 0.8), gb.equal_windows(0.8, PROCESS, 3, 1.2)
    limit, errors = drawn(windows), []
    for n in (150, 300, 600):
        sigmas = np.sqrt(0.8 * np.expm1(np.linspace(length, 0, n + 1)))
        network = gb.moving_optimum_discrete(REFERENCE, REWARD, BETA, PROCESS, windows[::-1], cycles=1, sigmas=sigmas)
        errors.append(float(network.law.w2(limit)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 0.005
    np.testing.assert_allclose(orders, 1, atol=0.15)


def test_one_discrete_visit_is_the_regulator():
    own = gb.Windows([(0.5, 2.0, 1.1)])
    moving = gb.moving_optimum_discrete(PLANE, CROSSED, BETA, PROCESS, [own], steps=10)
    fixed = gb.rl_optimum_discrete(PLANE, CROSSED, BETA, PROCESS, "gddim", own, 10)
    np.testing.assert_allclose(moving.gains, fixed.gains, atol=1e-13)
    np.testing.assert_allclose(moving.pulls, fixed.pulls, atol=1e-13)


def test_a_rounding_of_an_edge_trains_no_step_of_a_neighbour():
    """Windows whose edges are a rounding off the grid's levels: order must still not matter."""
    sigmas = gb.grid(PROCESS, 12)
    windows = [gb.Windows([(sigmas[k + 3] * (1 - 1e-14), sigmas[k] * (1 + 1e-14), 1.2)]) for k in (0, 3, 6)]
    laws = [
        gb.moving_optimum_discrete(REFERENCE, REWARD, BETA, PROCESS, order, steps=12).law
        for order in (windows, windows[::-1])
    ]
    close(*laws)


STEPS, TRAINING = 9, gb.VE(3.0)
TURNS = tuple(gb.sliding_windows(gb.grid(TRAINING, STEPS), 3, 3, 1.2))


def trained_exactly(cycles, factors):
    """Affine predictions of every step, trained window by window by exact gradients of E r - beta KL (LBFGS)."""
    tasks = [
        training.Task(REFERENCE, TRAINING, REWARD, own, BETA * f, STEPS) for own, f in zip(TURNS, factors, strict=True)
    ]
    policy = replace(PerStep.of(tasks[0]), trained=torch.ones(STEPS, dtype=torch.bool))
    for _ in range(cycles):
        for task in tasks:
            policy = _ascended(task, policy)
    return tasks, policy


def _ascended(task, policy):
    mask = task.walk().stochastic
    fixed = policy.parameters
    free = [part.clone().requires_grad_() for part in policy.parameters]
    optimizer = torch.optim.LBFGS(
        free, max_iter=200, tolerance_grad=1e-11, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def merged():
        return policy.with_parameters(tuple(torch.where(mask, f, old) for f, old in zip(free, fixed, strict=True)))

    def loss():
        optimizer.zero_grad()
        value = -training.objective(task, merged())[0]
        value.backward()
        return value

    optimizer.step(loss)
    return policy.with_parameters(tuple(part.detach() for part in merged().parameters))


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.8, 1.5, 2.5)])
def test_exact_training_window_by_window_ends_there(factors):
    tasks, policy = trained_exactly(3, factors)
    network = gb.moving_optimum_discrete(REFERENCE, REWARD, BETA, TRAINING, TURNS, factors, steps=STEPS)
    sigma = network.sigmas[:-1]
    slope, shift = policy.parameters
    gains = slope / policy.scale  # of eps = -sigma score: eps gains sigma (gain z - pull)
    pulls = slope * policy.centre / policy.scale - shift
    np.testing.assert_allclose(gains.numpy(), sigma * network.gains[:, 0, 0], atol=2e-6)
    np.testing.assert_allclose(pulls.numpy(), sigma * network.pulls[:, 0], atol=2e-6)
    found = training.train(tasks[0], policy, 1, 1e-9).history
    assert found.ode_mean[0] == pytest.approx(float(network.law.mean[0]), abs=1e-6)


@pytest.mark.parametrize("eta", [0.5, 1.5])
def test_thin_windows_under_the_schedule_teach_the_targets_own_score(eta):
    """Linear reward: every sampler is then moved as by the target's score, 1 - rho^((1 + e^2)/2), at order 2."""
    process, v, errors = PROCESS, 0.8, []
    rho = v / (v + 36)
    for n in (20, 40, 80):
        windows = gb.equal_windows(v, process, n, eta)
        factors = gb.beta_schedule(v, process, windows, per_window=True)
        moved = [float(gb.moving_shift(v, process, windows, factors, e)) for e in (0.3, 1.0, 1.7)]
        errors.append(max(abs(m - 1 + rho ** ((1 + e**2) / 2)) for m, e in zip(moved, (0.3, 1.0, 1.7), strict=True)))
    assert errors[-1] < 2e-4
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2, atol=0.05)


def test_at_eta_1_the_schedule_teaches_exactly_the_targets_score():
    """With factors (1 + tau_low/S)^(1/2), for any cut of the noise range."""
    reference, reward, beta = gb.Gaussian(0.4, 0.8), gb.Linear(0.9), 1.3
    edges = [0.0, 0.7, 1.1, 4.0, 6.0]
    windows = [gb.Windows([(low, high, 1.0)]) for low, high in itertools.pairwise(edges)]
    factors = gb.beta_schedule(0.8, PROCESS, windows, per_window=True)
    np.testing.assert_allclose(factors, np.sqrt(1 + np.array(edges[:-1]) ** 2 / 0.8), rtol=1e-12)
    optimum = gb.moving_optimum(reference, reward, beta, PROCESS, windows, factors)
    target, sigma = gb.tilt(reference, reward, beta), np.array([0.0, 0.3, 0.7, 0.9, 2.0, 5.9])
    np.testing.assert_allclose(optimum.offset(sigma), target.offset(sigma), rtol=1e-12)
    np.testing.assert_allclose(optimum.gain(sigma), target.gain(sigma), rtol=1e-14)


def test_batches_are_the_loop_over_them():
    beta, windows = np.array([0.9, 2.0]), gb.equal_windows(0.8, PROCESS, 3, 1.2)
    together = gb.terminal_law(gb.moving_optimum(REFERENCE, REWARD, beta, PROCESS, windows), PROCESS, 0.0)
    for k, one in enumerate(beta):
        alone = gb.terminal_law(gb.moving_optimum(REFERENCE, REWARD, one, PROCESS, windows), PROCESS, 0.0)
        np.testing.assert_allclose(together.mean[k], alone.mean, rtol=1e-11)
        np.testing.assert_allclose(together.cov[k], alone.cov, rtol=1e-11)


def test_a_rotation_of_everything_rotates_the_law():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = gb.Gaussian(turn @ PLANE.mean, turn @ PLANE.matrix @ turn.T)
    wish = gb.Quadratic(turn @ CROSSED.A @ turn.T, turn @ [-0.3, -0.3], turn @ [0.2, 0.2])
    windows = gb.equal_windows(0.8, PROCESS, 3, 0.8)
    laws = [
        gb.terminal_law(gb.moving_optimum(law, reward, BETA, PROCESS, windows), PROCESS, 0.0)
        for law, reward in ((PLANE, CROSSED), (turned, wish))
    ]
    close(gb.Gaussian(turn @ laws[0].mean, turn @ laws[0].matrix @ turn.T), laws[1], 1e-10)


def test_rewards_that_grow_need_a_beta_and_say_which():
    windows = gb.equal_windows(0.8, PROCESS, 4, 1.0)
    grows = gb.Quadratic(-0.5, 0.0)
    with pytest.raises(ValueError, match="optimum of a window does not exist"):
        gb.moving_optimum(gb.Gaussian(0.0, 0.8), grows, 0.3, PROCESS, windows)
    assert np.isfinite(gb.moving_optimum(gb.Gaussian(0.0, 0.8), grows, 8.0, PROCESS, windows).gain(1.0)).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: drawn([]), ValueError, "at least one"),
        (lambda: drawn(gb.equal_windows(0.8, PROCESS, 2), cycles=0), ValueError, "cycles must be at least 1"),
        (lambda: drawn(gb.equal_windows(0.8, PROCESS, 2), factors=-1.0), ValueError, "factors must be positive"),
        (lambda: drawn([gb.Windows([(1.0, np.inf, 0.2)])], process=gb.FlowMatching(1.0)), ValueError, "at least 1/3"),
        (
            lambda: gb.moving_optimum(gb.GaussianMixture([0.5, 0.5], [0.0, 1.0], 1.0), REWARD, 1.0, PROCESS, TURNS),
            TypeError,
            "must be a Gaussian",
        ),
        (
            lambda: gb.moving_optimum(REFERENCE, gb.HalfSpace(1.0), 1.0, PROCESS, TURNS),
            TypeError,
            "Quadratic and Linear",
        ),
        (
            lambda: gb.moving_optimum_discrete(REFERENCE, REWARD, -1.0, PROCESS, TURNS, steps=9),
            ValueError,
            "beta must be positive",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
