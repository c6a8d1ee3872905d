"""The reduction to the directions that matter: the same gap and the same bounds, however many dimensions there were."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from strategies import FAMILIES

import gapbound as gb
from gapbound import bounds
from gapbound.bounds.best import THEOREMS
from gapbound.bounds.problem import unreduced
from gapbound.monotone import mixture_gap
from gapbound.reduction import directions

IMAGE = 16_384
PROCESS = FAMILIES["VP"](5.0)
LINE = gb.GaussianMixture([0.3, 0.7], [-1.0, 1.2], 0.2)


def frame(k, d, seed=0):
    """Orthonormal rows (k, d) of random directions."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, k)))[0].T


def embedded(law, rows, shift=0.0):
    """``law`` of k dimensions along ``rows`` (k, d), its variance v, common to all components, in all d dimensions."""
    components = law.components
    v = float(components.cov.flat[0])
    across = shift - (shift @ rows.T) @ rows if np.ndim(shift) else 0.0
    return gb.GaussianMixture(law.weights, components.mean @ rows + across, v)


@st.composite
def plans(draw):
    """A mixture of one variance in k dimensions, a reward there, and a frame and a shift in d."""
    k = draw(st.integers(1, 3))
    K = draw(st.integers(2, 4))
    d = draw(st.integers(k + 1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    weights = rng.dirichlet(np.ones(K)) * (1 - 1e-6 * K) + 1e-6
    law = gb.GaussianMixture(weights / weights.sum(), rng.normal(size=(K, k)) * 1.5, 10 ** rng.uniform(-1, 0.5))
    w = rng.normal(size=k)
    rewards = [
        gb.Linear(w, 0.3),
        gb.HalfSpace(w, float(rng.normal())),
        gb.Cosine(w, 0.4),
        gb.Quadratic(np.outer(w, w), rng.normal(size=k), w),
    ]
    return law, rewards[draw(st.integers(0, 3))], frame(k, d, int(rng.integers(10**6))), rng.normal(size=d) * 3


def lifted(reward, rows):
    """r(rows x) as a reward of x."""
    if isinstance(reward, gb.Quadratic):
        return gb.Quadratic(rows.T @ reward.A @ rows, reward.c @ rows, reward.b @ rows, reward.const)
    names = {gb.Linear: ("b", "const"), gb.HalfSpace: ("w", "threshold"), gb.Cosine: ("omega", "phase")}
    vector, number = names[type(reward)]
    return type(reward)(getattr(reward, vector) @ rows, getattr(reward, number))


@settings(max_examples=10)
@given(plans(), st.sampled_from([0.3, 1.0, 1.7]), st.sampled_from(sorted(FAMILIES)))
def test_an_embedded_question_has_the_bounds_of_the_small_one(plan, eta, family):
    law, reward, rows, shift = plan
    process = FAMILIES[family](4.0)
    small = bounds.best(law, process, reward, eta)
    large = bounds.best(embedded(law, rows, shift), process, lifted(reward, rows), eta)
    assert large.gap == pytest.approx(small.gap, rel=1e-6, abs=1e-12)
    assert set(large.bounds) == set(small.bounds)
    for name, bound in small.bounds.items():
        assert large.bounds[name].gap == pytest.approx(bound.gap, rel=1e-6, abs=1e-12)


@settings(max_examples=15)
@given(plans(), st.sampled_from([0.3, 1.0, 1.7]))
def test_the_reduced_law_and_reward_are_the_marginal_of_the_question(plan, eta):
    law, reward, rows, shift = plan
    target, read = embedded(law, rows, shift), lifted(reward, rows)
    few, seen = directions(target, read)
    assert few.dim <= rows.shape[0]
    assert float(seen.expectation(few)) == pytest.approx(float(read.expectation(target)), rel=1e-9, abs=1e-11)
    x = target.sample(2000, seed=1)
    values = np.sort(read(x))
    np.testing.assert_allclose(
        values.mean(), np.mean(seen(few.sample(2000, seed=2))), atol=6 * values.std() / 30 + 1e-9
    )


def test_the_size_of_an_image_is_a_line_and_its_bounds_those_of_the_line():
    rows = frame(1, IMAGE)
    target = embedded(LINE, rows, np.random.default_rng(1).normal(size=IMAGE))
    reward = gb.HalfSpace(1.0, 0.4)
    read = lifted(reward.in_dim(1), rows)
    exact = mixture_gap(LINE, PROCESS, reward, 0.5)
    found = gb.reward_gap(target, PROCESS, read, 0.5)
    assert found.method == "quadrature"
    assert found.value == pytest.approx(exact.value, rel=1e-5)
    best, small = bounds.best(target, PROCESS, read, 0.5), bounds.best(LINE, PROCESS, reward, 0.5)
    assert best.gap == pytest.approx(small.gap, rel=1e-6)
    assert "residual" in best.bounds
    assert "dimension = 1 (closed form): directions that matter, independent of the rest of d = 16384" in str(best)
    assert "dimension" not in str(small)


def test_a_direction_off_the_line_of_the_modes_costs_one_dimension():
    rows = frame(2, IMAGE)
    target = embedded(gb.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.2, 0.0]], 0.2), rows, np.ones(IMAGE))
    few, seen = directions(target, lifted(gb.Linear([0.6, 0.8]), rows))
    assert few.dim == 2
    assert np.hypot(*seen.b) == pytest.approx(1.0)
    large = bounds.best(target, PROCESS, lifted(gb.Linear([0.6, 0.8]), rows), 0.5)
    plane = gb.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.2, 0.0]], 0.2)
    assert large.gap == pytest.approx(bounds.best(plane, PROCESS, gb.Linear([0.6, 0.8]), 0.5).gap, rel=1e-9)


