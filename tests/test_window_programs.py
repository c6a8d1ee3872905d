"""The figures about windows: the facts that they show, and the estimator of the embedded one."""

from functools import cache

import numpy as np
import pytest

import gapbound as gb
from analysis.figure import Settings, plain
from analysis.plot_window import moving, shares, table
from analysis.programs import window, window_embedded
from analysis.style import paper


@cache
def data():
    return plain(window.PROGRAM.compute(Settings(quick=True), lambda fraction: None))


def test_the_limit_is_theorys_for_a_linear_reward():
    """Shift of the mean: (b v / beta) (1 - ((v + a^2) / (v + b^2))^(eta^2)), over b v / beta of the tilted law."""
    sigma, v = np.array(data()["sigma"]), float(window.LAW.cov[0])
    for one in data()["etas"]:
        low, high = sigma[window.WIDTH :][: len(one["start"])], sigma[: len(one["start"])]
        expected = 1 - ((v + low**2) / (v + high**2)) ** (one["eta"] ** 2)
        np.testing.assert_allclose(one["limit"], expected, rtol=1e-6)


def test_moving_windows_rise_from_the_fixed_one_beyond_the_target():
    """One window is the fixed one over all trained steps; steps tilt less than the limit; the factor is the limit."""
    for one in data()["etas"]:
        rows = one["moving"]
        assert rows["ode"][0] == pytest.approx(one["everywhere"]["ode"], rel=1e-9)
        assert (np.diff(rows["ode"]) > 0).all()
        assert (np.array(rows["ode"]) < rows["limit"]).all()
        assert rows["factor"] == rows["limit"]
        assert rows["ode"][-1] > 1.2
        np.testing.assert_allclose(np.array(rows["corrected"]) * rows["factor"], rows["ode"], rtol=1e-8)


def test_no_fixed_window_reaches_the_tilted_law_and_late_ones_leave_nearly_all_of_it():
    for one in data()["etas"]:
        assert max(one["sde"]) < 1
        assert (np.diff(one["sde"]) < 0).all()
        assert one["sde"][-1] < 0.1


def test_early_windows_learn_more_per_pass_than_a_sampler_that_is_stochastic_throughout():
    for one in data()["etas"]:
        gain = np.array(one["signal"]) / np.array(one["passes"])
        gain *= one["everywhere"]["passes"] / one["everywhere"]["signal"]
        assert gain[0] == pytest.approx(2.65, abs=0.15)
        assert gain[-1] < 1


def test_passes_are_the_published_37_percent_where_no_trunk_is_shared():
    whole = data()["etas"][0]["everywhere"]["passes"]
    assert window.passes(0) == 37
    assert whole == 25 + 3 * 24
    assert window.passes(20) == 20 / 8 + 5 + 12


def test_a_window_that_reaches_sigma_0_is_clipped_to_it():
    """In continuous time from t_min on, and in steps on a grid that ends there."""
    process, t_min = window.PROCESS, 0.1
    sigma_0 = t_min / (1 - t_min)
    inside, beyond = gb.Windows([(sigma_0, 1.0, 1.2)]), gb.Windows([(0.0, 1.0, 1.2)])
    left, right = (gb.terminal_law(window.LAW, process, own, t_min) for own in (inside, beyond))
    assert left.cov[0] == right.cov[0]
    assert left.cov[0] != gb.terminal_law(window.LAW, process, beyond).cov[0]
    left, right = (gb.discrete_law(window.LAW, process, "gddim", own, 400, t_min=t_min) for own in (inside, beyond))
    assert left.cov[0] == right.cov[0]


def test_the_law_with_a_window_is_the_limit_of_its_steps():
    own = window.window(8, 1.0)
    exact = float(gb.terminal_law(window.LAW, window.PROCESS, own).cov[0])
    errors = [abs(float(gb.discrete_law(window.LAW, window.PROCESS, "gddim", own, n).cov[0]) - exact) for n in STEPS]
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.1)


STEPS = (400, 800, 1600)  # whose grids have the window's edges


def test_the_share_is_unbiased_for_known_variances():
    generator = np.random.default_rng(0)
    between, inside = generator.normal(size=(4000, 4, 1)) * 2, generator.normal(size=(4000, 4, 3))
    found = window_embedded.share(between + inside + generator.normal(size=(4000, 1, 1)) * 9)
    assert found["low"] < 1 / (1 + 4) < found["high"]
    assert found["high"] - found["low"] < 0.02


def test_tables_and_figures_say_what_the_data_say():
    one = data()["etas"][1]
    assert table(data(), one).row_count == len(one["start"][::4]) + 1
    assert moving(data(), one).row_count == len(window.CUTS) + 1
    row = {"share": [0.4, 0.1], "low": [0.3, 0.0], "high": [0.5, 0.2]}
    embedded = {"model": "m", "eta": 1.0, "start": [0, 10], "rewards": {"alignment": row, "jpeg_compressibility": row}}
    assert shares(embedded).row_count == 2
    with paper():
        assert len(window.draw(data()).axes) == 4
        assert len(window_embedded.draw(embedded).axes) == 1
