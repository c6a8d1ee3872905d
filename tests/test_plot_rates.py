"""The rate figures: slopes and exponents as numbers, files with their provenance, the command and what it refuses."""

import json
import struct
from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
import torch
import tyro
from matplotlib.text import Text
from scipy.stats import chi2

from analysis import plot_rates
from analysis.figure import PACKAGES, Program, Settings, plain, save
from analysis.programs import sampler_error, ve, vp
from analysis.rates import ETAS, compare
from analysis.style import LOOKS, look, panels, paper

QUICK = Settings(quick=True)
MODULES = (ve, vp, sampler_error)
NAMES = [module.PROGRAM.name for module in MODULES]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small tensors on a busy machine: torch's threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder and data of a coarse run of the three rate figures."""
    out = tmp_path_factory.mktemp("figures")
    return out, {module.PROGRAM.name: module.PROGRAM.write(out, QUICK) for module in MODULES}


@pytest.fixture(scope="module")
def fits(written):
    return [fit for data in written[1].values() for fit in data.get("fits", [])]


def series_of(written):
    return [
        series for name in ("gap_ve", "gap_vp") for panel in written[1][name]["panels"] for series in panel["series"]
    ]


# --- numbers


def test_simulated_slopes_agree_with_the_closed_form_over_the_same_points_within_their_intervals(fits):
    assert {(fit["panel"].split(",")[0], fit["eta"]) for fit in fits} == {
        (name, eta) for name in ("VE", "VP 2t", "VP constant", "VP linear") for eta in ETAS
    }
    assert len(fits) == 40
    assert all(fit["interval"][0] < fit["slope"] < fit["interval"][1] for fit in fits)
    assert all(fit["inside"] == (fit["interval"][0] <= fit["closed_form_slope"] <= fit["interval"][1]) for fit in fits)
    assert sum(fit["inside"] for fit in fits) >= 36  # 38 expected; the five eta of a panel go together


def test_simulated_slopes_disagree_with_the_closed_form_of_another_reward():
    case = vp.CASES["uncentred", "constant"]
    wrong = replace(case, best=0.7)  # centred: falls twice as fast
    exact, error = case.gap(case.times), 0.05 * np.abs(case.gap(case.times))
    for i, eta in enumerate(ETAS):
        assert compare(case, eta, exact[i], error[i], exact[i])["inside"]
        assert not compare(case, eta, exact[i], error[i], wrong.gap(case.times)[i])["inside"]


def test_simulated_gaps_agree_with_the_closed_form_in_standard_errors(written):
    z = np.concatenate(
        [
            (np.array(series["gap"]) - series["closed_form"]) / np.array(series["standard_error"])
            for series in series_of(written)
            if series["eta"] == 1.0  # the other eta share its noise
        ]
    )
    assert z.size == 32
    assert chi2.ppf(1e-3, z.size) < (z**2).sum() < chi2.ppf(1 - 1e-3, z.size)


def test_exact_curves_reach_their_exponents_at_sigma_T_above_1e6(written, fits):
    entries = fits + written[1]["sampler_error"]["exponents"]
    assert len(entries) == 40 + 44
    for entry in entries:
        assert entry["exponent_measured"] == pytest.approx(entry["exponent"], abs=0.02)
    for case in ve.CASES:
        power = 1 if "uncentred" in case.name else 2
        assert {fit["exponent"] for fit in fits if fit["panel"] == case.name} == {-power}


def test_exponents_of_errors_are_one_plus_eta_squared_and_those_of_gaps_do_not_depend_on_eta(written):
    laws = {"VE, uncentred": 1.0, "VE, centred": 2.0, "VP, uncentred": 0.5, "VP, centred": 1.0}
    for entry in written[1]["sampler_error"]["exponents"]:
        of_error = (1 + entry["eta"] ** 2) if entry["of"] == "error" else 1.0
        assert entry["exponent"] == pytest.approx(-laws[entry["panel"]] * of_error, rel=1e-9)


def test_exponents_are_not_reached_at_the_simulated_times():
    case = ve.CASES[0]
    near = replace(case, far=(float(case.times[0]), float(case.times[-1])))
    exact = near.gap(near.times)
    assert compare(near, 0.5, exact[0], 0.05 * exact[0], exact[0])["exponent_measured"] > -0.8


