"""What would take more than about ten seconds or a gigabyte is refused before it starts."""

import numpy as np
import pytest

import gapbound as gb
from gapbound import monotone

LINE = gb.GaussianMixture([0.3, 0.7], [-1.0, 2.0], [0.3, 0.5])
PLANE = gb.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.3)


@pytest.mark.parametrize("eta", [1e3, 1e6, 1e100])
def test_a_large_eta_on_a_mixture_is_refused_with_its_cost(eta):
    with pytest.raises(ValueError, match=r"would take about .* seconds .*use eta up to about"):
        gb.reward_gap(LINE, gb.VE(5.0), gb.HalfSpace(0.2), eta)
    with pytest.raises(ValueError, match=r"would take about .* seconds .*use eta up to about"):
        gb.line_optimum(LINE, gb.HalfSpace(0.2), 1.0, gb.VE(5.0), eta)
    with pytest.raises(ValueError, match=r"would take about .* pairs"):
        gb.reward_gap(PLANE, gb.VE(5.0), gb.HalfSpace(0.2), eta)


def test_the_predicted_steps_are_those_taken(monkeypatch):
    problem = monotone.line_problem(
        LINE, gb.VE(5.0), gb.HalfSpace(0.2), [0.0, gb.Windows([(0.1, 1.0, 3.0), (2.0, 3.0, 1.0)])]
    )
    taken = []
    march = monotone.LineProblem._march
    monkeypatch.setattr(monotone.LineProblem, "_march", lambda *given: taken.append(march(*given)) or taken[-1])
    problem.solve(1)
    assert sum(taken) == problem.steps


def test_rates_of_huge_eta_end():
    with pytest.raises(ValueError, match=r"eta must be at most 1e\+06 in a rate, got 1e\+09"):
        gb.rate(gb.Gaussian(0.5, 1.0), gb.VE, gb.Quadratic(1.0, 0.0), 1e9, of="error")
    found = gb.rate(gb.Gaussian(0.5, 1.0), gb.VE, gb.Quadratic(1.0, 0.0), 1e6)
    assert found.exponent == -1  # the ODE's own error leads


def test_components_too_narrow_for_cells_are_refused_and_the_narrowest_are_right():
    process, reward = gb.VE(5.0), gb.HalfSpace(0.2)
    with pytest.raises(ValueError, match=r"standard deviation of 1e-15 .* too narrow"):
        gb.reward_gap(gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [1.0, 1e-30]), process, reward)
    laws = (gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [1.0, v]) for v in (1e-17, 1e-10))
    narrow, wider = (gb.reward_gap(law, process, reward) for law in laws)
    assert narrow.value == pytest.approx(wider.value, abs=narrow.error + wider.error + 1e-9)
    assert narrow.error < 1e-6


def test_draws_and_grids_have_a_limit():
    with pytest.raises(ValueError, match="GiB"):
        gb.Gaussian(np.zeros(1000), 1.0).sample(10**6)
