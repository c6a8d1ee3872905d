"""Intervals over prompts hold what they promise on laws that are known, with few prompts too."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, ttest_1samp

from empirical.meter import statistics as st

TRUE_GAP = 0.37


def normal_pairs(rng, prompts, samples, between=0.5, within=1.0):
    """Differences with mean TRUE_GAP: prompt effects with samples around them."""
    return TRUE_GAP + between * rng.standard_normal((prompts, 1)) + within * rng.standard_normal((prompts, samples))


def coverage(interval, trials, seed, **law):
    rng = np.random.default_rng(seed)
    hits = [low <= TRUE_GAP <= high for low, high in (interval(normal_pairs(rng, **law)) for _ in range(trials))]
    return np.mean(hits), (0.95 * 0.05 / trials) ** 0.5


@pytest.mark.parametrize("prompts", [2, 3, 8, 40])
def test_the_interval_covers_at_its_level_however_few_the_prompts(prompts):
    found, error = coverage(lambda d: st.mean(d).interval, 3000, prompts, prompts=prompts, samples=3)
    assert abs(found - 0.95) < 4 * error


def test_an_interval_that_takes_samples_for_prompts_does_not_cover():
    found, error = coverage(lambda d: st.mean(d.ravel()).interval, 1000, 0, prompts=8, samples=6, between=1.0)
    assert found < 0.95 - 10 * error


def test_the_interval_is_scipys_t_test_of_the_prompt_means():
    d = normal_pairs(np.random.default_rng(1), 7, 4)
    found, expected = st.mean(d, 0.9), ttest_1samp(d.mean(1), 0.0).confidence_interval(0.9)
    assert found.interval == pytest.approx(tuple(expected), rel=1e-12)
    assert (found.value, found.units, found.over) == (pytest.approx(d.mean()), 7, "prompts")


def test_one_prompt_speaks_of_its_samples_and_one_pair_has_no_interval():
    d = normal_pairs(np.random.default_rng(2), 1, 9)
    found = st.mean(d)
    assert (found.units, found.over) == (9, "samples")
    assert found.interval == pytest.approx(tuple(ttest_1samp(d[0], 0.0).confidence_interval(0.95)))
    single = st.mean([[0.2]])
    assert (single.interval, single.standard_error, single.excludes_zero) == (None, None, False)
    assert st.mean([[0.2], [0.3]]).over == "prompts"


def test_differences_average_the_draws_before_they_pair():
    rng = np.random.default_rng(3)
    ode, sde = rng.standard_normal((3, 2)), rng.standard_normal((3, 2, 5))
    assert st.differences(ode, sde) == pytest.approx(np.array(ode) - sde.sum(2) / 5)
    with pytest.raises(ValueError, match=r"need ode of shape \(prompts, samples\) and sde"):
        st.differences(ode, sde[:2])
    with pytest.raises(ValueError, match="ode must be finite"):
        st.differences(np.full((3, 2), np.nan), sde)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 2)), np.zeros(0)])
def test_values_of_another_shape_are_refused(bad):
    with pytest.raises(ValueError, match=r"values must (have shape \(prompts,\) or \(prompts, samples\)|not be empty)"):
        st.mean(bad)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        st.mean([1.0, 2.0], 95)


@pytest.mark.parametrize(("correlation", "draws"), [(0.0, 1), (0.6, 1), (0.6, 3)])
def test_variance_reduction_by_x_T_is_that_of_normals_with_this_correlation(correlation, draws):
    """ode = c + e, sde_k = c + e_k with Var c = correlation, Var e = 1 - correlation, prompts on top."""
    rng = np.random.default_rng(4)
    prompts, samples = 400, 25
    effect = 3 * rng.standard_normal((prompts, 1))
    shared = effect + correlation**0.5 * rng.standard_normal((prompts, samples))
    own = (1 - correlation) ** 0.5
    ode = shared + own * rng.standard_normal((prompts, samples))
    sde = shared[..., None] + own * rng.standard_normal((prompts, samples, draws))
    expected = (1 + 1 / draws) / ((1 - correlation) * (1 + 1 / draws))
    found = st.variance_reduction(ode, sde)
    assert found.x_T == pytest.approx(expected, rel=0.05)
    d = (1 - correlation) * (1 + 1 / draws) / samples
    prompt_means = 18 + 2 * correlation / samples + d
    assert found.prompts == pytest.approx(prompt_means / d, rel=0.25)


def test_reduction_is_unknown_where_nothing_varies_or_repeats():
    ode = np.arange(4.0)[:, None]
    assert st.variance_reduction(ode, ode[..., None] - 1) == st.Reduction(None, None)
    assert st.variance_reduction(ode[:1], ode[:1, :, None]).prompts is None


def joint_coverage(prompts, comparisons, correlation, trials, level_of):
    rng = np.random.default_rng(prompts * comparisons)
    hits = 0
    for _ in range(trials):
        common = correlation**0.5 * rng.standard_normal((prompts, 1))
        columns = common + (1 - correlation) ** 0.5 * rng.standard_normal((prompts, comparisons))
        level = level_of(columns)
        hits += all(not st.mean(column, level).excludes_zero for column in columns.T)
    return hits / trials, (0.95 * 0.05 / trials) ** 0.5


@pytest.mark.parametrize(("prompts", "comparisons", "correlation"), [(5, 9, 0.5), (12, 9, 0.7), (40, 9, 0.7)])
def test_joint_intervals_hold_together_and_single_ones_do_not(prompts, comparisons, correlation, monkeypatch):
    monkeypatch.setattr(st, "REPLICATES", 4000)
    found, error = joint_coverage(prompts, comparisons, correlation, 600, st.joint_level)
    assert found > 0.95 - 3.5 * error
    single, _ = joint_coverage(prompts, comparisons, correlation, 200, lambda columns: 0.95)
    assert single < 0.95 - 6 * error


def test_the_joint_level_solves_the_multivariate_normal_probability():
    rng = np.random.default_rng(6)
    columns = (
        rng.standard_normal((4000, 3)) @ np.linalg.cholesky(np.array([[1, 0.8, 0.5], [0.8, 1, 0.7], [0.5, 0.7, 1]])).T
    )
    level = st.joint_level(columns)
    reach = st.norm.ppf((1 + level) / 2)
    normal = multivariate_normal(np.zeros(3), np.corrcoef(columns.T))
    assert normal.cdf(np.full(3, reach), lower_limit=np.full(3, -reach)) == pytest.approx(0.95, abs=0.004)


def test_the_joint_level_lies_between_one_comparison_and_sidaks():
    rng = np.random.default_rng(7)
    column = rng.standard_normal((5000, 1))
    assert st.joint_level(column) == 0.95
    assert st.joint_level(np.hstack([column, 2 * column])) == pytest.approx(0.95, abs=0.003)
    independent = rng.standard_normal((5000, 4))
    assert st.joint_level(independent) == pytest.approx(0.95**0.25, abs=0.0015)
    assert st.joint_level(independent[:9]) == 0.95**0.25  # few prompts
    assert st.joint_level(np.hstack([column, np.zeros((5000, 1))])) == 0.95  # no column that cannot miss


def test_together_gives_each_mean_at_the_joint_level():
    rng = np.random.default_rng(8)
    columns = [rng.standard_normal((20, 2)) for _ in range(3)]
    level = st.joint_level(np.stack([c.mean(1) for c in columns], axis=1))
    assert [m.interval for m in st.together(columns)] == [st.mean(c, level).interval for c in columns]
    assert all(m.over == "samples" for m in st.together([c[:1] for c in columns]))
