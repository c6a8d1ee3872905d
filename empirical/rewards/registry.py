"""Which rewards there are, and how to make one, or a weighted sum, from text. Their modules are imported when used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import torch

from empirical.rewards.combine import WeightedSum
from empirical.rewards.scoring import Reward
from empirical.rewards.spec import Term, parse

EXTRA = "gapbound[empirical]"


@dataclass(frozen=True)
class Entry:
    """A reward of the registry.

    Attributes:
        module: where it is, below ``empirical``.
        summary: what it measures, for people.
        sources: what it reads, in the order in which text names it; empty for a reward that is ready as it is.
    """

    module: str
    summary: str
    sources: tuple[str, ...] = ()


#: Every reward by name; the object of that name in its module is the reward, or makes it from its sources.
REWARDS: Mapping[str, Entry] = {
    "jpeg_compressibility": Entry("rewards.jpeg", "minus the kB of the image as JPEG of quality 95"),
    "jpeg_incompressibility": Entry("rewards.jpeg", "kB of the image as JPEG of quality 95"),
    "alignment": Entry("rewards.alignment", "how far a picture of shapes agrees with its caption, 0 to 1"),
    "strict_alignment": Entry("rewards.alignment", "1 where it agrees in everything, else 0"),
    "clip_score": Entry("rewards.clip", "100 cos(image, prompt) of a CLIP model", ("model", "processor")),
    "pick_score": Entry("rewards.clip", "PickScore, a CLIP-H of human choices", ("model", "processor")),
    "hps_v2": Entry("rewards.clip", "HPSv2, a CLIP-H of human rankings", ("model", "base")),
    "aesthetic": Entry("rewards.aesthetic", "LAION's aesthetic predictor, 1 to 10", ("head", "clip")),
    "image_reward": Entry("rewards.image_reward", "ImageReward, a BLIP of human rankings", ("model", "tokenizer")),
}


def load(
    spec: str | Mapping[str, float],
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Reward:
    """A reward, or a weighted sum of several, from text or a mapping ``name[@sources] -> weight``.

    Args:
        spec: "jpeg_compressibility", "alignment:2+clip_score:1", "pick_score@/path"; see ``spec``.
        device: where models compute; where the images are if None.
        dtype: of the models; scores are float32.

    Raises:
        TypeError, ValueError: the text or the mapping names no such reward, or too many sources.
        ImportError: a package is missing; the extra that has it is named.
        OSError: weights are not where the text says, or cannot be had from the hub.
    """
    terms = parse(spec, REWARDS)
    if len(terms) == 1 and terms[0].weight == 1:
        return _made(terms[0], device, dtype)
    rewards = {term.label: _made(term, device, dtype) for term in terms}
    return WeightedSum(rewards, {term.label: term.weight for term in terms})


def _made(term: Term, device: str | torch.device | None, dtype: torch.dtype) -> Reward:
    entry = REWARDS[term.name]
    if len(term.sources) > len(entry.sources):
        takes = f"at most {len(entry.sources)}: {', '.join(entry.sources)}" if entry.sources else "none"
        raise ValueError(f"{term.label!r} names {len(term.sources)} sources, but {term.name} takes {takes}")
    try:
        found = getattr(import_module(f"empirical.{entry.module}"), term.name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("empirical", "gapbound")):
            raise
        raise ImportError(f"the reward {term.name} needs {error.name}: pip install '{EXTRA}'") from error
    return found(*term.sources, device=device, dtype=dtype) if entry.sources else found
