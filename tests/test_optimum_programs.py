"""The figures about the optimum, from coarse runs: the facts that each of them shows."""

import io
from functools import cache

import numpy as np
import pytest
import tyro
from rich.console import Console

import gapbound as gb
from analysis import command, plot_optimum
from analysis.figure import Settings, plain
from analysis.programs import matched, optimum, optimum_transfer
from analysis.style import paper

MODULES = {module.PROGRAM.name: module for module in (optimum, optimum_transfer, matched)}


@cache
def data(name):
    return plain(MODULES[name].PROGRAM.compute(Settings(quick=True), lambda fraction: None))


def test_the_gap_crosses_0_at_eta_1_alone_and_simulation_agrees():
    gaps = data("optimum")["gaps"]
    x, curve = np.array(gaps["curve_x"]), np.array(gaps["curve"])
    crossings = np.flatnonzero(np.diff(np.sign(curve)))
    assert crossings.size == 1
    assert x[crossings[0]] < 1 <= x[crossings[0] + 1] + 0.03
    for eta, gap, error in zip(gaps["x"], gaps["gap"], gaps["standard_error"], strict=True):
        assert gap == pytest.approx(np.interp(eta, x, curve), abs=4 * error + 0.03)  # 200 steps are off by 0.02


def test_biases_and_finite_steps_have_their_orders():
    for one in data("optimum")["biases"]:
        assert one["last_slope"] == pytest.approx(-2 * one["eta"] ** 2, rel=0.03)
    for one in data("optimum")["discrete"]:
        if one["eta"] <= 1:
            np.testing.assert_allclose(one["last_slopes"], -1, atol=0.06)


def test_no_window_reaches_the_tilted_mean_and_the_ode_gets_less_of_it():
    for one in data("optimum")["windows"]:
        sde, ode = np.array(one["sde"]), np.array(one["ode"])
        assert (np.diff(sde) > 0).all()
        assert sde[-1] < 1
        assert (ode < sde).all()


def test_transfer_leaves_the_starts_bias_of_a_gaussian_gap_and_part_of_a_mixtures():
    found = data("optimum_transfer")
    assert all(abs(one["exact"]) < (0.08 if one["eta"] < 1 else 0.005) for one in found["gaussian"])
    mixture = found["mixture"]
    gaps = {kind: np.abs(values) for kind, values in mixture["gap"].items()}
    off = np.abs(np.array(mixture["eta"]) - 1) > 0.05
    assert off.sum() == 2
    assert (gaps["total variance"][off] < 0.6 * gaps["plain reuse"][off]).all()
    assert (gaps["mode variance"][off] > 0.9 * gaps["plain reuse"][off]).all()
    assert mixture["error"] < 1e-3
    assert mixture["target"] == pytest.approx(
        float(gb.Linear(0.8).expectation(gb.tilt(optimum_transfer.MIXTURE, gb.Linear(0.8), 1.0)))
    )


def test_transfer_restores_the_tilted_ode_and_widens_the_gap_to_the_sde_at_small_eta_and_just_below_1():
    found = data("optimum_transfer")["references"]
    eta, before, after, widens = (np.array(found[name]) for name in ("eta", "before", "after", "widens"))
    np.testing.assert_allclose(found["after_target"], 0, atol=1e-9)
    off = np.abs(eta - 1) > 1e-9
    np.testing.assert_array_equal(widens[off], (np.abs(after) > np.abs(before))[off])
    edges = eta[1:][np.diff(widens)]
    np.testing.assert_allclose(edges, [0.58, 0.88, 1.0], atol=0.021)
    linear, quadratic = (np.array(one["wider"]) for one in data("optimum_transfer")["regions"])
    small = eta < 0.3
    assert (linear[:, small] > 0).mean() > 0.8
    assert (quadratic > 1e-9).mean() > 0.1
    assert (linear[-1, eta > 1.05] < 0).all()


def test_matched_etas_of_the_figure_are_those_of_theory_and_the_levels_those_of_diffusers():
    found = data("matched_eta")
    for one, expected in zip(found["starts"], (0.974, 0.9295, 0.8839), strict=True):
        assert np.interp(float(found["sigma_T"]), one["sigma_T"], one["eta"]) == pytest.approx(expected, abs=5e-4)
    shifts = found["shifts"]
    for name in ("sde", "ode"):
        shifts[name] = np.array(shifts[name])
    at = [np.interp(shifts["matched"], shifts["eta"], shifts[name]) for name in ("sde", "ode")]
    assert at[0] == pytest.approx(at[1], abs=1e-3)
    by_family = {(one["family"], one["v"]): one["eta"] for one in found["families"]}
    assert all(eta[0] > 1 for (family, _), eta in by_family.items() if family != "SD 1.5, SDXL")
    assert by_family["SD 1.5, SDXL", 1.0][0] < 1 < by_family["SD 1.5, SDXL", 0.5][0]
    diffusers = pytest.importorskip("diffusers")
    three = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    three.set_timesteps(10)
    flux = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    flux.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10), mu=1.15)
    for name, scheduler in (("SD 3", three), ("FLUX", flux)):
        sigma = matched.flow_levels(name, 10)
        t = np.where(np.isinf(sigma), 1.0, sigma / (1 + np.where(np.isinf(sigma), 0.0, sigma)))
        np.testing.assert_allclose(t, scheduler.sigmas.numpy(), atol=2e-6)


@pytest.mark.parametrize(("name", "panels"), [("optimum", 4), ("optimum_transfer", 6), ("matched_eta", 4)])
def test_every_figure_is_drawn(name, panels):
    with paper():
        assert len(MODULES[name].PROGRAM.draw(data(name)).axes) == panels


def test_the_command_writes_the_figures_and_its_tables_say_what_is_in_them(tmp_path, monkeypatch):
    quick = [
        type(program)(program.name, lambda settings, progress, name=program.name: data(name), program.draw)
        for program in plot_optimum.programs()
    ]
    monkeypatch.setattr(plot_optimum, "programs", lambda: tuple(quick))
    console = Console(width=110, record=True, file=io.StringIO())
    monkeypatch.setattr(command, "console", lambda: console)
    tyro.cli(plot_optimum.main, args=["--quick", "--out", str(tmp_path)])
    names = {f"{program.name}{suffix}" for program in quick for suffix in (".png", ".pdf", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    said = console.export_text()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if "N(" in line]
    told = {row[0]: row[1:4] for row in rows if len(row) == 6}  # theory's numbers: SDE, ODE, gap
    assert told["0.5"] == ["N(0.492, 0.500)", "N(0.622, 0.338)", "+0.2772"]
    assert told["2"] == ["N(0.500, 0.500)", "N(0.228, 0.758)", "-0.6039"]
    leftover = data("optimum_transfer")["gaussian"][0]
    assert f"{leftover['exact']:+.4f}" in said
    with pytest.raises(SystemExit, match="unknown figure 'nothing'; known: optimum, optimum_transfer, matched_eta"):
        tyro.cli(plot_optimum.main, args=["--only", "nothing"])