def test_the_reduced_gap_is_the_gap_of_a_simulation_in_all_dimensions():
    d, eta, process = 12, 1.2, gb.VE(1.5)
    rows = frame(1, d, 3)
    law = gb.GaussianMixture([0.1, 0.9], [-2.0, 1.0], 0.2)
    target, read = embedded(law, rows, np.full(d, 0.5)), lifted(gb.Linear(np.ones(1)), rows)
    found = gb.estimate_gap(target, process, read, eta, n=20_000, sampler="stochastic-heun", steps=60, seed=1)
    exact = gb.reward_gap(target, process, read, eta)
    assert abs(found.gap - exact.value) < 4 * found.standard_error
    moments = gb.reward_gap(law.moments(), process, gb.Linear(1.0), eta)  # what one Gaussian would have
    assert abs(found.gap - float(moments)) > 6 * found.standard_error


@pytest.mark.parametrize("eta", [0.4, 1.2])
def test_reduced_bounds_are_below_those_of_the_full_law(eta):
    rows = frame(2, 9, 5)
    means = np.array([[-1.0, 0.2], [1.2, 0.2], [0.3, 1.0]]) @ rows + 0.8
    target = gb.GaussianMixture([0.3, 0.6, 0.1], means, 0.4)
    for w in (rows[0], rows[0] + rows[1], np.ones(9)):
        reward = gb.Cosine(w, 0.3)
        found = bounds.best(target, PROCESS, reward, eta).bounds
        question = unreduced(target, PROCESS, reward, eta)
        for name in ("chi_square", "total_variation", "wasserstein", "duhamel"):
            assert found[name].gap < THEOREMS[name](question).gap


