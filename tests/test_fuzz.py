"""A short, fixed run of the fuzzer; ``python -m analysis.fuzz --calls 100000`` is the long one."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gapbound as gb
from analysis.fuzz import judge
from analysis.fuzz.judge import judged
from analysis.fuzz.surface import Entry, entries, maker, parameters

ENTRIES = [entry.name for entry in entries()]


def test_every_parameter_of_every_public_name_has_values():
    missing = [f"{e.name}({p})" for e in entries() for p in parameters(e) if maker(e, p) is None]
    assert not missing, f"say in analysis/fuzz/surface.py how to make {missing}"


def test_all_that_is_public_is_called():
    for module in (gb, gb.bounds, gb.training, gb.updates, gb.units):
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if callable(value) and not isinstance(value, type):
                assert any(entry.function is value for entry in entries()), name
    for name in (
        "Gaussian.gain",
        "Guided.kept",
        "RLOptimum.control",
        "Rate.__call__",
        "Quadratic.__call__",
        "VP.sigma_T",
    ):
        assert name in ENTRIES


@settings(max_examples=300)
@given(st.integers(0, 10**6))
def test_calls_are_answered_or_refused(number):
    verdict = judged(number, seed=1, watched=False)
    assert not verdict.is_defect, verdict


def _of(function, monkeypatch):
    """The verdict on one call of a function."""
    entry = Entry("probe", function)
    monkeypatch.setattr(judge, "call", lambda *_: (function, (), {}))
    monkeypatch.setattr(judge, "picked", lambda *_: entry)
    return judged(0, seed=0, watched=False).kind


def test_the_judge_sees_defects(monkeypatch):
    def warns():
        warnings.warn("look", stacklevel=1)

    probes = {
        "answer": lambda: 1.0,
        "not finite": lambda: np.array([1.0, np.nan]),
        "warning": warns,
        "foreign": lambda: {}["nothing"],
    }
    for kind, probe in probes.items():
        assert _of(probe, monkeypatch) == kind
    assert _of(lambda: gb.Gaussian(np.nan, 1.0), monkeypatch) == "refusal"
    assert _of(lambda: gb.Linear(1.0)._vector("b", "x"), monkeypatch) == "foreign"  # NumPy's own refusal
    assert _of(lambda: np.ones(2) + np.ones(3), monkeypatch) == "foreign"


@pytest.mark.slow
def test_two_thousand_calls_in_processes_of_their_own():
    run = subprocess.run(
        [sys.executable, "-m", "analysis.fuzz", "--calls", "2000", "--seed", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
