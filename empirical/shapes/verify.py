"""Does a picture show what its caption says? A strict answer and a graded one, from pixels and words alone.

Strict: exactly the objects asked for and nothing else, each of the asked colour and shape (also size and place, where
the caption names them), in the asked relation, on the asked background, all of it clear. Graded, in [0, 1]:

    min(n, m) / max(n, m) * mean_k [share of the colour * overlap with the shape * half for each wrong size or place]
        * (half if the relation does not hold) * (share of the free pixels with the background's colour)

with n objects seen and m wanted, under the assignment of seen to wanted objects that makes it largest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from empirical.shapes.caption import Request, Wanted, place_of, read, relation_of, size_of
from empirical.shapes.look import Seen, View, look
from empirical.shapes.scene import Thing

OVERLAP = 0.75  # smallest overlap with the wanted shape, which must also be the largest of all shapes
PURITY = 0.8  # smallest share of the wanted colour
CLEAN = 0.95  # smallest share of the free pixels that have the background's colour


@dataclass(frozen=True)
class Verdict:
    """Of a batch.

    Args:
        passed: strict, bool of shape (batch,).
        score: graded, float32 of shape (batch,) in [0, 1].
    """

    passed: Tensor
    score: Tensor


def verify(images: Tensor, captions: Sequence[str]) -> Verdict:
    """The verdict on every picture and its caption.

    Args:
        images: RGB in [0, 1], shape (batch, 3, 32, 32).
        captions: one a picture, of the grammar of ``empirical.shapes.caption``.

    Raises:
        ValueError: numbers of pictures and captions that differ, a picture of another shape or not finite, or a
            caption that cannot be read.
    """
    if len(images) != len(captions):
        raise ValueError(f"every picture needs one caption, got {len(images)} pictures and {len(captions)} captions")
    judged = [judge(view, read(text)) for view, text in zip(look(images), captions, strict=True)]
    return Verdict(
        torch.tensor([strict for strict, _ in judged], dtype=torch.bool), torch.tensor([s for _, s in judged])
    )


def judge(view: View, request: Request) -> tuple[bool, float]:
    """Strict and graded verdict on one picture."""
    n, m = len(view.things), len(request.things)
    right_ground = request.background in (None, view.background)
    best_strict, best = False, 0.0
    for seen in itertools.permutations(view.things, min(n, m)):
        pairs = list(zip(seen, request.things, strict=False))
        related = len(pairs) < 2 or request.relation in (None, relation_of(*map(_thing, seen[:2])))
        score = sum(likeness(one, wanted) for one, wanted in pairs) / m if pairs else 0.0
        best = max(best, score * (1.0 if related and len(pairs) == m else 0.5 if request.relation else 1.0))
        best_strict |= n == m and related and all(meets(one, wanted) for one, wanted in pairs)
    strict = best_strict and right_ground and view.clean >= CLEAN
    return strict, best * min(n, m) / max(n, m) * (view.clean if right_ground else 0.5 * view.clean)


def meets(seen: Seen, wanted: Wanted) -> bool:
    """Whether the object is what was wanted, clearly."""
    clear = seen.overlaps[wanted.shape] >= OVERLAP and seen.colors[wanted.color] >= PURITY
    return clear and seen.shape == wanted.shape and _extras(seen, wanted) == (True, True)


def likeness(seen: Seen, wanted: Wanted) -> float:
    """How much the object is what was wanted, in [0, 1]."""
    return seen.colors[wanted.color] * seen.overlaps[wanted.shape] * 0.5 ** _extras(seen, wanted).count(False)


def _extras(seen: Seen, wanted: Wanted) -> tuple[bool, bool]:
    thing = _thing(seen)
    return wanted.size in (None, size_of(thing)), wanted.place in (None, place_of(thing))


def _thing(seen: Seen) -> Thing:
    return Thing(seen.shape, seen.color, seen.x, seen.y, seen.radius)
