"""The training data as a denoiser sees it: latents of a fixed set of scenes, and token ids of their captions."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from transformers import CLIPTokenizer

from empirical.shapes.autoencoder import pictures
from empirical.shapes.caption import caption, every_request, write
from empirical.shapes.scene import Scene, scene

AT_ONCE = 250  # scenes encoded together


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Args:
        latents: shape (batch, 12, 8, 8).
        tokens: ids, shape (batch, 16).
        noise: standard normal, like ``latents``.
        share: where in the range of noise levels, uniform in [0, 1) and stratified, shape (batch,).
    """

    latents: Tensor
    tokens: Tensor
    noise: Tensor
    share: Tensor


@torch.no_grad()
def latents_of(vae: AutoencoderTiny, seed: int, n: int) -> Tensor:
    """The latents of the first n scenes, in half precision, shape (n, 12, 8, 8)."""
    starts = range(0, n, AT_ONCE)
    parts = [vae.encode(pictures(seed, first, min(AT_ONCE, n - first))).latents.half() for first in starts]
    return torch.cat(parts)


def token_table(tokenizer: CLIPTokenizer) -> dict[str, list[int]]:
    """Every caption of the grammar, and the empty one, with its token ids."""
    captions = ["", *map(write, every_request())]
    return dict(zip(captions, tokenizer(captions, padding="max_length").input_ids, strict=True))


class Source:
    """Batches by number: the same number gives the same batch, whatever came before.

    Args:
        latents: of scenes 0, 1, ... of the data set with this seed.
        table: caption -> token ids.
        seed: of the data set and of the batches.
        drop: probability that the caption is left out, for guidance.
    """

    def __init__(self, latents: Tensor, table: dict[str, list[int]], seed: int, drop: float) -> None:
        """Make the scenes that the latents show."""
        self.latents, self.table, self.seed, self.drop = latents, table, seed, drop
        self.scenes: list[Scene] = [scene(seed, index) for index in range(len(latents))]

    def batch(self, number: int, size: int) -> Batch:
        """Scenes with replacement; every caption is drawn anew."""
        draw = random.Random(f"batch {self.seed} {number}")
        rows = [draw.randrange(len(self.scenes)) for _ in range(size)]
        captions = ["" if draw.random() < self.drop else caption(self.scenes[row], draw) for row in rows]
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        latents = self.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator)
        share = (torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)) / size
        return Batch(latents, torch.tensor([self.table[text] for text in captions]), noise, share)
