"""Exact training: laws and KL by other routes, the linear-quadratic regulator, floors, gradients, refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import gapbound as gb
from gapbound.training import Consistent, PerStep, Task, objective, train
from gapbound.training.history import Samplers, exact_record
from gapbound.training.path import path, path_kl
from gapbound.updates import kl_rescaling

REFERENCE = gb.Gaussian(0.2, 0.8)
REWARD = gb.Quadratic(1.1, 0.9, 0.3, -0.2)
PROCESS = gb.VP(1.6)
ETAS = np.array([0.5, 1.0, 1.7])


def task(eta=1.0, beta=0.5, steps=6, reward=REWARD, process=PROCESS, grid="time"):
    return Task(REFERENCE, process, reward, eta, beta, steps, grid)


def changed(policy, seed=0):
    """A policy away from the reference."""
    generator = torch.Generator().manual_seed(seed)
    return policy.with_parameters(
        tuple(p + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in policy.parameters)
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
def test_the_recursion_is_the_librarys_exact_chain(eta):
    one = task()
    policy = Consistent(*torch.tensor([0.7, math.log(0.5)], dtype=torch.float64))
    law = path(one.walk(eta), policy.affine(one.walk(eta).sigma))
    chain = gb.discrete_law(gb.Gaussian(0.7, 0.5), PROCESS, "gddim", eta, 6)
    assert float(law.mean[-1]) == pytest.approx(float(chain.mean[0]), rel=1e-12)
    assert float(law.variance[-1]) == pytest.approx(float(chain.cov[0]), rel=1e-12)


def test_a_batch_is_its_runs_one_by_one():
    process = gb.VP(np.array([1.2, 1.6]))
    batch = Task(REFERENCE, process, REWARD, ETAS[:, None], 0.5, 6)
    assert batch.batch_shape == (3, 2)
    history = train(batch, "per-step", 5, every=5).history
    for (i, eta), (j, T) in ((e, s) for e in enumerate(ETAS) for s in enumerate((1.2, 1.6))):
        single = train(task(eta, process=gb.VP(T)), "per-step", 5, every=5).history
        for name in ("sde", "ode", "sde_1", "kl", "rescaled_kl", "mean", "variance", "ode_mean"):
            np.testing.assert_allclose(getattr(history, name)[:, i, j], getattr(single, name), rtol=1e-9, atol=1e-12)


def test_every_policy_starts_as_the_reference():
    one = task(ETAS)
    records = [exact_record(Samplers.of(one), kind.of(one)) for kind in (Consistent, PerStep)]
    for name in ("sde", "ode", "mean"):
        np.testing.assert_allclose(records[0][name], records[1][name], rtol=1e-12)
        assert records[0]["kl"].max() == records[1]["kl"].max() == 0
    for name, eta in (("sde", ETAS), ("ode", 0.0), ("sde_1", 1.0)):
        expected = REWARD.expectation(gb.discrete_law(REFERENCE, PROCESS, "gddim", eta, 6))
        np.testing.assert_allclose(records[0][name], np.broadcast_to(expected, 3), rtol=1e-12)


def test_the_fine_ode_of_a_consistent_law_is_the_continuous_one():
    one = task(ETAS)
    record = exact_record(Samplers.of(one), changed(Consistent.of(one)))
    policy = changed(Consistent.of(one))
    for k in range(3):
        law = gb.Gaussian(float(policy.mean[k]), float(policy.variance[k]))
        many = gb.discrete_law(law, PROCESS, "heun", 0.0, 400)
        assert record["fine_ode"][k] == pytest.approx(float(REWARD.expectation(many)), rel=1e-3)
    assert "fine_ode" not in exact_record(Samplers.of(one), PerStep.of(one))


def test_the_kl_of_the_eta_1_sampler_depends_on_the_policy_alone_and_rescaled_kl_does_not():
    etas = np.array([0.5, 1.0, 2.0])
    for steps, sigma_T in ((10, 3.0), (2000, 300.0)):
        one = Task(REFERENCE, gb.VP(np.sqrt(np.log1p(sigma_T**2))), REWARD, etas, 0.0, steps)
        policy = Consistent(*(torch.full((3,), value, dtype=torch.float64) for value in (0.7, -1.2)))
        record = exact_record(Samplers.of(one), policy)
        assert np.ptp(record["ode"]) == 0
        np.testing.assert_allclose(record["kl_1"], record["kl"][1], rtol=1e-12)
        spread = np.ptp(record["rescaled_kl"]) / record["kl_1"][0]
        if steps == 10:
            assert (np.diff(record["rescaled_kl"]) < 0).all()  # larger eta visits nearer states
            assert spread > 0.1
        else:
            assert spread < 0.01


def test_per_step_parameters_are_changes_of_eps_in_standard_units_of_z():
    one = task()
    policy, walk = changed(PerStep.of(one)), one.walk()
    z, sigma = 0.37, walk.sigma.numpy()
    score = np.array([float(REFERENCE.score(np.array([z]), s)[0]) for s in sigma])
    slope, shift = (p.numpy() * walk.stochastic.numpy() for p in policy.parameters)
    expected = -sigma * score + slope * (z - 0.2) / np.sqrt(0.8 + sigma**2) + shift
    found = policy.eps(torch.full((6, 1), z, dtype=torch.float64), walk.sigma)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("eta", ETAS)
def test_path_kl_is_the_mean_log_ratio_of_sampled_paths(eta):
    one = task(float(eta))
    walk, policy = one.walk(), changed(PerStep.of(one))
    model, reference = policy.affine(walk.sigma), Consistent.of(one).affine(walk.sigma)
    exact = float(path_kl(walk.kl_weight, path(walk, model), model, reference))
    rng, n = np.random.default_rng(0), 200_000
    z, log_path = float(walk.start) ** 0.5 * rng.standard_normal(n), np.zeros(n)
    for k in range(6):
        gain, offset, drop, std = (float(x[k]) for x in (model.gain, model.offset, walk.drop, walk.std))
        mean, xi = z - drop * (gain * z + offset), rng.standard_normal(n)
        old = z - drop * (float(reference.gain[k]) * z + float(reference.offset[k]))
        z = mean + std * xi
        if std:
            log_path += -(xi**2) / 2 + ((z - old) / std) ** 2 / 2
    error = log_path.std() / n**0.5
    assert abs(log_path.mean() - exact) < 4 * error
    assert abs(log_path.mean() - 1.1 * exact) > 4 * error  # power


def test_rescaled_kl_weights_are_those_of_the_updates_module():
    one = task(ETAS)
    walk, sigmas = one.walk(), one.sigmas
    factor = kl_rescaling(sigmas[:-2], sigmas[1:-1], ETAS)
    np.testing.assert_allclose(walk.kl_weight[:-1].numpy() * factor, walk.unit_kl_weight[:-1], rtol=1e-12)
    assert (walk.kl_weight[-1] == 0).all()  # the last step to sigma = 0 is deterministic and not charged
    np.testing.assert_array_equal(walk.kl_weight[:, 1], walk.unit_kl_weight[:, 1])


def regulator(one):
    """Mean and variance of z_0 under the optimal per-step control: the Riccati recursion, then the chain."""
    a, c, b, _ = one.quadratic_form()
    walk, lam = one.walk(), 1 / float(one.beta)
    reference = Consistent.of(one).affine(walk.sigma)
    steps = [
        (1 - float(d) * float(g), -float(d) * float(o), float(s) ** 2)
        for d, g, o, s in zip(walk.drop, *reference, walk.std, strict=True)
    ]
    p, q, gains = lam * a, lam * (a * c + b / 2), []  # V = -p z^2 + 2 q z
    for A, shift, noise in reversed(steps):
        total = 1 + 2 * noise * p
        gains.append((A / total, (shift + 2 * noise * q) / total))
        p, q = A**2 * p / total, A * (q - p * shift) / total
    mean, variance = 0.0, float(walk.start)
    for (A, shift), (_, _, noise) in zip(reversed(gains), steps, strict=True):
        mean, variance = A * mean + shift, A**2 * variance + noise
    return mean, variance


@pytest.mark.parametrize(
    ("eta", "reward"), [(0.5, REWARD), (1.0, REWARD), (1.7, REWARD), (1.7, gb.Linear(0.8))], ids=str
)
def test_per_step_training_converges_to_the_linear_quadratic_regulator(eta, reward):
    one = task(eta, reward=reward, steps=5)
    history = train(one, "per-step", 500, 0.08, decay=True, every=500).history
    mean, variance = regulator(one)
    assert history.mean[-1] == pytest.approx(mean, abs=1e-5)
    assert history.variance[-1] == pytest.approx(variance, abs=1e-5)
    assert abs(history.mean[0] - mean) > 0.05  # power


def test_grpos_kl_term_has_another_fixed_point_than_the_regulator():
    one = task(1.5, 0.5, 5)
    visited = train(one, "per-step", 400, 0.08, decay=True, every=400, kl="visited").history
    mean, variance = regulator(one)
    assert abs(visited.mean[-1] - mean) + abs(visited.variance[-1] - variance) > 0.02
    full, detached = (objective(one, changed(PerStep.of(one)), kl=kl)[0] for kl in ("path", "visited"))
    assert float(full) == float(detached)  # the same value, another gradient


def test_exact_gradients_are_finite_differences():
    one = task(1.3)
    for kind in (Consistent, PerStep):
        policy = changed(kind.of(one))
        leaves = tuple(p.clone().requires_grad_() for p in policy.parameters)
        objective(one, policy.with_parameters(leaves))[0].backward()
        for k, leaf in enumerate(leaves):
            flat = leaf.detach().reshape(-1)
            for i in range(flat.numel()):
                values = []
                for h in (1e-5, -1e-5):
                    moved = [p.detach().clone() for p in leaves]
                    moved[k].reshape(-1)[i] += h
                    values.append(float(objective(one, policy.with_parameters(tuple(moved)))[0]))
                assert float(leaf.grad.reshape(-1)[i]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


def test_without_kl_runs_end_at_the_stated_floor_and_keep_their_last_parameters():
    one = task(np.array([0.5, 1.0]), np.array([[0.0], [1.0]]))
    found = train(one, "consistent", 400, 0.03, floor=0.05, every=1)
    history = found.history
    free = history.ended[0]
    assert (free > 0).all()
    assert (history.ended[1] == -1).all()  # beta > 0 stops by itself
    assert (history.variance >= 0.05).all()
    assert (history.variance[-1, 0] < 0.06).all()
    for k, end in enumerate(free):
        assert (history.sde[end:, 0, k] == history.sde[-1, 0, k]).all()
        assert history.sde[end - 1, 0, k] == history.sde[end, 0, k] != history.sde[end - 2, 0, k]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_raises_its_objective_and_splits_the_gap(optimizer):
    history = train(task(ETAS, 0.3), "per-step", 60, 0.02, optimizer=optimizer).history
    assert (history.sde[-1] - 0.3 * history.kl[-1] > history.sde[0] + 0.05).all()
    np.testing.assert_allclose(history.gap, history.reference_gap + history.induced_gap, rtol=1e-12)
    assert (history.induced_gap[0] == 0).all()
    assert history.fine_ode is None
    assert history.gap_error is None
    assert history.iteration.tolist() == [0, 10, 20, 30, 40, 50, 60]


def test_deterministic_steps_of_a_window_are_left_as_the_reference():
    one = task(gb.Windows([(0.5, 2.0, 1.0)]))
    trained = train(one, "per-step", 20).policy
    model, reference = trained.affine(one.walk().sigma), Consistent.of(one).affine(one.walk().sigma)
    same = (model.gain == reference.gain).numpy()
    np.testing.assert_array_equal(same, ~one.walk().stochastic.numpy())
    assert 0 < same.sum() < 6


def test_the_shared_policy_is_charged_only_where_there_is_a_density():
    one = task(1.0, grid="time")
    history = train(one, "consistent", 20).history
    assert np.isfinite(history.kl).all()
    assert history.kl[-1] > 0


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match=r"a sampler without noise has no policy gradient, got eta=0.*; use eta > 0"):
        task(0.0)
    with pytest.raises(ValueError, match="training needs a finite sigma_T; start flow matching at t_max < 1"):
        task(process=gb.FlowMatching())
    with pytest.raises(ValueError, match="beta must be 0 or more, got -1"):
        task(beta=-1.0)
    with pytest.raises(ValueError, match="eta, beta and T do not broadcast"):
        task(ETAS, np.ones(2))
    with pytest.raises(ValueError, match="reference must have d = 1 and no batch, got d = 2"):
        Task(gb.Gaussian([0.0, 1.0], 1.0), PROCESS, REWARD)
    with pytest.raises(TypeError, match="reference must be a Gaussian or a GaussianMixture, got 3"):
        Task(3, PROCESS, REWARD)
    with pytest.raises(TypeError, match="reward must be a Reward"):
        Task(REFERENCE, PROCESS, lambda x: x)
    with pytest.raises(TypeError, match="exact training needs a Linear or Quadratic reward"):
        train(task(reward=gb.Bump(0.0, 1.0)))
    mixture = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.2)
    with pytest.raises(TypeError, match="closed forms need a Gaussian reference"):
        train(Task(mixture, PROCESS, REWARD))


def test_training_refuses_bad_arguments_and_says_when_it_diverges():
    with pytest.raises(ValueError, match="unknown policy 'mlp'; known: consistent, per-step, or pass a policy"):
        train(task(), "mlp")
    with pytest.raises(ValueError, match="unknown optimizer 'lion'; known: adam, sgd"):
        train(task(), optimizer="lion")
    with pytest.raises(ValueError, match="unknown kl 'none'; known: path, visited"):
        train(task(), kl="none")
    with pytest.raises(ValueError, match=r"the variance starts at .*, below floor=9; lower it"):
        train(task(), floor=9.0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        train(task(), iterations=0)
    with pytest.raises(ValueError, match="rate must be positive"):
        train(task(), rate=-1.0)
    with pytest.raises(ValueError, match=r"a run diverged at iteration \d+; use a smaller rate than 1e\+60"):
        train(task(), "per-step", rate=1e60, optimizer="sgd")
    policy = PerStep.of(task())
    with pytest.raises(ValueError, match="a per-step policy is defined on its 6 levels alone, got 12"):
        policy.affine(task(steps=12).walk().sigma)
    assert math.isfinite(float(objective(task(), policy)[0]))


DOORS = (
    gb.training.train,
    gb.training.train_sampled,
    gb.training.gradient_moments,
    gb.training.mean_signal,
    gb.training.fisher_information,
    gb.training.Consistent.of,
    gb.training.PerStep.of,
    gb.training.Network.of,
)


@pytest.mark.parametrize("call", DOORS, ids=lambda call: call.__qualname__)
def test_something_that_is_no_task_is_refused_by_name(call):
    arguments = (None,) if call is gb.training.gradient_moments else ()
    with pytest.raises(TypeError, match=r"task must be a gapbound.training.Task, got 'VP'"):
        call("VP", *arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": [0.1, 0.2]}, ValueError, r"rate must be one number"),
        ({"rate": math.nan}, ValueError, "rate must be finite, got nan"),
        ({"floor": 0.0}, ValueError, "floor must be positive"),
        ({"decay": "no"}, TypeError, "decay must be True or False, got 'no'"),
        ({"policy": 3}, TypeError, "policy must be a name or a policy, got 3, which has no parameters"),
        ({"kl": "PATH"}, ValueError, "unknown kl 'PATH'; known: path, visited"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
    ],
)
def test_train_refuses_wrong_arguments(arguments, error, message):
    task = gb.training.Task(gb.Gaussian(0.0, 1.0), gb.VP(2.0), gb.Linear(1.0))
    with pytest.raises(error, match=message):
        gb.training.train(task, **{"iterations": 2} | arguments)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_takes_gradients_whatever_the_callers_mode(mode):
    task = gb.training.Task(gb.Gaussian(0.0, 1.0), gb.VP(2.0), gb.Linear(1.0))
    exact, sampled = (
        lambda: gb.training.train(task, iterations=3).history,
        lambda: gb.training.train_sampled(task, iterations=2, n=16, group=4).history,
    )
    for run in (exact, sampled):
        expected = run()
        with mode():
            found = run()
        np.testing.assert_array_equal(found.sde, expected.sde)
        assert found.sde[-1] != found.sde[0]


def test_a_steps_signal_and_its_best_eta_keep_their_digits_where_nothing_is_forgotten():
    variance, high, low = 1e30, 5.0, 3.4
    a, q = (Fraction(variance) / (Fraction(variance) + Fraction(s) ** 2) for s in (low, high))
    log_a, log_aq = (float(r - 1) for r in (a, q))  # to relative 1e-29
    share = gb.training.signal_share(variance, high, low, 1.3)
    assert float(share) == pytest.approx(1.3**2 * (log_a - log_aq), rel=1e-12)
    best = gb.training.best_eta(variance, high, low)
    assert float(best) == pytest.approx(math.sqrt(math.log(log_aq / log_a) / (log_a - log_aq)), rel=1e-12)
    huge = gb.training.signal_share(1.0, 1e200, 1e150, 0.01)  # squares of levels overflow
    assert float(huge) == pytest.approx(1e150 ** (-2e-4) * (1 - 1e50 ** (-2e-4)), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"etas": []}, ValueError, r"etas must not be empty, got shape \(0,\)"),
        ({"betas": ["a"]}, TypeError, "betas must be a real number"),
        ({"lengths": []}, TypeError, "lengths must be a list of at least one whole number"),
        ({"steps": (2.5,)}, TypeError, "an entry of steps must be a whole number, got 2.5"),
    ],
)
def test_a_phase_diagram_refuses_lists_that_say_nothing(arguments, error, message):
    with pytest.raises(error, match=message):
        gb.training.phase_diagram(gb.Gaussian(0.0, 1.0), gb.Linear(1.0), **{"etas": (1.0,)} | arguments)


def test_nothing_raises_or_warns_where_numpy_is_told_to_raise():
    task = gb.training.Task(gb.Gaussian(0.0, 1.0), gb.VP(20.0), gb.Linear(1e-200))
    with np.errstate(all="raise"):
        gb.training.train(task, iterations=2)
        gb.training.gradient_moments(task, gb.training.Consistent.of(task))
        gb.training.signal_share(1e-300, 1e3, 1e-3, 30.0)  # underflows to 0
        gb.simulate(gb.Gaussian(0.0, 1e-200), gb.VE(1e-100), n=4, steps=3, dtype=torch.float64)


def test_a_task_at_the_smallest_noise_levels_neither_warns_nor_raises():
    with np.errstate(all="raise"):
        task = gb.training.Task(gb.Gaussian(0.3, 0.1), gb.VE(1e-160), gb.Linear(1.0), steps=2)
        assert torch.isfinite(task.walk().kl_weight).all()
