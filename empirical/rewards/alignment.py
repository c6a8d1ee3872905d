"""Whether a picture of shapes shows what its caption says, by the pixel verifier of ``empirical.shapes``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from empirical.shapes.verify import Verdict, verify


def alignment(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The graded verdict, in [0, 1]."""
    return _verdict(images, prompts).score


def strict_alignment(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """1 where everything the caption says is clearly there and nothing else, 0 elsewhere; its mean is an accuracy."""
    return _verdict(images, prompts).passed


def _verdict(images: Tensor, prompts: Sequence[str]) -> Verdict:
    return verify(images.detach().float().cpu(), prompts)
