"""Captions: what a scene may be called, and what a caption asks of a picture.

One grammar, written and read:

    caption  = phrase [ground]
    phrase   = "a" [size] color shape [place]                           one object
             | "a" color shape relation "a" color shape                 two that differ
             | "two" color shapes                                       two that are equal
    place    = "at the" (left | right | top | bottom | center)
    relation = "left of" | "right of" | "above" | "below"
    ground   = "on a" background "background"
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from empirical.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    LARGE,
    OFF_CENTER,
    PLACES,
    RADII,
    RELATIONS,
    SHAPES,
    SIZE,
    Scene,
    Thing,
)

PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
SINGULARS = {plural: shape for shape, plural in PLURALS.items()}


@dataclass(frozen=True)
class Wanted:
    """One object that a caption asks for; None is what it leaves open."""

    color: str
    shape: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Request:
    """What a caption asks for: these objects and no others, the first in this relation to the second.

    Args:
        things: one or two.
        relation: a key of ``RELATIONS``, or None.
        background: a key of ``BACKGROUNDS``, or None.
    """

    things: tuple[Wanted, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def family(self) -> str:
        """Of the scenes that can meet it: single, pair or count."""
        if len(self.things) == 1:
            return "single"
        return "count" if self.relation is None else "pair"


def size_of(thing: Thing) -> str:
    """Small or large."""
    return "large" if thing.radius >= LARGE else "small"


def place_of(thing: Thing) -> str:
    """Where in the picture the object is: off the middle on the side where it is farthest off, or at the center."""
    right, down = thing.x - SIZE / 2, thing.y - SIZE / 2
    if max(abs(right), abs(down)) < OFF_CENTER:
        return "center"
    return ("right" if right > 0 else "left") if abs(right) > abs(down) else ("bottom" if down > 0 else "top")


def relation_of(first: Thing, second: Thing) -> str:
    """On which side of the second object the first one is, along the axis on which they are farther apart."""
    right, down = first.x - second.x, first.y - second.y
    return ("right of" if right > 0 else "left of") if abs(right) > abs(down) else ("below" if down > 0 else "above")


def request_of(scene: Scene) -> Request:
    """All that the grammar can say about the scene."""
    if scene.family == "single":
        (thing,) = scene.things
        return Request((Wanted(thing.color, thing.shape, size_of(thing), place_of(thing)),), None, scene.background)
    things = tuple(Wanted(thing.color, thing.shape) for thing in scene.things)
    relation = relation_of(*scene.things) if scene.family == "pair" else None
    return Request(things, relation, scene.background)


def write(request: Request) -> str:
    """The caption that asks for it."""
    first, second = request.things[0], request.things[-1]
    match request.family:
        case "single":
            size, place = first.size and f"{first.size} ", first.place and f" at the {first.place}"
            phrase = f"a {size or ''}{first.color} {first.shape}{place or ''}"
        case "pair":
            phrase = f"a {first.color} {first.shape} {request.relation} a {second.color} {second.shape}"
        case _:
            phrase = f"two {first.color} {PLURALS[first.shape]}"
    return phrase + (f" on a {request.background} background" if request.background else "")


def caption(scene: Scene, draw: random.Random) -> str:
    """A caption of the scene: what the grammar lets one leave out is left out with probability 1/2 each."""
    full = request_of(scene)
    first = full.things[0]
    things = full.things
    if full.family == "single":
        size, place = (value if draw.random() < 0.5 else None for value in (first.size, first.place))
        things = (Wanted(first.color, first.shape, size, place),)
    return write(Request(things, full.relation, full.background if draw.random() < 0.5 else None))


def read(text: str) -> Request:
    """What the caption asks for; ``read(write(request)) == request``.

    Raises:
        TypeError: no string.
        ValueError: the caption is not of the grammar.
    """
    if not isinstance(text, str):
        raise TypeError(f"a caption must be a string, got {text!r}")
    found = _GRAMMAR.fullmatch(" ".join(text.lower().split()))
    if found is None:
        raise ValueError(
            f"cannot read the caption {text!r}; one like 'a red circle', 'a large blue square at the left on a white "
            "background', 'a red circle left of a blue cross' or 'two green squares' can be verified"
        )
    part = found.groupdict()
    if part["shapes"]:
        things: tuple[Wanted, ...] = (Wanted(part["colors"], SINGULARS[part["shapes"]]),) * 2
    elif part["relation"]:
        things = Wanted(part["color1"], part["shape1"]), Wanted(part["color2"], part["shape2"])
    else:
        things = (Wanted(part["color"], part["shape"], part["size"], part["place"]),)
    return Request(things, part["relation"], part["background"])


def every_request() -> list[Request]:
    """All requests that the grammar can write, in a fixed order."""
    kinds = [(color, shape) for color in COLORS for shape in SHAPES]
    sizes, places, grounds = (None, *RADII), (None, *PLACES), (None, *BACKGROUNDS)
    single = [
        Request((Wanted(*kind, s, p),), None, b) for kind in kinds for s in sizes for p in places for b in grounds
    ]
    pairs = [(one, other) for one in kinds for other in kinds if one != other]
    pair = [Request((Wanted(*a), Wanted(*b)), r, g) for a, b in pairs for r in RELATIONS for g in grounds]
    count = [Request((Wanted(*kind),) * 2, None, b) for kind in kinds for b in grounds]
    return [*single, *pair, *count]


def _one_of(name: str, words: object) -> str:
    return f"(?P<{name}>{'|'.join(map(re.escape, words))})"  # type: ignore[call-overload]


_GRAMMAR = re.compile(
    "(?:"
    + f"a (?:{_one_of('size', RADII)} )?{_one_of('color', COLORS)} {_one_of('shape', SHAPES)}"
    + f"(?: at the {_one_of('place', PLACES)})?"
    + f"|a {_one_of('color1', COLORS)} {_one_of('shape1', SHAPES)} {_one_of('relation', RELATIONS)}"
    + f" a {_one_of('color2', COLORS)} {_one_of('shape2', SHAPES)}"
    + f"|two {_one_of('colors', COLORS)} {_one_of('shapes', SINGULARS)}"
    + f")(?: on a {_one_of('background', BACKGROUNDS)} background)?"
)
