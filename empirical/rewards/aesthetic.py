"""LAION's aesthetic predictor: linear layers on the unit image embedding of CLIP ViT-L/14.

Reference: https://github.com/christophschuhmann/improved-aesthetic-predictor (Schuhmann, 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from empirical.rewards.checkpoint import weights
from empirical.rewards.clip import CLIP_L, Clip, load
from empirical.rewards.head import linear_stack


@dataclass(frozen=True)
class Aesthetic:
    """About 1 (ugly) to 10; the prompt does not matter.

    Args:
        clip: the encoder.
        head: from its unit embedding to one number, float32.
    """

    clip: Clip
    head: nn.Module
    name: str = field(default="aesthetic", init=False)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32, shape (batch,)."""
        embedding = self.clip.images(images)
        return self.head.to(embedding.device)(embedding).squeeze(-1)


def aesthetic(
    head: str = "trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth",
    clip: str = CLIP_L,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Aesthetic:
    """The predictor by path or id.

    Args:
        head: file of the layers (``sac+logos+ava1-l14-linearMSE.pth`` is the usual one): a path, or owner/name/file on
            the hub.
        clip: folder or hub id of the CLIP model it was trained on.
        device: where to compute; where the images are if None.
        dtype: of CLIP; the head is float32.

    Raises:
        OSError: the file or the model cannot be loaded.
        ValueError: the file does not hold such layers.
    """
    state = weights(head, "aesthetic weights")
    encoder = load(clip, None, device, dtype)
    return Aesthetic(encoder, linear_stack(state, width=encoder.model.config.projection_dim))