def test_centred_vp_gaps_are_negative_and_all_others_positive(written):
    for name in ("gap_ve", "gap_vp"):
        for panel in written[1][name]["panels"]:
            sign = -1 if panel["panel"].startswith("VP") and panel["panel"].endswith(", centred") else 1
            for series in panel["series"]:
                assert (sign * np.array(series["curve"]) > 0).all()


def test_every_simulation_has_its_own_seed(written):
    seeds = [seed for name in ("gap_ve", "gap_vp") for panel in written[1][name]["panels"] for seed in panel["seeds"]]
    assert len(set(seeds)) == len(seeds) == 32
    assert Settings(seed=1).seed_for("a", 0) != Settings(seed=0).seed_for("a", 0) != Settings(seed=0).seed_for("a", 1)


# --- files


def test_every_figure_is_a_png_of_200_dpi_a_pdf_and_a_json(written):
    out, _ = written
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("png", "pdf", "json")
    )
    for name in NAMES:
        header = (out / f"{name}.png").read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", header[16:20])[0] == 1400  # 7 inches


def test_pdf_fonts_are_embedded_as_truetype_and_carry_no_date(written):
    for name in NAMES:
        content = (written[0] / f"{name}.pdf").read_bytes()
        assert b"/CIDFontType2" in content
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def test_json_holds_the_plotted_numbers_and_what_made_them(written):
    out, found = written
    for name in NAMES:
        content = json.loads((out / f"{name}.json").read_text())
        assert content["figure"] == name
        assert content["data"] == found[name]
        provenance = content["provenance"]
        assert (provenance["seed"], provenance["quick"], provenance["device"]) == (0, True, "cpu")
        assert set(provenance["versions"]) == {"python", *PACKAGES}
        assert set(provenance) == {"seed", "quick", "device", "versions"}


def test_a_second_run_writes_the_same_bytes_with_any_number_of_threads(written, tmp_path):
    torch.set_num_threads(2)
    ve.PROGRAM.write(tmp_path, QUICK)
    torch.set_num_threads(1)
    for kind in ("png", "pdf", "json"):
        assert (tmp_path / f"gap_ve.{kind}").read_bytes() == (written[0] / f"gap_ve.{kind}").read_bytes()


def test_another_seed_moves_the_points_and_not_the_lines(written):
    other = plain(ve.PROGRAM.compute(Settings(quick=True, seed=1), lambda fraction: None))
    for one, two in zip(other["panels"], written[1]["gap_ve"]["panels"], strict=True):
        for series, same in zip(one["series"], two["series"], strict=True):
            assert series["curve"] == same["curve"]
            assert not np.isin(series["gap"], same["gap"]).any()


def test_no_text_is_smaller_than_7_points(written):
    for module in MODULES:
        with paper():
            figure = module.PROGRAM.draw(written[1][module.PROGRAM.name])
            sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= 7


def test_progress_ends_at_1_and_never_falls(tmp_path):
    seen = []
    sampler_error.PROGRAM.write(tmp_path, QUICK, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def drawn(fraction_done):
    with paper():
        figure, axes = panels(width=3.4)
        axes[0, 0].plot([0, fraction_done])
        return figure


def test_saving_is_all_or_nothing(tmp_path):
    save(drawn(1.0), {"x": np.array([1.0, 2.0])}, "one", tmp_path, QUICK)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"a figure's data must be finite, got nan; use None"):
        save(drawn(0.5), {"x": np.nan}, "one", tmp_path, QUICK)
    figure = drawn(0.5)
    figure.savefig = lambda path, **kwargs: path.write_bytes(b"half") and 1 / 0
    with pytest.raises(ZeroDivisionError):
        save(figure, {"x": 1.0}, "one", tmp_path, QUICK)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_plain_data_keeps_10_digits_and_nothing_that_json_cannot_hold():
    value = {"a": np.array([1 / 3, 2.0]), 0.5: (np.int64(3), np.True_, None, "x", 1e-300)}
    assert plain(value) == {"a": [0.3333333333, 2.0], "0.5": [3, True, None, "x", 1e-300]}
    assert plain(plain(value)) == plain(value)
    with pytest.raises(TypeError, match="must be numbers, strings, None, lists, arrays and dicts, got 1j"):
        plain({"a": [1j]})


# --- looks


