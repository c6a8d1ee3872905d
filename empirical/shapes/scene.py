"""What a picture shows: one or two flat objects on a flat background, and how scenes are drawn at random.

Lengths are in pixels of a 32 x 32 picture; x grows to the right, y downwards. A scene is of one of three families:

    single  one object, small or large, in the middle or clearly off it on one side
    pair    two objects that differ, side by side or one above the other
    count   two equal objects, side by side or one above the other
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SIZE = 32  # pixels a side
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
RADII: dict[str, tuple[float, float]] = {"small": (5.5, 6.5), "large": (8.5, 10.0)}  # ranges of the radius
LARGE = 7.5  # the radius from which an object counts as large
PLACES: dict[str, tuple[int, int]] = {
    "center": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}
OFF_CENTER = 3.0  # pixels from the middle, from which an object counts as off it
RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
FAMILIES: dict[str, float] = {"single": 0.5, "pair": 0.35, "count": 0.15}  # shares of the training data


@dataclass(frozen=True)
class Thing:
    """One object: (x, y) is the middle of its bounding box, ``radius`` the half of its height (and width, nearly)."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A background and its objects; the order of a pair is the order in which its caption names them."""

    family: str
    background: str
    things: tuple[Thing, ...]


def sample(draw: random.Random, family: str | None = None) -> Scene:
    """A scene of the family, or of a family drawn by the shares of ``FAMILIES``."""
    family = family or draw.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    background = draw.choice(list(BACKGROUNDS))
    return Scene(family, background, (_single(draw),) if family == "single" else _two(draw, equal=family == "count"))


def scene(seed: int, index: int, family: str | None = None) -> Scene:
    """Scene number ``index`` of the data set with this seed: the same on every machine, whatever was drawn before."""
    return sample(random.Random(f"scene {seed} {index}"), family)


def _single(draw: random.Random) -> Thing:
    radius = draw.uniform(*RADII[draw.choice(list(RADII))])
    right, down = PLACES[draw.choice(list(PLACES))]
    off = draw.uniform(OFF_CENTER + 1.0, min(SIZE / 2 - 0.5 - radius, OFF_CENTER + 4.0))
    stray = [draw.uniform(-1.5, 1.5) for _ in range(2)]
    x, y = (off * side if side else aside for side, aside in zip((right, down), stray, strict=True))
    return Thing(draw.choice(SHAPES), draw.choice(list(COLORS)), SIZE / 2 + x, SIZE / 2 + y, radius)


def _two(draw: random.Random, *, equal: bool) -> tuple[Thing, Thing]:
    kinds = [(shape, color) for shape in SHAPES for color in COLORS]
    chosen = [draw.choice(kinds)] * 2 if equal else draw.sample(kinds, 2)
    right, down = RELATIONS[draw.choice(list(RELATIONS))]
    things = []
    for (shape, color), side in zip(chosen, (1, -1), strict=True):
        along, across = side * draw.uniform(7.5, 8.0), draw.uniform(-3.0, 3.0)
        x, y = (along * right, across) if right else (across, along * down)
        things.append(Thing(shape, color, SIZE / 2 + x, SIZE / 2 + y, draw.uniform(*RADII["small"])))
    return things[0], things[1]
