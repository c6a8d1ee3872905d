"""Images as a vision transformer wants them: resized, cropped and normalised in torch, on any device.

The arithmetic is that of the PIL processors the models were trained with: bytes, bicubic with antialiasing, first along
the width, then along the height, each rounded and cut to bytes. What remains is rounding: one byte level, in fewer than
one entry of a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from empirical.rewards.images import to_bytes

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # PIL's number


@dataclass(frozen=True)
class Preprocess:
    """The shortest edge to ``size``, aspect kept; the centre ``crop``; ``(image - mean) / std`` per channel.

    Half of an odd margin is rounded down, as in transformers; torchvision rounds to even, which moves the crop of some
    images that are not square by a pixel.

    Args:
        size: of the shortest edge, or (height, width) to resize to whatever the aspect.
        crop: (height, width), at most the resized image's; None for no crop.
        mean, std: per channel, of images in [0, 1].
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def square(cls, size: int) -> Preprocess:
        """CLIP's own: shortest edge and crop of one size."""
        return cls(size, (size, size))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Preprocess:
        """From what transformers writes into ``preprocessor_config.json``, of today or of the first releases.

        Raises:
            ValueError: it asks for another interpolation than bicubic, or leaves out resizing or normalising.
        """
        for key, expected in {"resample": BICUBIC, "do_resize": True, "do_normalize": True}.items():
            if config.get(key, expected) != expected:
                raise ValueError(f"the image processor has {key}={config[key]}, this preprocessing needs {expected}")
        size = config["size"]
        edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
        crop = _pair(config["crop_size"]) if config.get("do_center_crop", True) else None
        return cls(_pair(size) if edge is None else edge, crop, tuple(config["image_mean"]), tuple(config["image_std"]))

    def __call__(self, images: Tensor) -> Tensor:
        """Shape (batch, 3, H, W) in [0, 1] -> (batch, 3, h, w), float32, device kept.

        Raises:
            ValueError: the crop is larger than the resized image.
        """
        height, width = self._resized(images.shape[-2], images.shape[-1])
        levels = to_bytes(images).float()
        for shape in ((levels.shape[-2], width), (height, width)):  # PIL's order
            if shape != tuple(levels.shape[-2:]):
                levels = F.interpolate(levels, shape, mode="bicubic", antialias=True).round().clamp(0, 255)
        mean, std = (torch.tensor(value, device=images.device)[:, None, None] for value in (self.mean, self.std))
        return (self._cropped(levels) / 255 - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        short = min(height, width)
        return self.size * height // short, self.size * width // short

    def _cropped(self, images: Tensor) -> Tensor:
        if self.crop is None:
            return images
        spare = [have - want for have, want in zip(images.shape[-2:], self.crop, strict=True)]
        if min(spare) < 0:
            raise ValueError(f"cannot crop {self.crop} from a resized image of {tuple(images.shape[-2:])}")
        top, left = spare[0] // 2, spare[1] // 2
        return images[..., top : top + self.crop[0], left : left + self.crop[1]]


def _pair(size: int | Mapping[str, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])
