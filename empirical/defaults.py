"""What the commands take where they are told nothing: prompts, rewards, guidance."""

from __future__ import annotations

from pathlib import Path

from empirical.models import BUNDLED, GUIDANCE
from empirical.shapes.alignment import prompts as captions
from empirical.shapes.scene import FAMILIES

CAPTIONS = 8  # of each family, for embedded models


def read_prompts(file: Path | None, model: str) -> list[str]:
    """The lines of a file; without one, captions for the embedded model.

    Raises:
        ValueError: no such file, nothing in it, an empty line between prompts, or no file for another model.
    """
    if file is None:
        if model not in BUNDLED:
            raise ValueError("--prompts is missing: a text file with a prompt a line")
        return list(dict.fromkeys(text for family in FAMILIES for text in captions(CAPTIONS, family)))
    try:
        lines = file.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the prompts in {file}: {error}; give a text file with a prompt a line") from None
    if not lines:
        raise ValueError(f"{file} holds no prompt; give one a line")
    return [line.strip() for line in lines]


def default_rewards(model: str) -> tuple[str, ...]:
    """The embedded model's captions can be verified from pixels; elsewhere only what needs no weights is certain."""
    return ("alignment", "jpeg_compressibility") if model in BUNDLED else ("jpeg_compressibility",)


def default_guidance(model: str) -> float | None:
    """What the embedded model is sampled with; None, the class's own, elsewhere."""
    return GUIDANCE if model in BUNDLED else None
