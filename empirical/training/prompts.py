"""Training prompts in a seeded order that goes on for ever and can be entered anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from empirical.defaults import read_prompts
from empirical.models import BUNDLED
from empirical.shapes.alignment import prompts as captions
from empirical.shapes.scene import FAMILIES
from gapbound._validate import count


@dataclass(frozen=True)
class Prompts:
    """Every pass goes through all texts in an order of its own; a position in it is a number, so nothing is kept.

    Args:
        texts: no two alike, none empty.
        seed: of the orders.

    Raises:
        ValueError: no text, an empty one, or one that occurs twice.
    """

    texts: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        """Check the texts."""
        if not self.texts:
            raise ValueError("there is no prompt to train on; give at least one")
        seen: set[str] = set()
        for number, text in enumerate(self.texts, start=1):
            if not text.strip():
                raise ValueError(f"training prompt {number} is empty; remove it")
            if text in seen:
                raise ValueError(f"training prompt {number} occurs before, {text!r}; its statistics would mix")
            seen.add(text)

    def take(self, position: int, n: int) -> list[str]:
        """``n`` texts from ``position`` on."""
        count("position", position, 0)
        return [self._at(place) for place in range(position, position + count("n", n))]

    def _at(self, place: int) -> str:
        turn, k = divmod(place, len(self.texts))
        return self.texts[int(_order(self.seed, turn, len(self.texts))[k])]


def _order(seed: int, turn: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, turn]).permutation(n)


def pick_steps(steps: Sequence[int], n: int | None, key: Sequence[int]) -> tuple[int, ...]:
    """``n`` of ``steps`` in their order, drawn by ``key`` alone, hence the same in every process; all if n is None."""
    if n is None or n == len(steps):
        return tuple(steps)
    chosen = np.random.default_rng(list(key)).choice(len(steps), size=n, replace=False)
    return tuple(steps[int(i)] for i in np.sort(chosen))


#: For models of the world: what to draw, and where nobody saw it in training.
ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat", "lion",
    "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish", "shark", "whale",
    "dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose", "bee", "pig",
    "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)  # fmt: skip
HELD_OUT = 9  # of the animals, from the end
TRAINED, JUDGED = 96, 24  # captions of each family of scenes, before those that occur twice are left out


def training(file: Path | None, model: str, families: Sequence[str] = tuple(FAMILIES)) -> tuple[str, ...]:
    """The lines of a file; without one, captions of these families for embedded models, animals for any other."""
    if file is not None:
        return tuple(read_prompts(file, model))
    if model not in BUNDLED:
        return tuple(f"a photo of a {animal}" for animal in ANIMALS[:-HELD_OUT])
    judged = set(held_out(None, model))  # of all families
    found = dict.fromkeys(text for family in families for text in captions(TRAINED, family, seed=3))
    return tuple(text for text in found if text not in judged)


def held_out(file: Path | None, model: str, families: Sequence[str] = tuple(FAMILIES)) -> tuple[str, ...]:
    """The prompts of evaluations, likewise; no default is one of ``training``."""
    if file is not None:
        return tuple(read_prompts(file, model))
    if model not in BUNDLED:
        return tuple(f"a photo of a {animal}" for animal in ANIMALS[-HELD_OUT:])
    return tuple(dict.fromkeys(text for family in families for text in captions(JUDGED, family)))
