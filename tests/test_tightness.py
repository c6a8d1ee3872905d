"""The fixed cases, what is measured on them, and the table: quantiles, violations, resuming."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tyro
from rich.console import Console

import gapbound as gb
from analysis import cases, tightness


def test_a_case_is_the_same_whenever_it_is_asked_for():
    for index in (0, 7, 9999):
        first, again = cases.case(index), cases.case(index)
        assert repr(first) == repr(again)
        assert repr(cases.case(index, "hard")) == repr(cases.case(index, "hard")) != repr(first)
    assert repr(cases.case(1)) != repr(cases.case(2))
    with pytest.raises(ValueError, match="one of ordinary, hard, got 'easy'"):
        cases.case(0, "easy")


def test_cases_are_as_various_as_they_say():
    found = [cases.case(index) for index in range(600)]
    modes = [len(c.target.weights) if isinstance(c.target, gb.GaussianMixture) else 1 for c in found]
    assert {k: modes.count(k) / 600 for k in cases.MODES} == pytest.approx(dict.fromkeys(cases.MODES, 0.25), abs=0.06)
    assert {c.target.dim for c in found} == {1, 2, 3, 5}
    assert {type(c.process) for c in found} == {gb.VE, gb.VP, gb.FlowMatching}
    assert len({type(c.reward) for c in found}) == len(cases.REWARDS)
    assert {c.regime for c in found} == set(tightness.REGIMES)
    assert [c.regime for c in found].count("windows") / 600 == pytest.approx(0.25, abs=0.06)
    sigma_T = np.array([float(c.process.sigma_T) for c in found])
    assert sigma_T.min() >= cases.SIGMA_T[0] * (1 - 1e-9)
    assert sigma_T.max() <= cases.SIGMA_T[1] * (1 + 1e-9)
    assert np.median(np.log(sigma_T)) == pytest.approx(np.mean(np.log(cases.SIGMA_T)), abs=0.2)


def test_hard_cases_are_as_hard_as_they_say():
    found = [cases.case(index, "hard") for index in range(600)]
    mixtures = [c.target for c in found if isinstance(c.target, gb.GaussianMixture)]
    assert len(mixtures) / 600 == pytest.approx(0.75, abs=0.06)
    assert min(law.weights.min() for law in mixtures) < 1e-5
    apart = [law.components.variances.max() / law.components.variances.min() for law in mixtures]
    assert 1e3 < max(apart) <= 1e4
    windows = [c.eta.windows for c in found if isinstance(c.eta, gb.Windows)]
    thin = [w for w in windows if len(w) == 1]
    assert len(windows) / 600 == pytest.approx(0.5, abs=0.06)
    assert len(thin) / 600 == pytest.approx(0.25, abs=0.06)
    assert all(w[0][1] == pytest.approx(1.01 * w[0][0]) for w in thin)
    assert {len(w) for w in windows} - {1} == set(range(5, 21))
    numbers = np.array([c.eta for c in found if not isinstance(c.eta, gb.Windows)])
    assert numbers.min() < 2e-3
    assert 3 < numbers.max() <= 5
    bumps = [c for c in found if isinstance(c.reward, gb.Bump) and isinstance(c.target, gb.Gaussian)]
    away = [np.linalg.norm(c.reward.c - c.target.mean) / np.sqrt(c.target.variances.mean()) for c in bumps]
    assert 40 < max(away) < 200


def test_the_first_cases_violate_nothing_and_one_gaussian_is_exact():
    rows = [tightness.row(cases.case(index)) for index in range(12)]
    assert not any(row["violated"] for row in rows)
    single = [row for row in rows if row["modes"] == 1]
    assert single
    for row in single:
        assert row["bounds"]["best"] == pytest.approx(abs(row["gap"]), rel=1e-9)
    several = [row for row in rows if row["modes"] > 1]
    for row in several:
        assert row["bounds"]["best"] >= abs(row["gap"]) * (1 - 1e-5)
        assert row["bounds"]["best of B1 to B4"] >= row["bounds"]["best"]


def test_a_bound_that_is_too_small_is_reported(monkeypatch):
    honest = gb.bounds.best

    def halved(*question):
        found = honest(*question)
        for bound in found.bounds.values():
            object.__setattr__(bound, "gap", bound.gap / 2)
        return found

    monkeypatch.setattr(gb.bounds, "best", halved)
    index = next(i for i in range(20) if isinstance(cases.case(i).target, gb.Gaussian))
    assert "residual.gap" in tightness.row(cases.case(index))["violated"]


def entry(index, regime, modes, gap, best, **others):
    limits = {"best": best, **others}
    return {
        "index": index, "regime": regime, "modes": modes, "gap": gap, "bounds": limits, "winner": "residual",
        "violated": [], "undefined": [], "replaced": {}, "vacuous": [],
    }  # fmt: skip


def test_the_table_counts_what_it_says():
    rows = [entry(i, "eta < 1", 1, -0.1, 0.1 * (1 + i), chi_square=None) for i in range(20)]
    rows += [entry(20, "eta < 1", 3, 0.001, 0.5), entry(21, "windows", 2, 0.1, 0.1)]
    rows[3]["violated"] = ["best.gap"]
    rows[5]["undefined"], rows[5]["vacuous"] = ["chi_square.gap"], ["chi_square"]
    rows[6]["replaced"], rows[7]["replaced"] = {"residual": "12 points"}, {"residual": "9 points"}
    table = tightness.summary(rows)
    assert table["violations"] == [{"index": 3, "violated": ["best.gap"]}]
    assert table["undefined"] == [{"index": 5, "undefined": ["chi_square.gap"]}]
    assert table["replaced by the trivial bound"] == {"residual: N points": 2}
    group = next(g for g in table["groups"] if g["regime"] == "eta < 1" and g["modes"] == "any")
    assert (group["large"], group["small"]) == (20, 1)
    assert group["vacuous"] == {"best": 0, "chi_square": 1}
    assert group["B1 to B4 within 10 times"] == 0
    assert group["ratio"]["best"] == {"applies": 20, "median": pytest.approx(11), "p95": pytest.approx(20)}
    assert group["ratio"]["chi_square"] == {"applies": 20, "median": None, "p95": None}
    assert group["small gaps, bound / sd(r)"]["best"]["median"] == 0.5
    assert group["curves"]["best"][0] == pytest.approx(1)
    assert group["curves"]["chi_square"] == [None] * len(tightness.LEVELS)
    several = next(g for g in table["groups"] if g["regime"] == "eta < 1" and g["modes"] == "several")
    assert several["ratio"]["best"] == {"applies": 0, "median": None, "p95": None}


def run(*arguments):
    tyro.cli(tightness.main, args=[str(argument) for argument in arguments])


def test_an_interrupted_run_goes_on_from_its_chunks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tightness, "CHUNK", 3)
    work, out = tmp_path / "work", tmp_path / "out"
    first = tightness.measured(3, 1, work, Console(quiet=True))
    (chunk,) = work.rglob("*.json")
    marked = [dict(row, winner="from the file") for row in first]
    chunk.write_text(json.dumps(marked))
    rows = tightness.measured(5, 2, work, Console(quiet=True))
    assert [row["index"] for row in rows] == list(range(5))
    assert [row["winner"] == "from the file" for row in rows] == [True] * 3 + [False] * 2
    run("--cases", 5, "--jobs", 1, "--out", out, "--work", work)
    assert {path.suffix for path in Path(out).iterdir()} == {".png", ".pdf", ".json"}
    assert json.loads((out / "tightness.json").read_text())["data"]["cases"] == 5
    assert "0 of 5 cases violate a bound" in capsys.readouterr().out


def test_a_violation_makes_the_command_fail(tmp_path, monkeypatch):
    rows = [entry(0, "eta >= 1", 1, -0.1, 0.05)]
    rows[0]["violated"] = ["best.gap"]
    monkeypatch.setattr(tightness, "measured", lambda *_: rows)
    with pytest.raises(SystemExit, match="1"):
        run("--out", tmp_path)
    with pytest.raises(SystemExit, match="--cases and --jobs must be 1 or more, got 0 and 2"):
        run("--cases", 0, "--jobs", 2)


def test_a_nan_makes_the_command_fail(tmp_path, monkeypatch):
    rows = [dict(entry(0, "eta >= 1", 2, -0.1, 0.2, **{"best of B1 to B4": 0.4}), undefined=["duhamel.gap"])]
    monkeypatch.setattr(tightness, "measured", lambda *_: rows)
    with pytest.raises(SystemExit, match="1"):
        run("--out", tmp_path, "--distribution", "hard")
    assert (tmp_path / "tightness_hard.json").exists()


def test_a_bound_that_is_nan_is_counted(monkeypatch):
    honest = gb.bounds.best

    def broken(*question):
        found = honest(*question)
        object.__setattr__(found.bounds["chi_square"], "gap", math.nan)
        return found

    monkeypatch.setattr(gb.bounds, "best", broken)
    monkeypatch.setattr("analysis.measured.combined", lambda bounds, refused, trivial: next(iter(bounds.values())))
    index = next(i for i in range(20) if "chi_square" in honest(*_question(cases.case(i))).bounds)
    assert "chi_square.gap" in tightness.row(cases.case(index))["undefined"]


def _question(case):
    return case.target, case.process, case.reward, case.eta


@pytest.mark.slow
def test_two_thousand_cases_hold_and_meet_the_targets(tmp_path):
    table = tightness.summary(tightness.measured(2000, 2, tmp_path, Console(quiet=True)))
    assert table["violations"] == []
    for group in table["groups"]:
        if group["modes"] == "several" and group["regime"] in tightness.TARGETS:
            median, p95 = tightness.TARGETS[group["regime"]]
            assert group["ratio"]["best"]["median"] <= median
            assert group["ratio"]["best"]["p95"] <= p95
            assert not math.isnan(group["ratio"]["best"]["p95"])
