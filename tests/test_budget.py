"""The gap's budget: terms that add up, each by another route, zero where nothing is there to cause them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import etas, processes, signed

import gapbound as gb
from analysis.figure import Settings, plain
from analysis.programs import budget as budget_figure
from analysis.style import paper
from gapbound.budget import TERMS, gap_budget
from gapbound.kernel import OURS, SAMPLERS

PLAIN, ASKED = gb.Gaussian(0.0, 1.0), gb.Gaussian(0.7, 0.5)
REWARD = gb.Quadratic(1.0, 1.4)
TUNED = gb.tilt(ASKED, REWARD, 2.0)
PROCESS = gb.VP(1.5)
FULL = gb.Gaussian([0.7, -0.4], [[0.9, 0.4], [0.4, 0.5]])


def guided(law):
    return gb.guided(PLAIN, law, 2.5)


FINE_TUNED = {"reference": guided(ASKED), "eta": 1.2, "ode_steps": 40, "sde_steps": 10}


def adds_up(budget):
    scale = np.maximum(1, np.maximum(np.abs(budget.ode), np.abs(budget.sde)))
    return bool((np.abs(sum(budget.terms.values()) - budget.total) <= 1e-14 * scale).all())


def normal_integral(reward, mean, var):
    """E r under N(mean, var) by 200 Gauss-Hermite nodes."""
    x, w = np.polynomial.hermite_e.hermegauss(200)
    return float(w @ np.asarray(reward(mean + math.sqrt(var) * x[:, None]))) / math.sqrt(2 * math.pi)


def many_steps(model, eta, reward, process=PROCESS):
    """E r in continuous time by a long chain of second order, extrapolated."""
    found = []
    for n in (2000, 4000):
        top = math.asinh(float(process.sigma_T) / 0.3)
        sigmas = np.append(process.sigma_T, 0.3 * np.sinh(np.linspace(top, 0.0, n + 1)[1:]))
        law = gb.discrete_law(model, process, "stochastic-heun", eta, sigmas=sigmas)
        found.append(normal_integral(reward, law.mean[0], law.cov[0]))
    return found[1] + (found[1] - found[0]) / 3


def test_every_term_is_the_difference_that_its_name_says_by_another_route():
    budget = gap_budget(guided(TUNED), PROCESS, REWARD, **FINE_TUNED)
    continuous = {
        (name, eta): many_steps(model, eta, REWARD)
        for name, model in (("model", guided(TUNED)), ("reference", guided(ASKED)), ("unguided", ASKED))
        for eta in (0.0, 1.2)
    }
    gaps = {name: continuous[name, 0.0] - continuous[name, 1.2] for name in ("model", "reference", "unguided")}
    ode = gb.discrete_law(guided(TUNED), PROCESS, "ddim", 0.0, 40)
    sde = gb.discrete_law(guided(TUNED), PROCESS, "gddim", 1.2, 10)
    ends = [normal_integral(REWARD, law.mean[0], law.cov[0]) for law in (ode, sde)]
    expected = {
        "ode_integrator": ends[0] - continuous["model", 0.0],
        "sde_integrator": continuous["model", 1.2] - ends[1],
        "fine_tuning": gaps["model"] - gaps["reference"],
        "guidance": gaps["reference"] - gaps["unguided"],
        "initial_mismatch": gaps["unguided"],
    }
    for name, value in expected.items():
        assert budget.terms[name] == pytest.approx(value, abs=1e-6)
        assert abs(value) > 1e-3  # so that no two terms could be taken for one another
    assert len({round(abs(value), 3) for value in expected.values()}) == len(TERMS)
    assert budget.total == pytest.approx(ends[0] - ends[1], abs=1e-12)
    assert budget.continuous == pytest.approx(gaps["model"], abs=1e-6)
    assert adds_up(budget)


def test_a_simulation_finds_the_total_and_not_its_parts():
    model, n = guided(TUNED), 200_000
    budget = gap_budget(model, PROCESS, REWARD, **FINE_TUNED)
    runs = [
        REWARD(gb.simulate(model, PROCESS, *run, n, seed).samples).double()
        for seed, run in enumerate([("ddim", 0.0, 40), ("gddim", 1.2, 10)])
    ]
    gap, error = float(runs[0].mean() - runs[1].mean()), float((runs[0].var() + runs[1].var()) / n) ** 0.5
    assert abs(gap - budget.total) < 4 * error
    assert abs(gap - budget.continuous) > 8 * error


@pytest.mark.parametrize(
    ("options", "zero"),
    [
        ({"model": TUNED}, {"fine_tuning", "guidance"}),
        ({"model": TUNED, "reference": ASKED}, {"guidance"}),
        ({"model": guided(ASKED)}, {"fine_tuning"}),
        ({"model": guided(ASKED), "unguided": guided(ASKED)}, {"fine_tuning", "guidance"}),
        ({"model": TUNED, "sde_sampler": "exact"}, {"sde_integrator", "fine_tuning", "guidance"}),
        ({"model": TUNED, "ode_sampler": "exact"}, {"ode_integrator", "fine_tuning", "guidance"}),
        ({"model": TUNED, "eta": 0.0, "reference": ASKED}, {"fine_tuning", "guidance", "initial_mismatch"}),
        ({"model": guided(TUNED), "reference": guided(ASKED), "process": gb.FlowMatching()}, {"initial_mismatch"}),
        ({"model": guided(ASKED), "process": gb.FlowMatching()}, {"fine_tuning", "initial_mismatch"}),
    ],
)  # fmt: skip
def test_a_term_is_zero_where_its_cause_is_absent_and_only_there(options, zero):
    budget = gap_budget(**({"process": PROCESS, "reward": REWARD, "sde_steps": 8} | options))
    for name, value in budget.terms.items():
        assert (abs(value) < 1e-13) == (name in zero), name
    assert adds_up(budget)


def test_what_is_not_given_is_exactly_zero():
    budget = gap_budget(TUNED, PROCESS, gb.HalfSpace([1.0], 0.3), eta=[0.5, 1.0])
    assert not budget.fine_tuning.any()
    assert not budget.guidance.any()


def test_the_same_run_on_both_sides_has_no_gap_but_two_integrators():
    budget = gap_budget(TUNED, PROCESS, REWARD, reference=ASKED, eta=0.0, ode_steps=9, sde_steps=9)
    assert budget.total == 0
    assert budget.ode_integrator == -budget.sde_integrator != 0


def test_the_unguided_reference_of_a_guided_one_is_its_conditional_law():
    given_, found = (
        gap_budget(guided(TUNED), PROCESS, REWARD, **FINE_TUNED, **more) for more in ({"unguided": ASKED}, {})
    )
    assert given_.terms == found.terms
    assert found.initial_mismatch == pytest.approx(gb.reward_gap(ASKED, PROCESS, REWARD, 1.2), rel=1e-14)


def test_the_order_of_splitting_matters():
    """Fine-tuning measured without guidance is another number: the terms interact."""
    budget = gap_budget(guided(TUNED), PROCESS, REWARD, **FINE_TUNED)
    alone = gb.reward_gap(TUNED, PROCESS, REWARD, 1.2) - gb.reward_gap(ASKED, PROCESS, REWARD, 1.2)
    assert abs(budget.fine_tuning - alone) > 0.1 * abs(alone)
    later = gb.reward_gap(guided(TUNED), PROCESS, REWARD, 1.2) - gb.reward_gap(TUNED, PROCESS, REWARD, 1.2)
    assert alone + later + budget.initial_mismatch == pytest.approx(budget.continuous, abs=1e-12)


@pytest.mark.parametrize("sampler", [name for name, kind in SAMPLERS.items() if kind.unit == OURS])
def test_integrators_vanish_at_the_order_of_their_sampler(sampler):
    kind, stop = SAMPLERS[sampler], {"t_min": 0.3}
    eta = 0.0 if sampler == "heun" else 0.8
    sizes = []
    for n in (200, 400, 800):
        one = gap_budget(
            TUNED,
            gb.VE(2.0),
            REWARD,
            eta=eta,
            ode_sampler=sampler,
            ode_steps=n,
            sde_sampler=sampler,
            sde_steps=n,
            **stop,
        )
        assert adds_up(one)
        sizes.append([abs(float(one.ode_integrator)), abs(float(one.sde_integrator))])
    if math.isinf(kind.weak_order):
        assert np.max(sizes) < 1e-13
        return
    slopes = np.log2(np.divide(sizes[:-1], sizes[1:]))
    found = 2 * slopes[1] - slopes[0]
    assert found[0] == pytest.approx(kind.orders[1], abs=0.05)
    assert found[1] == pytest.approx(kind.orders[0 if eta else 1], abs=0.1)


def test_batches_of_model_T_and_eta_broadcast_and_equal_their_entries():
    models = gb.guided(PLAIN, ASKED, np.array([1.0, 2.5, 4.0])[:, None])
    T, eta = np.array([1.0, 1.5]), np.array([0.6, 1.2])
    batch = gap_budget(models, gb.VP(T), REWARD, eta=eta, ode_steps=20, sde_steps=6)
    assert all(value.shape == (3, 2) for value in (*batch.terms.values(), batch.total, batch.ode, batch.sde))
    assert adds_up(batch)
    for i, j in np.ndindex(3, 2):
        one = gap_budget(
            gb.guided(PLAIN, ASKED, [1.0, 2.5, 4.0][i]), gb.VP(T[j]), REWARD, eta=eta[j], ode_steps=20, sde_steps=6
        )
        for name, value in one.terms.items():
            assert batch.terms[name][i, j] == pytest.approx(float(value), abs=1e-12)
        assert one.total.shape == ()


def test_full_covariances_and_windows_have_a_budget():
    tuned, windows = gb.tilt(FULL, gb.Linear([1.0, 0.5]), 2.0), gb.Windows([(0.4, 2.0, 1.3)])
    reward = gb.Quadratic([[1.0, 0.2], [0.2, 0.5]], [1.0, 1.0])
    budget = gap_budget(
        tuned, gb.VE(4.0), reward, reference=FULL, eta=windows, ode_steps=25, sde_steps=25, grid="karras"
    )
    assert adds_up(budget)
    assert all(abs(value) > 1e-6 for name, value in budget.terms.items() if name != "guidance")
    gap = gb.reward_gap(tuned, gb.VE(4.0), reward, windows)
    assert budget.continuous == pytest.approx(float(gap), abs=1e-14)
    assert "25 steps of gddim (eta in windows)" in str(budget)


@settings(max_examples=60)
@given(process=processes(-1, 3), eta=etas(3.0), m=signed(10.0), steps=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_the_terms_add_up_whatever_is_asked(process, eta, m, steps):
    tuned = gb.tilt(gb.Gaussian(m, 0.5), REWARD, 3.0)
    budget = gap_budget(
        gb.guided(PLAIN, tuned, 1.7), process, REWARD, reference=gb.guided(PLAIN, gb.Gaussian(m, 0.5), 1.7), eta=eta,
        ode_steps=steps[0], sde_steps=steps[1],
    )  # fmt: skip
    assert adds_up(budget)
    assert all(np.isfinite(value) for value in budget.terms.values())


def leading(steps):
    return gb.VP.stable_diffusion(steps)


def test_a_pipeline_whose_start_depends_on_its_steps_has_a_process_for_each_run():
    budget = gap_budget(
        TUNED, leading(50), REWARD, reference=ASKED, eta=1.2, ode_steps=50, sde_steps=10, sde_process=leading(10),
        grid="leading",
    )  # fmt: skip
    assert adds_up(budget)
    # both end at sigma = .0292 (set_alpha_to_one is False), where continuous time stops too
    end = leading(50).sigma(1.0)
    assert end == pytest.approx(0.0292, abs=5e-5)
    ode = gb.discrete_law(TUNED, leading(50), "ddim", 0.0, 50, grid="leading")
    assert budget.ode == pytest.approx(normal_integral(REWARD, ode.mean[0], ode.cov[0]), rel=1e-12)
    limits = [gb.terminal_law(ASKED, leading(n), eta, 1.0) for n, eta in ((50, 0.0), (10, 1.2))]
    mismatch = np.subtract(*[normal_integral(REWARD, law.mean[0], law.cov[0]) for law in limits])
    assert budget.initial_mismatch == pytest.approx(mismatch, rel=1e-10)
    one_start = gap_budget(
        TUNED, leading(10), REWARD, reference=ASKED, eta=1.2, ode_steps=10, sde_steps=10, grid="leading"
    )
    assert abs(one_start.initial_mismatch - budget.initial_mismatch) > 1e-3


def test_runs_from_two_starts_to_clean_data_keep_the_difference_of_the_starts():
    near, far = gb.VE(2.0), gb.VE(6.0)
    budget = gap_budget(ASKED, near, REWARD, eta=1.0, sde_process=far)
    laws = gb.terminal_law(ASKED, near, 0.0), gb.terminal_law(ASKED, far, 1.0)
    mismatch = np.subtract(*[normal_integral(REWARD, law.mean[0], law.cov[0]) for law in laws])
    assert budget.initial_mismatch == pytest.approx(mismatch, rel=1e-10)
    assert abs(mismatch - gb.reward_gap(ASKED, near, REWARD, 1.0)) > 1e-3
    assert adds_up(budget)


def test_levels_can_be_given_for_each_run():
    sigmas = gb.grid(PROCESS, 30, "karras", t_min=0.2)
    named = gap_budget(TUNED, PROCESS, REWARD, ode_steps=30, sde_steps=30, grid="karras", t_min=0.2)
    given_ = gap_budget(TUNED, PROCESS, REWARD, ode_sigmas=sigmas, sde_sigmas=sigmas, t_min=0.2)
    assert named.terms == given_.terms
    both = gap_budget(TUNED, PROCESS, REWARD, ode_sigmas=sigmas, sde_steps=7, t_min=0.2)
    assert "30 steps of ddim (ODE) against 7 steps of gddim (eta = 1)" in str(both)


def test_what_is_printed_is_every_term_with_its_sum():
    budget = gap_budget(guided(TUNED), PROCESS, REWARD, **FINE_TUNED)
    first, *lines = str(budget).splitlines()
    assert first == "gap of 40 steps of ddim (ODE) against 10 steps of gddim (eta = 1.2)"
    for line, (name, value) in zip(lines, {**budget.terms, "total": budget.total}.items(), strict=False):
        assert line.strip().startswith(name.replace("_", " "))
        assert float(line.split()[-1]) == pytest.approx(float(value), abs=1e-6)
    assert lines[-1].strip() == f"(E r = {float(budget.ode):+.6f} and {float(budget.sde):+.6f})"
    batch = str(gap_budget(TUNED, PROCESS, REWARD, eta=[0.5, 1.5]))
    assert "a batch of eta" in batch
    assert "shape (2,)" in batch


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": gb.GaussianMixture([1.0], [[0.0]], [[1.0]])}, TypeError, "model must be a Gaussian .* got Gau"),
        ({"reference": "base"}, TypeError, "reference must be a Gaussian or an affine score, got str"),
        ({"unguided": FULL}, ValueError, r"one dimension, got 1 \(model\) and 2 \(unguided\)"),
        ({"reward": lambda x: x[..., 0]}, TypeError, "needs a gapbound reward, with exact expectations, got <function"),
        ({"reward": gb.Quadratic}, TypeError, "needs a gapbound reward"),
        ({"sde_sampler": "cps", "eta": 0.5}, ValueError, "'cps' has no limit at a constant eta of ours.*per_step"),
        ({"sde_sampler": "dance-grpo"}, ValueError, "'dance-grpo' has no limit at a constant eta of ours"),
        ({"sde_sampler": "euler"}, ValueError, "unknown sampler 'euler'"),
        ({"ode_sampler": "ode"}, ValueError, "unknown sampler 'ode'"),
        ({"ode_sampler": "exact", "model": guided(TUNED)}, ValueError, "needs the variances of a Gaussian target"),
        ({"sde_sampler": "heun"}, ValueError, "heun integrates the ODE, got eta=1"),
        ({"eta": -1.0}, ValueError, r"eta must be 0 or more, got -1\.0"),
        ({"ode_sigmas": [2.0, 1.0]}, ValueError, "sigmas must start at sigma_T"),
        ({"ode_sigmas": [float(PROCESS.sigma_T), 0.5]}, ValueError, r"end at sigma\(t_min\) = 0\.0, got 0\.5; set"),
        ({"ode_sigmas": [float(PROCESS.sigma_T), 0.0], "ode_steps": 3}, ValueError, "give steps or sigmas, not both"),
        ({"sde_process": gb.VE(2.0), "t_min": 0.3}, ValueError, "the two runs must end at one noise level"),
        ({"process": gb.VE}, TypeError, "process must be an instance of VE, VP or FlowMatching"),
        ({"grid": "leading"}, ValueError, "grid 'leading' is a diffusers spacing and needs a discrete schedule"),
        ({"model": gb.Gaussian(np.zeros((3, 1)), 1.0), "eta": [1.0, 2.0]}, ValueError, "do not broadcast"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_met(change, error, match):
    with pytest.raises(error, match=match):
        gap_budget(**({"model": TUNED, "process": PROCESS, "reward": REWARD} | change))


@pytest.fixture(scope="module")
def figure_data():
    return plain(budget_figure.PROGRAM.compute(Settings(quick=True), lambda fraction: None))


def test_the_figures_simulated_totals_are_within_four_standard_errors_of_the_sums_of_its_terms(figure_data):
    for found in (figure_data["pairs"], figure_data["against_scale"]):
        sums = np.array([sum(terms.values()) for terms in found["budgets"]])
        np.testing.assert_allclose(sums, found["closed_form"], atol=1e-9)  # ten digits are kept
        assert np.abs(np.subtract(found["gap"], sums) / found["standard_error"]).max() < 4
    first = figure_data["pairs"]
    wrong = np.array([sum(terms.values()) - terms["sde_integrator"] for terms in first["budgets"]])
    assert np.abs(np.subtract(first["gap"], wrong) / first["standard_error"]).min() > 4


def test_the_figure_shows_terms_that_are_larger_than_their_sum_and_a_sampler_that_does_not_converge(figure_data):
    for terms, total in zip(figure_data["pairs"]["budgets"], figure_data["pairs"]["closed_form"], strict=True):
        assert max(map(abs, terms.values())) > 4 * abs(total)
    errors = figure_data["family"]["errors"]
    assert errors["cps"][-1] > 0.05
    assert max(series[-1] for name, series in errors.items() if name != "cps") < 0.01


def test_the_figure_is_drawn(figure_data):
    with paper():
        figure = budget_figure.draw(figure_data)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "steps of the ODE / of the SDE",
        "guidance scale $w$",
        "steps",
    ]
