"""What an image is: an entry of a floating tensor (batch, 3, H, W) in [0, 1]; conversions to bytes and to PIL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def checked(images: Any) -> Tensor:
    """``images`` if they are what a reward takes.

    Raises:
        TypeError: not a floating tensor.
        ValueError: not of shape (batch, 3, H, W), or an entry is NaN or outside [0, 1]; the image is named.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = f"{images.dtype} tensor" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating tensor in [0, 1], got a {kind}; from_pil converts PIL images")
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must have shape (batch, 3, H, W) and not be empty, got {tuple(images.shape)}")
    inside = ((images >= 0) & (images <= 1)).flatten(1)
    if not bool(inside.all()):
        index = int((~inside.all(1)).nonzero()[0])
        value = float(images[index].flatten()[~inside[index]][0])
        raise ValueError(
            f"images must lie in [0, 1], but image {index} holds {value:g}; a NaN comes from the network or its "
            "decoder, and images in [-1, 1] become (images / 2 + 0.5).clamp(0, 1)"
        )
    return images


def to_bytes(images: Tensor) -> Tensor:
    """``round(255 images)`` as uint8, the image as a file would hold it; same shape and device."""
    return (images.detach().float() * 255).round().to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """One RGB image per entry of ``images``, shape (batch, 3, H, W)."""
    return [Image.fromarray(array) for array in to_bytes(checked(images)).permute(0, 2, 3, 1).cpu().numpy()]


def from_pil(images: Sequence[Image.Image]) -> Tensor:
    """PIL images of one size, converted to RGB, as a float32 tensor (batch, 3, H, W) in [0, 1].

    Raises:
        ValueError: no image, or images of several sizes.
    """
    sizes = sorted({image.size for image in images})
    if len(sizes) != 1:
        found = " and ".join(f"{width}x{height}" for width, height in sizes) or "none"
        raise ValueError(f"need images of one size, got {found}; score different sizes in separate calls")
    arrays = np.stack([np.array(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
