"""The door: checked once, silent, no NaN out; and what comes in."""

import math
import threading
import warnings

import numpy as np
import pytest
import torch

import gapbound as gb
from gapbound import _validate as validate
from gapbound._door import door


@door(x=validate.finite)
def scaled(x, factor=1.0):
    return np.asarray(x) * np.asarray(factor)


@door(infinite=True)
def reciprocal(x):
    return 1 / np.asarray(x, dtype=float)


@door(x=validate.positive)
def outer(x):
    return inner(-x)


@door(x=validate.positive)
def inner(x):
    return x


def test_a_door_checks_what_comes_from_outside_and_trusts_the_inside():
    assert outer(2.0) == -2.0
    with pytest.raises(ValueError, match=r"x must be positive, got -2\.0"):
        inner(-2.0)
    with pytest.raises(ValueError, match="x must be positive"):
        outer(x=-1.0)


def test_a_refusal_leaves_the_door_closed_again():
    with pytest.raises(ValueError, match="positive"):
        outer(-1.0)
    with pytest.raises(ValueError, match="positive"):
        inner(-1.0)


def test_a_door_is_its_own_in_every_thread():
    found = []

    def refused():
        with pytest.raises(ValueError, match="positive"):
            inner(-1.0)
        found.append(True)

    @door()
    def with_a_thread():
        thread = threading.Thread(target=refused)
        thread.start()
        thread.join()

    with_a_thread()
    assert len(found) == 1


def test_no_warning_and_no_floating_point_error_leaks():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        assert reciprocal(0.0) == np.inf
        assert scaled(1e-300, 1e-300) == 0
        assert gb.Gaussian(0.0, 1e-300).log_prob(1e-160) > 0
        assert gb.terminal_law(gb.Gaussian(0.0, 1.0), gb.VE(1e150), 30.0).cov == 1.0


def test_a_result_out_of_range_is_refused_with_the_arguments():
    with pytest.raises(ValueError, match=r"scaled leaves the range of floating point.*1e\+200, factor=1e\+200"):
        scaled(1e200, 1e200)
    with pytest.raises(ValueError, match="reciprocal leaves the range"):
        reciprocal(np.nan)  # infinity is documented, NaN never is
    with pytest.raises(ValueError, match=r"reward_gap leaves the range.*1\.e\+160"):
        gb.reward_gap(gb.Gaussian(1e160, 1.0), gb.VE(2.0), gb.Quadratic(1.0, 0.0))
    with pytest.raises(ValueError, match="tilt leaves the range"):
        gb.tilt(gb.Gaussian(2.0, 3.0), gb.Linear(1.0), 5e-324)


def test_what_numpy_cannot_do_is_a_refusal_with_the_arguments():
    library = {"__name__": "gapbound.test"}
    exec("def squared(h): return h**2", library)
    with pytest.raises(ValueError, match=r"squared fails .*Numerical result.*the arguments were h=1e\+200"):
        door()(library["squared"])(1e200)  # an OverflowError of Python's floats
    with pytest.raises(ValueError, match=r"score is given shapes that do not fit .*\(2,2\) \(3,2\)"):
        gb.Gaussian([0.0, 1.0], 1.0).score(np.ones((2, 2)), [1.0, 2.0, 3.0])


def test_errors_of_a_function_passed_in_are_its_own():
    def broken(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        gb.reward_gap(gb.Gaussian(0.0, 1.0), gb.VE(2.0), broken)


@pytest.mark.parametrize("seed", [None, True, [], [True], -1, 1.0, "0", np.matrix([[1.0, 2.0]])])
@pytest.mark.parametrize("law", [gb.Gaussian(0.0, 1.0), gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.2)])
def test_seeds_are_whole_numbers(law, seed):
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        law.sample(3, seed=seed)


def test_a_seed_of_numpy_is_a_seed():
    law = gb.Gaussian(0.0, 1.0)
    np.testing.assert_array_equal(law.sample(3, seed=np.int64(4)), law.sample(3, seed=4))


@pytest.mark.parametrize(
    "value",
    [
        True,
        "1.0",
        None,
        1j,
        [1.0, True],
        [[1.0], [True]],
        np.ma.array([1.0], mask=[True]),
        object(),
        [np.array([True])],
    ],
)
def test_what_is_no_number_is_refused(value):
    for call in (lambda: gb.Gaussian(value, 1.0), lambda: gb.Linear(value), lambda: gb.Gaussian(0.0, 1.0).gain(value)):
        with pytest.raises(TypeError, match=r"must be a real number|masked"):
            call()