def test_looks_differ_in_colour_marker_and_line_and_grow_lighter_with_eta():
    assert set(LOOKS) == {0.0, *ETAS}
    for part in ("color", "marker", "linestyle"):
        assert len({getattr(shape, part) for shape in LOOKS.values()}) == len(LOOKS)
    lightness = [np.dot([0.2126, 0.7152, 0.0722], matplotlib.colors.to_rgb(shape.color)) for shape in LOOKS.values()]
    assert (np.diff(lightness) > 0.03).all()
    with pytest.raises(ValueError, match=r"no look for eta=0\.7; known: 0, 0\.5, 1, 1\.2, 1\.5, 2"):
        look(0.7)


def test_points_that_are_not_fitted_are_hollow_and_named_in_the_legend(written):
    data = json.loads(json.dumps(written[1]["gap_ve"]))

    def drawn():
        with paper():
            figure = ve.PROGRAM.draw(data)
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        points = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
        hollow = [line.get_xydata()[:, 0] for line in points if line.get_markerfacecolor() == "white"]
        return hollow, any("not fitted" in name for name in names)

    for panel in data["panels"]:
        for series in panel["series"]:
            series["in_range"] = [True] * len(series["in_range"])
    assert drawn() == ([], False)
    data["panels"][0]["series"][2]["in_range"][1] = False
    hollow, named = drawn()
    assert named
    np.testing.assert_allclose(hollow, [[data["panels"][0]["x"][1]]])


def test_a_point_of_the_wrong_sign_is_not_drawn_as_if_it_had_the_right_one(written):
    data = json.loads(json.dumps(written[1]["gap_vp"]))
    series = data["panels"][3]["series"][0]  # centred: the gap is negative and its opposite drawn
    series["gap"][-1] *= -1
    with paper():
        axes = vp.PROGRAM.draw(data).axes[3]
    drawn = next(line for line in axes.lines if line.get_marker() == look(0.5).marker).get_ydata()
    np.testing.assert_allclose(drawn, -np.array(series["gap"]))
    assert (drawn > 0).tolist() == [True] * (len(drawn) - 1) + [False]


# --- the command


def command(*arguments):
    tyro.cli(plot_rates.main, args=arguments)


def test_the_command_writes_one_figure_and_reports_its_exponents(tmp_path, capsys):
    command("--quick", "--only", "sampler_error", "--out", str(tmp_path / "new" / "folder"))
    assert (tmp_path / "new" / "folder" / "sampler_error.pdf").exists()
    output = capsys.readouterr().out
    assert "sampler_error" in output
    assert "44 slopes of exact curves between sigma_T = 1e6 and 1e7 miss the exponent by at most" in output


def test_the_table_holds_every_fit(fits, capsys):
    plot_rates.report({"all": {"fits": fits}}, plot_rates.Console(width=110))
    output = capsys.readouterr().out
    for fit in fits:
        assert f"{fit['interval'][0]:.3f} to {fit['interval'][1]:.3f}" in output
    assert (
        f"{sum(fit['inside'] for fit in fits)} of 40 intervals hold the closed form's slope; 38 are expected" in output
    )


def test_a_missed_exponent_ends_the_command_with_an_error(written, capsys):
    entries = [dict(entry) for entry in written[1]["sampler_error"]["exponents"]]
    entries[3]["exponent_measured"] += 0.03
    with pytest.raises(SystemExit, match=r"\(VE, uncentred, eta = 1\.2\), more than the 0\.02 allowed"):
        plot_rates.report({"sampler_error": {"exponents": entries}}, plot_rates.Console(width=110))


def test_every_program_has_a_name_of_its_own_and_is_listed():
    names = [program.name for program in plot_rates.programs()]
    assert all(isinstance(program, Program) for program in plot_rates.programs())
    assert len(set(names)) == len(names)
    assert set(NAMES) <= set(names)


def test_a_bad_call_is_refused_before_anything_is_computed(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for arguments, message in [
        (("--out", str(blocked)), r"--out: cannot write into .*file \(.*\); name another folder"),
        (("--out", str(blocked / "below")), r"--out: cannot write into .*below \(Not a directory\)"),
        (("--device", "tpu7"), r"--device: torch cannot use 'tpu7' here \(.*\); try 'cpu'"),
        (("--device", "meta"), r"--device: torch cannot use 'meta' here"),
        (("--only", "gap"), r"--only: unknown figure 'gap'; known: .*gap_ve, gap_vp, sampler_error"),
        (("--seed", "-1"), r"--seed must be 0 or more, got -1"),
    ]:
        with pytest.raises(SystemExit, match=message):
            command("--quick", *(arguments if "--out" in arguments else ("--out", str(tmp_path / "out"), *arguments)))
    assert not (tmp_path / "out").exists()
