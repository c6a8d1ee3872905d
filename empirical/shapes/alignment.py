"""How well a pipeline's pictures show what was asked: fixed prompts by caption family, ODE samples, counts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from empirical.models import GUIDANCE as GUIDANCE
from empirical.shapes.caption import caption
from empirical.shapes.scene import FAMILIES, scene
from empirical.shapes.verify import Verdict, verify

AT_ONCE = 100  # pictures made together


def prompts(n: int, family: str, seed: int = 1) -> list[str]:
    """Captions of n scenes that no training set holds: its seeds are even, this one is odd."""
    if seed % 2 == 0:
        raise ValueError(f"the seed of prompts must be odd, got {seed}; even seeds are for training")
    return [caption(scene(seed, index, family), random.Random(f"prompt {seed} {index}")) for index in range(n)]


def generate(pipeline: Any, texts: Sequence[str], steps: int, guidance: float, seed: int = 0, **call: Any) -> Tensor:
    """One picture a prompt in [0, 1], shape (n, 3, 32, 32); picture k has its own noise, whatever is made beside it."""
    parts = []
    for first in range(0, len(texts), AT_ONCE):
        chosen = list(texts[first : first + AT_ONCE])
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + first + k) for k in range(len(chosen))]
        made = pipeline(
            chosen, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt", **call
        )
        parts.append(made.images.float().cpu())
    return torch.cat(parts)


def measure(
    pipeline: Any, n: int, steps: int, guidance: float, seed: int = 0, prompt_seed: int = 1
) -> dict[str, Verdict]:
    """Verdicts on n pictures of every caption family."""
    found = {}
    for family in FAMILIES:
        texts = prompts(n, family, prompt_seed)
        found[family] = verify(generate(pipeline, texts, steps, guidance, seed), texts)
    return found
