"""The phase diagram of the two claims, its figures and its command."""

from functools import cache

import numpy as np
import pytest
import tyro

import gapbound as gb
from analysis import plot_dynamics
from analysis.figure import Program, Settings, plain
from analysis.programs import dynamics, dynamics_phase
from gapbound.training import Task, phase_diagram, train

REFERENCE, REWARD = gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0)
GRID = {"etas": (0.5, 1.0, 2.0), "steps": (10, 40), "sigma_T": (5.0,), "betas": (0.3, 1.0), "lengths": (30, 240)}
MODULES = {module.PROGRAM.name: module for module in (dynamics, dynamics_phase)}


@cache
def phase(policy, optimizer="adam"):
    rate = 0.02 if optimizer == "adam" else 0.05
    return phase_diagram(REFERENCE, REWARD, policy, rate=rate, optimizer=optimizer, **GRID)


@cache
def data(name):
    return plain(MODULES[name].PROGRAM.compute(Settings(quick=True), lambda fraction: None))


def test_a_cell_is_the_run_it_stands_for():
    found = phase("per-step")
    process = gb.VP(np.sqrt(np.log1p(25.0)))
    history = train(Task(REFERENCE, process, REWARD, 2.0, 1.0, 40), "per-step", 240, 0.02, every=3).history
    at = (1, slice(None), 2, 0, 1)
    np.testing.assert_allclose(found.ode[at], history.ode[history.iteration.searchsorted([30, 240])], rtol=1e-9)
    assert found.reference_gap[1, 2, 0, 1] == pytest.approx(history.reference_gap, rel=1e-9)
    crossing = history.rescaled_kl >= found.fractions[0] * found.budget[1, 0, 1]
    k = int(crossing.argmax())
    low, high = sorted(history.ode[[k - 1, k]])
    assert low <= found.ode_at_kl[1, 0, 2, 0, 1] <= high
    assert found.budget[1, 0, 1] == pytest.approx(history.rescaled_kl.max(), rel=1e-9)  # eta = 2 moves least


def test_gaps_of_one_law_narrow_and_those_of_per_step_policies_widen_away_from_eta_1():
    one, own = phase("consistent"), phase("per-step")
    assert one.narrowed[0, -1, :, 0, 0].all()
    assert not own.narrowed[1, -1, [0, 2]].any()
    assert own.narrowed[1, -1, 1, 0, 0]


def test_more_stochastic_training_improves_the_ode_at_equal_kl_for_one_law_and_never_per_step():
    one, own = phase("consistent"), phase("per-step")
    assert one.improves_at_kl.all()
    assert not own.improves_at_kl[:, -1].any()
    assert (one.ode[:, -1].argmax(1) == 1).all()  # equal updates: eta = 1 is the best of three
    assert (np.diff(own.ode[:, -1], axis=1)[:, 1] < -0.1).all()


def test_for_one_law_the_gain_at_equal_rescaled_kl_is_mostly_the_measure():
    one, own = phase("consistent"), phase("per-step")
    gains = [values[:, -1, -1] - values[:, -1, 0] for values in (one.ode_at_kl, one.ode_at_kl_1)]
    assert (gains[0] > 0.03).all()
    assert (np.abs(gains[1]) < gains[0] / 3).all()
    assert not own.improves_at_kl_1[:, -1].any()


def test_for_one_law_the_best_eta_at_equal_beta_is_the_price_of_kl():
    fair = phase_diagram(REFERENCE, REWARD, "consistent", rate=0.02, rescale_beta=True, **GRID)
    ranges = [np.ptp(found.ode[:, -1], axis=1) for found in (phase("consistent"), fair)]
    assert (ranges[1] < ranges[0] / 3).all()


def test_the_odes_share_of_control_is_that_of_the_linear_theory():
    eta, T, v = np.array([0.5, 1.0, 2.0]), 5.0, 1.0
    found = phase_diagram(
        REFERENCE, gb.Linear(1.0), etas=eta, steps=(100,), sigma_T=(T,), betas=(2.0,), lengths=(500,), rate=0.01
    )
    rho = v / (v + T**2)
    theory = 2 / ((1 + eta**2) * (1 + rho ** (eta**2 / 2)))
    np.testing.assert_allclose(found.control[0, -1, :, 0, 0], theory, rtol=0.12)
    assert found.control[0, -1, 2, 0, 0] < 0.5


def test_the_phase_diagram_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="etas must rise"):
        phase_diagram(REFERENCE, REWARD, etas=(1.0, 0.5))
    with pytest.raises(ValueError, match="lengths must rise"):
        phase_diagram(REFERENCE, REWARD, etas=(0.5, 1.0), lengths=(20, 10))
    with pytest.raises(ValueError, match=r"fractions must lie in \(0, 1\], got \(2.0,\)"):
        phase_diagram(REFERENCE, REWARD, etas=(0.5, 1.0), fractions=(2.0,))
    with pytest.raises(ValueError, match="unknown policy 'mlp'"):
        phase_diagram(REFERENCE, REWARD, "mlp", etas=(0.5, 1.0))


def test_the_phase_figure_holds_every_run_and_its_findings_are_sentences_with_numbers():
    found = data("dynamics_phase")
    assert set(found["runs"]) == set(dynamics_phase.RUNS)
    shape = (2, 3, 4, 3, 5)
    for run in found["runs"].values():
        assert np.shape(run["gap"]) == np.shape(run["ode"]) == shape
    sentences = dynamics_phase.findings(found)
    assert len(sentences) == 5
    assert all(any(sign.isdigit() for sign in sentence) and sentence.endswith(".") for sentence in sentences)


def test_the_dynamics_figure_shows_what_it_says():
    found = data("dynamics")
    signal = found["signal"]
    assert signal["eta"][int(np.argmin(signal["fisher_limit"]))] == pytest.approx(1.0, rel=0.03)
    assert (np.diff(signal["total"]) >= 0).all()
    own, one = found["exact"]["per-step"], found["exact"]["consistent"]
    assert own["gap"][-1][-1] < one["gap"][-1][-1] - 0.1
    assert set(found["sampled"]) >= {"ddpo", "grpo", "path", "visited"}


def test_figures_are_drawn_and_written_and_findings_printed(tmp_path, monkeypatch, capsys):
    quick = [
        Program(program.name, lambda settings, progress, name=program.name: data(name), program.draw)
        for program in plot_dynamics.programs()
    ]
    monkeypatch.setattr(plot_dynamics, "programs", lambda: tuple(quick))
    tyro.cli(plot_dynamics.main, args=["--out", str(tmp_path), "--quick"])
    names = {f"{program.name}{suffix}" for program in quick for suffix in (".png", ".pdf", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    printed = capsys.readouterr().out
    assert "1. Claim 1 holds in" in printed
    assert "5. Without KL" in printed
    with pytest.raises(SystemExit, match="unknown figure 'nothing'; known: dynamics, dynamics_phase"):
        tyro.cli(plot_dynamics.main, args=["--only", "nothing"])