def test_large_integers_are_numbers():
    assert gb.VE(10**30).T == 1e30
    with pytest.raises(ValueError, match="no float holds"):
        gb.VE(10**400)


def test_a_message_does_not_grow_with_what_it_shows():
    with pytest.raises(TypeError) as caught:
        gb.Gaussian(["x"] * 100_000, 1.0)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "function",
    [
        gb.Quadratic(1.0, 100.5), gb.Linear(0.37), gb.HalfSpace(1.0, 89.5), gb.Bump(90.3, 41.7), gb.Cosine(0.013),
        gb.AbsoluteDeviation(100.5), gb.Gaussian(100.5, 7.3).log_prob, gb.Gaussian(100.5, 7.3).score,
        gb.GaussianMixture([0.3, 0.7], [0.5, 100.5], [7.3, 9.1]).log_prob,
        gb.GaussianMixture([0.3, 0.7], [0.5, 100.5], [7.3, 9.1]).score,
        gb.guided(gb.Gaussian(0.5, 7.3), gb.Gaussian(100.5, 9.1), 2.5).score,
    ],
)  # fmt: skip
def test_narrow_tensors_are_computed_wide(function, dtype):
    x = torch.tensor([[3], [200], [90]], dtype=dtype)
    found, right = function(x), function(x.double())
    assert found.dtype == (torch.float32 if dtype.is_floating_point else torch.float64)
    np.testing.assert_allclose(found.double(), right, rtol=2e-5)


def test_tensors_without_order_are_refused():
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="x must hold real numbers"):
            gb.Linear(1.0)(torch.ones(3, 1, dtype=dtype))


def test_a_gigabyte_of_draws_is_refused_before_it_is_made():
    for law in (gb.Gaussian(0.0, 1.0), gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.2)):
        with pytest.raises(ValueError, match=r"draws would take 74\.5 GiB.*in parts"):
            law.sample(10**10)


def test_rewards_whose_squares_leave_the_floats_are_right():
    law = gb.Gaussian(1.0, 1.0)
    assert gb.HalfSpace(1e-200).expectation(law) == pytest.approx(0.8413447460685429, rel=1e-14)
    assert gb.HalfSpace(1e200).expectation(law) == pytest.approx(0.8413447460685429, rel=1e-14)
    assert gb.HalfSpace(1e-200, 1e-200).expectation(law) == 0.5
    assert gb.Bump(0.0, 1e155).expectation(law) == 1.0
    narrow = gb.Bump(0.0, 1e-200).expectation(law)  # h / sqrt(1 + h^2) exp(-1/2)
    assert narrow == pytest.approx(1e-200 * math.exp(-0.5), rel=1e-14)
    assert gb.AbsoluteDeviation(0.0, 1e200).expectation(law) == pytest.approx(1e200 * 1.16663, rel=1e-5)


def test_an_estimate_is_a_number_with_an_error():
    for value, error, n, match in [
        ("a", 0.0, None, "value must be a real number"),
        (np.nan, 0.0, None, "value must be finite"),
        (1.0, -1.0, None, "error must be 0 or more, got -1"),
        (1.0, np.nan, None, "error must be 0 or more, got nan"),
        (1.0, [0.1, 0.2], None, r"error must fit the value's shape \(\)"),
        (1.0, 0.1, 0, "n must be at least 1"),
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            gb.Estimate(value, error, "quadrature", n)


def test_nothing_is_not_a_number():
    for call in (lambda: gb.VE([]), lambda: gb.terminal_law(gb.Gaussian(0.0, 1.0), gb.VE(2.0), [])):
        with pytest.raises(ValueError, match=r"must not be empty, got shape \(0,\)"):
            call()
    assert gb.Linear(1.0)(np.empty((0, 1))).shape == (0,)  # but no points have no rewards


def test_vectors_and_matrices_of_more_than_a_gigabyte_are_refused():
    for call in (
        lambda: gb.Linear(1.0).in_dim(10**9),
        lambda: gb.VE(2.0).prior(10**9),
        lambda: gb.VE(2.0).prior(10**5).matrix,
        lambda: gb.Quadratic(1.0, 0.0).quadratic_form(10**400),
    ):
        with pytest.raises(ValueError, match="GiB, and 1 GiB is the most allowed"):
            call()


def test_rewards_that_are_no_real_numbers_are_refused():
    with pytest.raises(TypeError, match=r"a reward must return real numbers, got an array of complex128"):
        gb.sampler_error(gb.Gaussian(0.0, 1.0), gb.VE(2.0), lambda x: x[..., 0] + 1j)
