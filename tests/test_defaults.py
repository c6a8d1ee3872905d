"""What the commands take where they are told nothing."""

import pytest

from empirical.defaults import default_guidance, default_rewards, read_prompts
from empirical.models import EMBEDDED
from empirical.rewards import load
from empirical.shapes.caption import read


def test_a_prompt_file_that_cannot_be_read_or_is_empty_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the prompts in .*missing.txt"):
        read_prompts(tmp_path / "missing.txt", EMBEDDED)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty.txt holds no prompt; give one a line"):
        read_prompts(tmp_path / "empty.txt", EMBEDDED)
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match="cannot read the prompts in"):
        read_prompts(tmp_path / "image.txt", EMBEDDED)


def test_the_embedded_models_prompts_are_captions_and_none_repeats():
    found = read_prompts(None, EMBEDDED)
    assert len(found) == len(set(found)) >= 12
    assert {read(text).family for text in found} == {"single", "pair", "count"}
    with pytest.raises(ValueError, match="--prompts is missing: a text file with a prompt a line"):
        read_prompts(None, "some/model")


def test_only_the_embedded_model_has_a_guidance_and_captions_to_verify():
    assert default_guidance(EMBEDDED) == 4.0
    assert default_guidance("some/model") is None
    assert default_rewards(EMBEDDED)[0] == "alignment"
    assert default_rewards("some/model") == ("jpeg_compressibility",)
    for name in default_rewards(EMBEDDED):
        load(name)  # needs no weights
