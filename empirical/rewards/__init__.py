"""Rewards of images: a reward is a callable ``(images, prompts) -> one float per image``.

- **images**: a floating tensor of shape (batch, 3, H, W) with entries in [0, 1], on any device; ``from_pil`` makes one.
- **prompts**: a list of ``batch`` strings, one per image.
- **the result**: a tensor of shape (batch,); larger is better.

Any such callable is a reward, a plain function too. ``load`` makes the ready ones of ``REWARDS``, and weighted sums of
them, from text: ``load("jpeg_compressibility")``, ``load("alignment:2+pick_score@/path")``. What a reward
needs (transformers, weights) is imported and read only then. ``score`` and ``score_masked`` are how everything in
``empirical`` calls a reward: they check what goes in and what comes out.
"""

from empirical.rewards.combine import WeightedSum
from empirical.rewards.images import from_pil, to_pil
from empirical.rewards.registry import REWARDS, Entry, load
from empirical.rewards.scoring import Reward, RewardError, Scores, name_of, score, score_masked
from empirical.rewards.spec import Term, parse

__all__ = [
    "REWARDS",
    "Entry",
    "Reward",
    "RewardError",
    "Scores",
    "Term",
    "WeightedSum",
    "from_pil",
    "load",
    "name_of",
    "parse",
    "score",
    "score_masked",
    "to_pil",
]
