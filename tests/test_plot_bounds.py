"""The figures about bounds, from coarse runs: the facts that each of them shows."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tyro

import gapbound as gb
from analysis import plot_bounds
from analysis.bound_looks import LABELS, LOOKS
from analysis.figure import Settings, plain
from analysis.programs import bounds_dimension, bounds_limits, bounds_sweeps, bounds_winner
from analysis.series import vp

MODULES = {module.PROGRAM.name: module for module in (bounds_sweeps, bounds_winner, bounds_limits)}


@cache
def data(name):
    return plain(MODULES[name].PROGRAM.compute(Settings(quick=True), lambda fraction: None))


def test_every_bound_has_a_look_and_a_label():
    assert set(LOOKS) == set(LABELS) == set(gb.bounds.best(gb.Gaussian(0.5, 1.0), gb.VE(3.0), gb.Bump(0.0, 1.0)).bounds)


def test_no_curve_of_the_sweeps_is_below_the_exact_gap_and_the_values_are_those_of_the_library():
    for name, sweep in data("bounds_sweeps")["sweeps"].items():
        gap = np.abs(sweep["gap"])
        for bound in LOOKS:
            drawn = np.array([np.inf if limit is None else limit for limit in sweep[bound]])
            assert (drawn >= gap * (1 - 1e-6)).all(), (name, bound)
    sweep, at = data("bounds_sweeps")["sweeps"]["eta"], 2
    question = bounds_sweeps.modes(2.0), vp(5.0), bounds_sweeps.REWARD, sweep["x"][at]
    assert sweep["duhamel"][at] == pytest.approx(gb.bounds.duhamel(*question).gap, rel=1e-6)
    assert sweep["gap"][at] == pytest.approx(gb.reward_gap(*question).value, rel=1e-6)


def test_duhamel_wins_at_small_eta_and_chi_square_at_large_eta():
    found = data("bounds_winner")
    n = len(found["sigma_T"])
    for one in found["maps"][1:]:
        grid = {name: np.reshape([np.inf if x is None else x for x in one[name]], (n, n)) for name in LOOKS}
        general = np.stack([grid[name] for name in bounds_winner.GENERAL])
        assert (general.argmin(0)[:, 0] == bounds_winner.GENERAL.index("duhamel")).all()
        assert (general.argmin(0)[:, -1] == bounds_winner.GENERAL.index("chi_square")).all()


def test_only_the_full_law_is_vacuous_at_the_size_of_an_image():
    row = bounds_limits.by_dimension(bounds_limits.IMAGE)
    assert row["chi2"] == pytest.approx(2150, rel=0.05)
    assert row["KL"] == pytest.approx(3.8, abs=0.05)
    assert row["chi_square"] > 1
    assert row["total_variation"] >= 0.95
    assert row["gap"] < row["duhamel, reduced"] < 2 * row["gap"] < row["chi_square, reduced"] < 0.1


@pytest.mark.parametrize("read", bounds_dimension.READS)
def test_bounds_at_the_size_of_an_image_are_those_in_two_dimensions_and_within_three_times_the_gap(read):
    small, large = (bounds_dimension.bounds_of(d, read) for d in (2, bounds_limits.IMAGE))
    figure = json.loads((Path(__file__).parent.parent / "figures" / "bounds_dimension.json").read_text())["data"]
    gap, error = figure[read]["gap"], figure[read]["error"]
    assert small.keys() == large.keys()
    for name in set(large) - {"residual"}:
        assert large[name] == pytest.approx(small[name], rel=1e-9)
        assert gap + 4 * error < large[name] < 3 * (gap - 4 * error)
    found = bounds_dimension.simulated(64, 2000, 1)[read]
    assert abs(abs(found["gap"]) - gap) < 4 * math.hypot(found["standard_error"], error)


def test_b3_is_false_with_the_true_scores_kappa_and_true_with_the_models():
    found = bounds_limits.misspecified(3000, 0)
    assert found["learned"]["over"] == 0
    assert found["true"]["over"] > 1000
    assert 0.85 < found["learned"]["quantiles"][100] <= 1


def test_a_guided_score_breaks_a_bound_for_exact_scores():
    guided = data("bounds_limits")["guidance"]
    broken = np.abs(guided["gap"]) > np.array(guided["bound"])
    assert not broken[0]  # no guidance: the score is exact
    assert broken[-1]


def test_every_figure_is_drawn_and_written(tmp_path, monkeypatch):
    quick = [
        type(program)(program.name, lambda settings, progress, name=program.name: data(name), program.draw)
        for program in plot_bounds.programs()
        if program.name in MODULES
    ]
    monkeypatch.setattr(plot_bounds, "programs", lambda: tuple(quick))
    tyro.cli(plot_bounds.main, args=["--out", str(tmp_path)])
    names = {f"{program.name}{suffix}" for program in quick for suffix in (".png", ".pdf", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(SystemExit, match="unknown figure 'nothing'; known: bounds_sweeps, bounds_winner"):
        tyro.cli(plot_bounds.main, args=["--only", "nothing"])
