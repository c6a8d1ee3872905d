"""Rewards as text, and where they come from."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reward_models import PROMPTS, images

from empirical.rewards import REWARDS, Term, WeightedSum, load, parse, score

KNOWN = list(REWARDS)


@pytest.mark.parametrize(
    ("spec", "terms"),
    [
        ("clip_score", [Term("clip_score")]),
        ("clip_score+pick_score+hps_v2", [Term("clip_score"), Term("pick_score"), Term("hps_v2")]),
        ("clip_score:2+pick_score:-1e-2", [Term("clip_score", (), 2.0), Term("pick_score", (), -0.01)]),
        ("pick_score@/models/pick", [Term("pick_score", ("/models/pick",))]),
        ("aesthetic@~/head.pth, openai/clip:0.5", [Term("aesthetic", ("~/head.pth", "openai/clip"), 0.5)]),
        ("clip_score@/a+b/c:1+hps_v2@C:/x", [Term("clip_score", ("/a+b/c",)), Term("hps_v2", ("C:/x",))]),
        ("clip_score : 1e+2 + pick_score", [Term("clip_score", (), 100.0), Term("pick_score")]),
        ("clip_score@a+clip_score@b:2", [Term("clip_score", ("a",)), Term("clip_score", ("b",), 2.0)]),
        ({"clip_score@/m": 2, "pick_score": 1.0}, [Term("clip_score", ("/m",), 2.0), Term("pick_score")]),
    ],
)
def test_text_is_read_as_terms(spec, terms):
    assert parse(spec, KNOWN) == tuple(terms)


weights = st.floats(-1e6, 1e6).filter(bool)
sources = st.lists(st.text("abcXYZ019/._-~", min_size=1), max_size=2).map(tuple)
terms = st.builds(Term, st.sampled_from(KNOWN), sources, weights)


@given(st.lists(terms, min_size=1, max_size=4, unique_by=lambda term: term.label))
def test_labels_and_weights_come_back_from_text(found):
    text = "+".join(f"{term.label}:{term.weight!r}" for term in found)
    assert parse(text, KNOWN) == tuple(found)
    assert parse({term.label: term.weight for term in found}, KNOWN) == tuple(found)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("beauty", "unknown reward 'beauty'; known: jpeg_compressibility, "),
        ("clip_score+beauty", "unknown reward 'clip_score.beauty'"),
        ("", "unknown reward ''"),
        ({}, "a reward is missing"),
        ("clip_score:much", "a weight must be a number, got 'clip_score:much'; write clip_score:1.5"),
        ("clip_score:0", "the weight of clip_score is 0; leave it out"),
        ("clip_score:nan", "the weight of clip_score must be finite, got nan"),
        ("clip_score@", "a source is missing in 'clip_score@'"),
        ("clip_score@a,:2", "a source is missing in 'clip_score@a,'"),
        ("clip_score+clip_score:2", "clip_score occurs twice"),
    ],
)
def test_text_that_names_no_reward_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec, KNOWN)


def test_what_is_neither_text_nor_a_mapping_is_refused():
    with pytest.raises(TypeError, match=r"must be text such as .* got 3"):
        parse(3, KNOWN)


def test_one_term_of_weight_1_is_the_reward_itself():
    from empirical.rewards.jpeg import jpeg_compressibility

    assert load("jpeg_compressibility") is jpeg_compressibility


def test_several_terms_are_their_weighted_sum():
    reward = load("jpeg_compressibility:2+jpeg_incompressibility:0.5")
    assert isinstance(reward, WeightedSum)
    assert reward.name == "jpeg_compressibility:2+jpeg_incompressibility:0.5"
    one = score(load("jpeg_compressibility"), images(), PROMPTS)
    torch.testing.assert_close(score(reward, images(), PROMPTS), 1.5 * one)
    torch.testing.assert_close(score(load({"jpeg_compressibility": 3}), images(), PROMPTS), 3 * one)


def test_too_many_sources_are_refused():
    with pytest.raises(ValueError, match="names 1 sources, but jpeg_compressibility takes none"):
        load("jpeg_compressibility@/path")
    with pytest.raises(ValueError, match="names 3 sources, but clip_score takes at most 2: model, processor"):
        load("clip_score@a,b,c")


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    for module in ("clip", "aesthetic", "image_reward"):
        monkeypatch.delitem(sys.modules, f"empirical.rewards.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"clip_score needs transformers: pip install 'gapbound\[empirical\]'"):
        load("clip_score@/model")


def test_our_own_broken_module_is_not_taken_for_a_missing_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "empirical.rewards.jpeg", raising=False)
    monkeypatch.setitem(sys.modules, "empirical.rewards.jpeg", None)
    with pytest.raises(ModuleNotFoundError, match=r"empirical\.rewards\.jpeg"):
        load("jpeg_compressibility")


def test_every_reward_has_a_summary_and_is_there():
    from importlib import import_module

    for name, entry in REWARDS.items():
        assert entry.summary
        assert callable(getattr(import_module(f"empirical.{entry.module}"), name))


def test_importing_the_package_imports_no_model_library():
    import subprocess

    code = "import sys, empirical.rewards as r; r.load('jpeg_compressibility'); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
