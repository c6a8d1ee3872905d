"""The gap by simulation: against closed forms in standard errors, with the coverage its interval claims."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from scipy.stats import t as student_t

import gapbound as gb

LINE = gb.Gaussian(1.2, 0.5)
PLANE = gb.Gaussian([0.7, -1.3], [[0.8, 0.3], [0.3, 0.5]])
MIXTURE = gb.GaussianMixture([0.3, 0.7], [-1.4, 0.9], [0.2, 0.6])
PULL = gb.Quadratic(1.0, 0.4, b=0.3)
WINDOW = gb.Windows([(0.3, 1.1, 1.4)])
N = 40_000


@pytest.mark.parametrize("target", [LINE, PLANE], ids=["d=1", "full"])
@pytest.mark.parametrize("process", [gb.VE(1.5), gb.VP(1.0), gb.FlowMatching(0.6)], ids=["VE", "VP", "flow"])
@pytest.mark.parametrize("reward", [PULL, gb.Linear(-1.0), gb.HalfSpace(1.0, 0.2), gb.Bump(0.0, 0.8)],
                         ids=["quadratic", "linear", "half-space", "bump"])  # fmt: skip
def test_the_exact_sampler_s_gap_equals_the_closed_form_in_standard_errors(target, process, reward):
    etas = [0.5, 1.0, WINDOW]
    estimate = gb.estimate_gap(target, process, reward, etas, n=N, sampler="exact", steps=6, grid="sigma", seed=1)
    exact = [gb.reward_gap(target, process, reward, eta) for eta in etas]
    assert np.abs((estimate.gap - exact) / estimate.standard_error).max() < 4


def test_the_test_above_rejects_a_gap_of_the_wrong_eta_sign_or_reference():
    process = gb.VE(1.5)
    estimate = gb.estimate_gap(LINE, process, PULL, 1.0, n=N, sampler="exact", steps=6, seed=1)
    wrong = {
        "eta": gb.reward_gap(LINE, process, PULL, 0.7),
        "sign": -gb.reward_gap(LINE, process, PULL, 1.0),
        "reference": gb.reward_gap(LINE, process, PULL, 1.0, 0.5),
        "reward": gb.reward_gap(LINE, process, gb.Quadratic(1.0, 0.4, b=0.5), 1.0),
    }
    for name, gap in wrong.items():
        assert abs(estimate.gap - gap) > 5 * estimate.standard_error, name


@pytest.mark.parametrize("sampler", ["ddim", "gddim", "euler-maruyama"])
def test_an_n_step_gap_is_that_of_the_exact_chains(sampler):
    process, options = gb.VP(1.2), dict(steps=7, sampler=sampler)
    estimate = gb.estimate_gap(PLANE, process, PULL, [0.6, 0.9], eta_ref=0.3, n=N, seed=2, **options)
    own = [PULL.expectation(gb.discrete_law(PLANE, process, eta=eta, **options)) for eta in (0.6, 0.9)]
    reference = PULL.expectation(gb.discrete_law(PLANE, process, eta=0.3, **options))
    assert np.abs((estimate.gap - (reference - own)) / estimate.standard_error).max() < 4
    spread = 3.0 * N**-0.5  # the rewards have standard deviations of 2 to 3
    assert abs(estimate.reference - reference) < 4 * spread
    assert np.abs(estimate.reward - own).max() < 4 * spread


def coverage(level, runs, widths=(1.0,)):
    """How many intervals, stretched by each width, hold the true gap: z-scores of the counts against ``level``."""
    process, exact = gb.VE(1.5), float(gb.reward_gap(LINE, gb.VE(1.5), PULL, 0.8))
    estimates = [
        gb.estimate_gap(LINE, process, PULL, 0.8, n=400, sampler="exact", steps=1, seed=seed, level=level)
        for seed in range(runs)
    ]
    half_widths_away = np.array([(exact - e.gap) / (e.interval[1] - e.gap) for e in estimates])
    hits = np.array([(np.abs(half_widths_away) <= width).sum() for width in widths])
    return (hits - runs * level) / (runs * level * (1 - level)) ** 0.5


def test_the_interval_covers_as_often_as_its_level_says():
    stated, short = coverage(0.95, runs=300, widths=(1.0, 0.7))
    assert abs(stated) < 3.5
    assert short < -5  # power: an interval 30 % too short is seen
    assert abs(coverage(0.5, runs=200)[0]) < 3.5


def test_the_standard_error_is_the_spread_of_estimates_over_seeds():
    runs = 200
    estimates = [
        gb.estimate_gap(LINE, gb.VE(1.5), PULL, 0.8, n=400, draws=2, sampler="exact", steps=1, seed=seed)
        for seed in range(runs)
    ]
    stated = np.mean([estimate.standard_error**2 for estimate in estimates])
    statistic = (runs - 1) * np.var([estimate.gap for estimate in estimates], ddof=1) / stated
    assert chi2.ppf(1e-4, runs - 1) < statistic < chi2.ppf(1 - 1e-4, runs - 1)
    assert not chi2.ppf(1e-4, runs - 1) < 1.6 * statistic < chi2.ppf(1 - 1e-4, runs - 1)


@pytest.mark.parametrize(("eta", "stated"), [(0.5, 1.88), (1.0, 1.05), (1.5, 1.00)])
def test_sharing_x_T_from_sigma_14_61_gains_what_theory_8_states(eta, stated):
    process, target = gb.VP.stable_diffusion(), gb.Gaussian(0.3, 0.5)
    estimate = gb.estimate_gap(target, process, gb.Linear(1.0), eta, n=N, sampler="exact", steps=3, seed=3)
    assert estimate.predicted_reduction == pytest.approx(stated, abs=0.005)
    # for bivariate normals the ratio of variances has a relative standard error of at most 2/sqrt(n)
    assert estimate.variance_reduction == pytest.approx(estimate.predicted_reduction, rel=8 / N**0.5)


@pytest.mark.parametrize("draws", [1, 2, 4])
@pytest.mark.parametrize("eta_ref", [0.0, 0.6])
@pytest.mark.parametrize("reward", [gb.Linear([1.0, -0.5]), PULL], ids=["linear", "quadratic"])
def test_measured_variance_reduction_equals_the_predicted_one(draws, eta_ref, reward):
    batches = [
        gb.estimate_gap(PLANE, gb.VP(0.6), reward, [0.4, 1.0], eta_ref, n=8000, draws=draws, steps=6, seed=seed)
        for seed in range(12)
    ]
    logs = np.log([batch.variance_reduction for batch in batches])
    predicted = batches[0].predicted_reduction
    z = (logs.mean(0) - np.log(predicted)) / (logs.std(0, ddof=1) / len(batches) ** 0.5)
    assert np.abs(z).max() < 4.5  # Student's t with 11 degrees: p = 9e-4
    assert (predicted > 1.02).all()


def test_more_draws_narrow_the_interval_and_keep_the_mean():
    one, four = (gb.estimate_gap(LINE, gb.VE(3.0), PULL, 1.5, n=N, draws=draws, steps=8, seed=5) for draws in (1, 4))
    assert four.standard_error < 0.9 * one.standard_error
    assert abs(one.gap - four.gap) < 4 * one.standard_error
    assert four.reference == one.reference
    assert (one.draws, four.draws) == (1, 4)


def test_runs_of_several_eta_share_their_increments():
    together = gb.estimate_gap(LINE, gb.VE(3.0), PULL, [1.0, 1.1], n=N, steps=8, seed=6)
    apart = gb.estimate_gap(LINE, gb.VE(3.0), PULL, 1.1, n=N, steps=8, seed=7)
    law = [gb.discrete_law(LINE, gb.VE(3.0), "gddim", eta, steps=8) for eta in (1.0, 1.1)]
    true = float(PULL.expectation(law[0]) - PULL.expectation(law[1]))
    error = float(np.hypot(together.standard_error[0], apart.standard_error))
    assert (
        abs((together.gap[1] - together.gap[0]) - true) < error / 3
    )  # far inside the error of runs that share nothing
    np.testing.assert_array_equal(
        together.gap[1], gb.estimate_gap(LINE, gb.VE(3.0), PULL, 1.1, n=N, steps=8, seed=6).gap
    )


def test_one_eta_gives_numbers_and_several_give_arrays():
    one = gb.estimate_gap(LINE, gb.VE(2.0), PULL, 0.8, n=500, steps=3)
    several = gb.estimate_gap(LINE, gb.VE(2.0), PULL, np.array([0.8, 0.0]), n=500, steps=3)
    for name in ("gap", "standard_error", "reward", "variance_reduction", "predicted_reduction"):
        assert np.shape(getattr(one, name)) == ()
        assert getattr(several, name).shape == (2,)
        assert getattr(several, name)[0] == getattr(one, name)
    assert one.interval.shape == (2,)
    assert several.interval.shape == (2, 2)
    assert one.gap == pytest.approx(one.reference - one.reward, rel=1e-12)
    student = (one.interval - one.gap) / one.standard_error
    np.testing.assert_allclose(student_t(499).cdf(student), [0.025, 0.975], rtol=1e-9)
    assert (one.n, one.draws, one.level) == (500, 1, 0.95)


def test_runs_that_coincide_have_gap_0_and_boundless_reduction():
    for eta in (0.0, 0.7):
        estimate = gb.estimate_gap(LINE, gb.VE(2.0), PULL, eta, eta_ref=eta, n=100, steps=3)
        assert estimate.gap == estimate.standard_error == 0
        assert estimate.variance_reduction == estimate.predicted_reduction == np.inf


def test_a_callable_reward_a_callable_score_and_a_mixture_are_estimated_without_a_prediction():
    options = dict(process=gb.VE(2.0), eta=[0.5, WINDOW], n=2000, steps=5)
    named = gb.estimate_gap(LINE, reward=PULL, **options)
    by_callable = gb.estimate_gap(LINE, reward=lambda x: (-((x - 0.4) ** 2) + 0.3 * x)[:, 0], **options)
    np.testing.assert_allclose(by_callable.gap, named.gap, rtol=1e-5, atol=1e-6)
    assert named.predicted_reduction is not None
    assert by_callable.predicted_reduction is None
    by_score = gb.estimate_gap(LINE.score, reward=PULL, dim=1, **options)
    np.testing.assert_allclose(by_score.gap, named.gap, rtol=1e-4, atol=1e-5)
    assert by_score.predicted_reduction is None
    mixed = gb.estimate_gap(MIXTURE, reward=PULL, **options)
    assert mixed.predicted_reduction is None
    assert np.isfinite(mixed.variance_reduction).all()
    guided = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 3.0)
    assert gb.estimate_gap(guided, reward=PULL, **options).predicted_reduction is None


def test_guidance_s_gap_is_that_of_its_exact_chains():
    guided, process = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 3.0), gb.VP(1.5)
    estimate = gb.estimate_gap(guided, process, PULL, 1.0, n=N, steps=10, seed=4)
    ode, sde = (PULL.expectation(gb.discrete_law(guided, process, "gddim", eta, steps=10)) for eta in (0.0, 1.0))
    assert abs(estimate.gap - (ode - sde)) < 4 * estimate.standard_error
    assert abs(ode - sde) > 20 * estimate.standard_error


def test_rewards_receive_torch_tensors_of_the_asked_precision():
    seen = set()

    def reward(x):
        seen.add((type(x), x.dtype, tuple(x.shape)))
        return x[:, 0]

    gb.estimate_gap(PLANE, gb.VE(2.0), reward, n=10, steps=2, dtype=torch.float64)
    assert seen == {(torch.Tensor, torch.float64, (10, 2))}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(eta=[]), ValueError, "eta must hold at least one value"),
        (dict(eta=-1.0), ValueError, r"eta must .*-1"),
        (dict(eta=[0.5, np.nan]), ValueError, "eta must be finite"),
        (dict(eta=[0.5, "1"]), TypeError, "eta must be a real number"),
        (dict(eta=[[0.5, 1.0]]), ValueError, "eta must be one number or a list of numbers"),
        (dict(eta_ref=-0.5), ValueError, "eta_ref must"),
        (dict(n=1), ValueError, "n must be at least 2, got 1"),
        (dict(n=10.0), TypeError, "n must be a whole number"),
        (dict(draws=0), ValueError, "draws must be at least 1, got 0"),
        (dict(level=1.0), ValueError, r"level must lie between 0 and 1, got 1\.0; 0\.95 is usual"),
        (dict(level=95), ValueError, r"level must lie between 0 and 1, got 95"),
        (dict(level=np.nan), ValueError, "level must be finite"),
        (dict(reward=3.0), TypeError, "a reward is an object such as"),
        (dict(reward=lambda x: x), ValueError, r"a reward must return shape \(10,\), got \(10, 1\)"),
        (dict(reward=lambda x: torch.log(-(x[:, 0] ** 2))), ValueError, r"the reward is not finite on sample 0: \["),
        (dict(reward=gb.Linear([1.0, 2.0])), ValueError, "the last axis of x must have 2 entries"),
        (dict(sampler="euler"), ValueError, "unknown sampler"),
        (dict(process=gb.VE([1.0, 2.0])), ValueError, "one T at a time"),
        (dict(model=gb.GaussianMixture([1.0], [0.0], 1.0), sampler="exact"), ValueError, "variances of a Gaussian"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_the_value_and_the_remedy(options, error, message):
    options = dict(model=LINE, process=gb.VE(2.0), reward=PULL, n=10, steps=3) | options
    with pytest.raises(error, match=message):
        gb.estimate_gap(**options)


@pytest.mark.parametrize("value", ["high", 1j * torch.ones(8)])
def test_a_reward_that_returns_no_real_numbers_is_refused(value):
    with pytest.raises(TypeError, match="a reward must return"):
        gb.estimate_gap(gb.Gaussian(0.0, 1.0), gb.VE(3.0), lambda x: value, n=8, steps=2)


def test_the_intervals_quantile_is_students():
    found = gb.estimate_gap(gb.Gaussian(0.0, 1.0), gb.VE(3.0), gb.Linear(1.0), n=5, steps=3, level=0.9)
    half = (found.interval[1] - found.interval[0]) / 2
    assert half / found.standard_error == pytest.approx(student_t.ppf(0.95, 4), rel=1e-10)