def test_different_covariances_keep_the_coordinates_in_which_they_differ():
    # components of variances (0.1, 1, 1, 3, 3) and (0.4, 1, 1, 3, 3) whose means differ in the second coordinate
    means = np.array([[0.0, 1.0, 2.0, 0.0, -1.0], [0.0, -1.0, 2.0, 0.0, -1.0]])
    covs = np.array([[0.1, 1.0, 1.0, 3.0, 3.0], [0.4, 1.0, 1.0, 3.0, 3.0]])
    target = gb.GaussianMixture([0.5, 0.5], means, covs)
    few, seen = directions(target, gb.Linear([1.0, 0.0, 0.0, 3.0, 4.0]))
    assert few.dim == 3  # the first two, and one of variance 3
    np.testing.assert_allclose(np.sort(few.components.cov, -1), [[0.1, 1.0, 3.0], [0.4, 1.0, 3.0]])
    assert np.abs(seen.b).max() == pytest.approx(5.0)
    alone, _ = directions(target, gb.Linear([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert isinstance(alone, gb.Gaussian)
    np.testing.assert_allclose(alone.mean, [2.0])
    widths = gb.GaussianMixture(
        [0.5, 0.5], np.zeros((2, 3)), [[[1.0] * 3], [[2.0] * 3]][0] * 2 * np.array([[1.0], [2.0]])
    )
    assert directions(widths, gb.Linear([1.0, 0.0, 0.0]))[0] is widths  # |y|^2 tells the components apart


def test_a_common_full_covariance_keeps_one_direction_per_eigenspace():
    turn = ortho_group.rvs(6, random_state=0)
    cov = turn @ np.diag([0.2, 0.2, 0.2, 1.0, 1.0, 1.0]) @ turn.T
    cov = (cov + cov.T) / 2
    apart = turn[:, 0]
    target = gb.GaussianMixture([0.4, 0.6], [-apart, apart], np.stack([cov, cov]))
    few, seen = directions(target, gb.Linear(apart + turn[:, 1] + turn[:, 4]))
    assert few.dim == 3
    np.testing.assert_allclose(np.sort(few.components.cov[0]), [0.2, 0.2, 1.0], rtol=1e-12)
    assert float(seen.expectation(few)) == pytest.approx(0.2, rel=1e-12)
    inside, _ = directions(target, gb.Linear(turn[:, 0]))
    assert inside.dim == 1
    line = gb.GaussianMixture([0.4, 0.6], [-1.0, 1.0], 0.2)
    exact = mixture_gap(line, PROCESS, gb.Linear(1.0), 0.5)
    assert gb.reward_gap(target, PROCESS, gb.Linear(turn[:, 0]), 0.5).value == pytest.approx(exact.value, rel=1e-5)


def test_full_covariances_that_differ_stay():
    covs = np.array([[[1.0, 0.3], [0.3, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    target = gb.GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], covs)
    assert directions(target, gb.Linear([1.0, 0.0]))[0] is target


def test_rewards_that_read_every_coordinate_stay():
    target = embedded(LINE, frame(1, 3), np.ones(3))
    for reward in (gb.Bump(0.0, 1.0), gb.AbsoluteDeviation(0.0), gb.Quadratic(1.0, 0.0), lambda x: x[..., 0]):
        assert directions(target, reward)[0] is target


def test_collinear_modes_are_a_line_and_nearly_collinear_ones_are_not():
    u, v = frame(2, 200)
    weights = [1e-6, 0.4, 1 - 0.4 - 1e-6]
    exact = directions(gb.GaussianMixture(weights, [-u, 0.3 * u, 1.7 * u], 0.1), gb.Linear(3 * u))[0]
    assert exact.dim == 1
    np.testing.assert_allclose(np.abs(exact.components.mean[:, 0]), [1.0, 0.3, 1.7], rtol=1e-13)
    # a thousandth of a millionth off the line is more than rounding: the direction stays, and the bound with it
    bent = gb.GaussianMixture(weights, [-u, 0.3 * u + 1e-9 * v, 1.7 * u], 0.1)
    few, seen = directions(bent, gb.Linear(3 * u))
    assert few.dim == 2
    assert seen.expectation(few) == pytest.approx(float(gb.Linear(3 * u).expectation(bent)), rel=1e-12)
    # rounding of huge means is no rounding in units of a tiny width: what it bends stays, too
    huge = gb.GaussianMixture(weights, 1e9 * np.array([-u, 0.3 * u, 1.7 * u]), 1e-6)
    assert directions(huge, gb.Linear(3 * u))[0].dim in (2, 3)


def test_modes_that_coincide_or_that_the_reward_does_not_see_are_one_gaussian():
    u, v = frame(2, 300)
    twins = gb.GaussianMixture([0.2, 0.3, 0.5], [u, u, u], 0.1)
    few, _ = directions(twins, gb.HalfSpace(u + v, 0.2))
    assert isinstance(few, gb.Gaussian)
    assert few.dim == 1
    across = gb.GaussianMixture([1e-6, 1 - 1e-6], [u + 2 * v, -u + 2 * v], 0.1)
    few, _ = directions(across, gb.HalfSpace(v, 0.2))
    assert isinstance(few, gb.Gaussian)
    found = gb.reward_gap(across, PROCESS, gb.HalfSpace(v, 0.2), 0.5)
    single = gb.reward_gap(gb.Gaussian(2.0, 0.1), PROCESS, gb.HalfSpace(1.0, 0.2), 0.5)
    assert found.value == pytest.approx(float(single), rel=1e-6)
    assert bounds.residual(across, PROCESS, gb.HalfSpace(v, 0.2), 0.5).gap == pytest.approx(
        abs(float(single)), rel=1e-6
    )
    # two coordinates across the modes: still one Gaussian, and a closed form
    curved = gb.Quadratic(np.diag([0.0, 1.0, 2.0]), 0.5)
    modes = gb.GaussianMixture([0.5, 0.5], [[-1.0, 0.2, 0.3], [1.0, 0.2, 0.3]], 0.4)
    found = gb.reward_gap(modes, PROCESS, curved, 0.5)
    assert found.method == "closed form"
    exact = gb.reward_gap(gb.Gaussian([0.2, 0.3], 0.4), PROCESS, gb.Quadratic(np.diag([1.0, 2.0]), 0.5), 0.5)
    assert found.value == pytest.approx(float(exact), rel=1e-12)


def test_a_constant_reward_has_no_gap_in_any_dimension():
    u, v = frame(2, 50)
    modes = gb.GaussianMixture([0.5, 0.5], [u, -u], 0.1)
    for reward in (gb.Linear(0.0, 3.0), gb.Cosine(0.0, 1.0), gb.Quadratic(0.0, 1.0)):
        assert directions(modes, reward)[0].dim == 1
        assert gb.reward_gap(modes, PROCESS, reward, 0.5).value == pytest.approx(0.0, abs=1e-15)
        assert bounds.chi_square(modes, PROCESS, reward, 0.5).gap < 1e-15  # the rounding of Var r, never below
        few, flat = directions(gb.Gaussian(v, 0.1), reward)
        assert few.dim == 1
        assert float(gb.reward_gap(few, PROCESS, flat, 0.5)) == 0.0


def test_one_dimension_and_one_component_are_as_they_were():
    assert directions(LINE, gb.Linear(1.0))[0] is LINE
    one = gb.GaussianMixture([1.0], [np.ones(5)], 0.2)
    few, seen = directions(one, gb.Linear(np.arange(5.0)))
    assert isinstance(few, gb.Gaussian)
    assert float(gb.reward_gap(few, PROCESS, seen, 0.5)) == pytest.approx(
        float(gb.reward_gap(gb.Gaussian(np.ones(5), 0.2), PROCESS, gb.Linear(np.arange(5.0)), 0.5)), rel=1e-12
    )


def test_directions_keep_the_gap_and_make_a_vacuous_bound_sharp_at_the_size_of_an_image():
    rng = np.random.default_rng(0)
    target = gb.Gaussian(math.sqrt(0.1) * rng.choice([-1.0, 1.0], IMAGE), 0.9)
    w = rng.normal(size=IMAGE) / math.sqrt(IMAGE)
    process = FAMILIES["VP"](14.61)
    reward = gb.HalfSpace(w, float(w @ target.mean))
    few, seen = directions(target, reward)
    exact = float(gb.reward_gap(target, process, reward, 0.5))
    assert few.dim == 1
    assert float(gb.reward_gap(few, process, seen, 0.5)) == pytest.approx(exact, rel=1e-9)
    full = THEOREMS["chi_square"](unreduced(target, process, reward, 0.5))
    sharp = bounds.chi_square(target, process, reward, 0.5)
    assert full.vacuous
    assert abs(exact) <= sharp.gap < 20 * abs(exact) < full.gap


@pytest.mark.parametrize("reward", [gb.Linear([1.0, -0.5, 0.3]), gb.Cosine([1.0, -0.5, 0.3], 0.2)])
def test_directions_keep_the_gap_where_eigenvalues_differ(reward):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    target = gb.Gaussian([0.4, -1.0, 0.2], turn @ np.diag([0.5, 0.5, 2.0]) @ turn.T)
    few, seen = directions(target, reward)
    assert few.dim == 2
    for eta in (0.5, gb.Windows([(0.3, 2.0, 1.0)])):
        exact = float(gb.reward_gap(target, gb.VE(3.0), reward, eta))
        assert float(gb.reward_gap(few, gb.VE(3.0), seen, eta)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_the_length_of_a_row_does_not_matter(scale):
    u, v = frame(2, 30)
    few, seen = directions(gb.GaussianMixture([0.5, 0.5], [u, -u], 0.1), gb.HalfSpace(scale * (u + v), 0.0))
    assert few.dim == 2
    np.testing.assert_allclose(np.hypot(*seen.w), math.sqrt(2) * scale)


def test_wrong_questions_are_refused():
    with pytest.raises(TypeError, match="needs a Gaussian or a GaussianMixture, got None"):
        directions(None, gb.Linear(1.0))
    with pytest.raises(ValueError, match=r"one target, got a batch of shape \(2,\); loop"):
        directions(gb.Gaussian(np.zeros((2, 1)), 1.0), gb.Linear(1.0))
    with pytest.raises(ValueError, match="does not fit the dimension 2"):
        directions(gb.Gaussian(np.zeros(2), 1.0), gb.Linear([1.0, 2.0, 3.0]))
