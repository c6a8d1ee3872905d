"""The training of the autoencoder: 3 x 32 x 32 pixels to 12 x 8 x 8 latents of mean 0 and variance 1, and back.

Latents are standardised channel by channel while training and noise is added before they are decoded, so that near
latents are near pictures; afterwards the standardisation is folded into the encoder's last convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from empirical.shapes import checkpoint
from empirical.shapes.draw import draw
from empirical.shapes.scene import scene

CHANNELS = 12  # of the latents
KEEP = 100  # steps between checkpoints


@dataclass(frozen=True)
class Training:
    """One run.

    Args:
        steps: of AdamW.
        batch: scenes a step.
        rate: learning rate, falling to 0 over the last 40 % of the steps.
        noise: standard deviation of the noise on the latents.
        width: of every layer.
        seed: of the initial weights and of every draw.
    """

    steps: int = 3000
    batch: int = 64
    rate: float = 1e-3
    noise: float = 0.1
    width: int = 64
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Linear warmup over 100 steps, constant, linear decay."""
        return self.rate * min(1.0, (step + 1) / 100, (self.steps - step) / (0.4 * self.steps))


def new(width: int = Training.width, channels: int = CHANNELS) -> AutoencoderTiny:
    """An autoencoder of diffusers' class, randomly initialised; latents are a quarter of the picture a side."""
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(0, 2, 2),
        num_decoder_blocks=(2, 2, 0),
        latent_channels=channels,
        scaling_factor=1.0,
    )


def pictures(seed: int, first: int, n: int) -> Tensor:
    """The pictures of n scenes in [-1, 1], shape (n, 3, 32, 32), as a Stable Diffusion autoencoder takes them."""
    return 2 * draw([scene(seed, index) for index in range(first, first + n)]) - 1


def train(
    run: Training, path: Path, progress: Callable[[int, float], None] = lambda step, loss: None
) -> AutoencoderTiny:
    """The trained autoencoder, standardised and in eval mode; goes on from the checkpoint at ``path``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = new(run.width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.rate, weight_decay=0.0)
    state = checkpoint.resume(path, asdict(run))
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(state["step"] if state else 0, run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.rate_at(step)
        loss = loss_of(model, run, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % KEEP == 0 or step + 1 == run.steps:
            state = {"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.keep(path, asdict(run), state)
            progress(step + 1, float(loss.detach()))
    return standardise(model, run)


def loss_of(model: AutoencoderTiny, run: Training, step: int) -> Tensor:
    """Mean absolute plus twice the mean squared error of a batch that the step alone decides."""
    clean = pictures(run.seed, step * run.batch, run.batch).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(hash((run.seed, step)) % 2**63)
    with torch.autocast("cpu", torch.bfloat16):
        raw = model.encoder(clean).float()
        mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True)
        latents = (raw - mean) / std
        error = model.decoder(latents + run.noise * torch.randn(latents.shape, generator=generator)).float() - clean
    return error.abs().mean() + 2 * error.square().mean()


@torch.no_grad()
def standardise(model: AutoencoderTiny, run: Training, batches: int = 32) -> AutoencoderTiny:
    """Fold mean and standard deviation of every channel into the encoder's last convolution."""
    model.eval()
    raw = torch.cat([model.encoder(pictures(run.seed, -(k + 1) * run.batch, run.batch)) for k in range(batches)])
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    last = model.encoder.layers[-1]
    last.weight /= std[:, None, None, None]
    last.bias.sub_(mean).div_(std)
    return model
