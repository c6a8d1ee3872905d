"""Grids: ends, spacing in their own coordinate, diffusers' spacings, batches, refusals."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FAMILIES, powers, processes

import gapbound as gb
from gapbound.grid import KINDS
from gapbound.schedule import SPACINGS

FREE = [kind for kind in KINDS if kind not in SPACINGS]
#: the coordinate in which each grid is uniform, of (process, sigma)
COORDINATE = {
    "sigma": lambda sigma: sigma,
    "log-sigma": np.log,
    "karras": lambda sigma: sigma ** (1 / 7.0),
}


@pytest.mark.parametrize("t_min", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 17])
@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_grid_falls_from_sigma_T_to_sigma_of_t_min(family, kind, steps, t_min):
    process = FAMILIES[family](4.0)
    levels = gb.grid(process, steps, kind, t_min)
    assert levels.shape == (steps + 1,)
    assert (np.diff(levels) < 0).all()
    assert (levels[0], levels[-1]) == (process.sigma_T, process.sigma(t_min))


@pytest.mark.parametrize("kind", COORDINATE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_grid_is_uniform_in_its_own_coordinate(family, kind):
    process = FAMILIES[family](4.0)
    steps = np.diff(COORDINATE[kind](gb.grid(process, 20, kind, t_min=0.05)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_time_grid_is_uniform_in_the_processs_own_time(family):
    process = FAMILIES[family](4.0)
    times = process.T * np.linspace(1, 0, 21)
    np.testing.assert_allclose(gb.grid(process, 20), process.sigma(times), rtol=1e-13)


def test_karras_levels_are_those_of_the_paper():
    levels = gb.grid(gb.VE(80.0), 18, "karras")
    i = np.arange(18)
    paper = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels, [*paper, 0.0], rtol=1e-12)
    other = gb.grid(gb.VE(80.0), 18, "karras", sigma_min=0.1, rho=3.0)
    np.testing.assert_allclose(np.diff(other[:-1] ** (1 / 3), 2), 0, atol=1e-13)
    assert other[-2] == pytest.approx(0.1, rel=1e-12)


def test_log_sigma_to_0_ends_with_one_step_from_sigma_min():
    levels = gb.grid(gb.VE(8.0), 5, "log-sigma", sigma_min=0.5)
    np.testing.assert_allclose(levels, [8, 4, 2, 1, 0.5, 0], rtol=1e-14)
    np.testing.assert_array_equal(gb.grid(gb.VE(8.0), 1, "log-sigma"), [8, 0])


def test_flow_from_t_1_starts_at_infinity():
    levels = gb.grid(gb.FlowMatching(), 4)
    np.testing.assert_allclose(levels, [math.inf, 3, 1, 1 / 3, 0])


def test_spacings_are_the_times_of_the_discrete_schedule():
    for spacing in SPACINGS:
        process = gb.VP.stable_diffusion(25, spacing)
        levels = gb.grid(process, 25, spacing)
        np.testing.assert_array_equal(levels, process.sigma(process.beta.times(25, spacing)))
        assert levels[0] == process.sigma_T


@pytest.mark.parametrize("t_min", [0.0, 0.1])
@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize(
    "make", [gb.VE, gb.VP, lambda T: gb.VP(T, "linear"), gb.FlowMatching], ids=["VE", "2t", "linear", "flow"]
)
def test_arrays_of_T_give_a_grid_for_each(make, kind, t_min):
    T = np.array([[0.5, 0.6], [0.7, 0.8]])
    levels = gb.grid(make(T), 7, kind, t_min)
    assert levels.shape == (8, 2, 2)
    for i in np.ndindex(2, 2):
        np.testing.assert_allclose(levels[:, *i], gb.grid(make(T[i]), 7, kind, t_min), rtol=1e-13, atol=1e-15)


@settings(max_examples=150)
@given(process=processes(-3, 300), steps=st.integers(1, 40), kind=st.sampled_from(FREE), rho=powers(-3, 3))
def test_a_grid_is_finite_and_falls_or_is_refused(process, steps, kind, rho):
    try:
        levels = gb.grid(process, steps, kind, rho=rho)
    except ValueError as error:
        refusal = str(error)
    else:
        assert np.isfinite(levels[1:]).all()
        assert (levels[1:] < levels[:-1]).all()
        return
    assert re.search(
        "not fall in floating point|sigma_min must be below sigma_T|cannot start at sigma_T = inf", refusal
    )


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, TypeError, r"steps must be a whole number, got 2\.5"),
        ({"steps": True}, TypeError, "steps must be a whole number, got True"),
        ({"kind": "cosine"}, ValueError, "unknown grid 'cosine'; known: time, sigma, log-sigma, karras, leading"),
        ({"kind": 1}, TypeError, "grid must be one of the names"),
        ({"process": gb.VE}, TypeError, "process must be an instance of VE, VP or FlowMatching"),
        ({"t_min": 3.0}, ValueError, r"t_min must be below T, got t_min=3\.0 and T=3\.0"),
        ({"t_min": -0.1}, ValueError, r"t must lie in \[0, 3\], got -0\.1"),
        ({"t_min": math.nan}, ValueError, "t must be finite, got nan"),
        ({"t_min": [0.1, 0.2]}, TypeError, r"t_min must be one number, got \[0\.1, 0\.2\]"),
        ({"kind": "karras", "sigma_min": 3.0}, ValueError, r"sigma_min must be below sigma_T = 3, got 3"),
        ({"kind": "log-sigma", "sigma_min": 0.0}, ValueError, r"sigma_min must be positive, got 0\.0"),
        ({"kind": "karras", "rho": 0.0}, ValueError, r"rho must be positive, got 0\.0"),
        ({"kind": "karras", "rho": -7.0, "t_min": 0.1}, ValueError, r"rho must be positive, got -7\.0"),
        ({"kind": "karras", "rho": math.nan}, ValueError, "rho must be finite, got nan"),
        ({"kind": "karras", "rho": 1e-4}, ValueError, "10 steps of grid 'karras' .* do not fall in floating point"),
        ({"process": gb.VP(40.0), "steps": 50}, ValueError, "sigma overflows or neighbours coincide; use a smaller T"),
        ({"process": gb.FlowMatching(), "kind": "sigma"}, ValueError, "cannot start at sigma_T = inf; use grid='time'"),
        ({"kind": "leading"}, ValueError, r"grid 'leading' is a diffusers spacing and needs .* VP\.stable_diffusion"),
        (
            {"process": gb.VP.stable_diffusion(), "kind": "leading"},
            ValueError,
            r"'leading' spacing with 10 steps starts at t=902, but the process at t=1000; build it for this start: "
            r"VP\.stable_diffusion\(10, 'leading'\) or T=902",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_met(change, error, match):
    with pytest.raises(error, match=match):
        gb.grid(**({"process": gb.VE(3.0), "steps": 10} | change))
