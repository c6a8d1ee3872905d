"""Compressibility: how many kB (1000 bytes) an image takes as JPEG of quality 95.

Reference: Training Diffusion Models with Reinforcement Learning (DDPO; Black et al., 2023),
https://arxiv.org/abs/2305.13301.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from empirical.rewards.images import to_pil

QUALITY = 95


def jpeg_incompressibility(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Size in kB of the JPEG: much texture is rewarded."""
    return torch.tensor([_kilobytes(image) for image in to_pil(images)])


def jpeg_compressibility(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Minus the size in kB of the JPEG: flat images are rewarded."""
    return -jpeg_incompressibility(images, prompts)


def _kilobytes(image: Image.Image) -> float:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell() / 1000
