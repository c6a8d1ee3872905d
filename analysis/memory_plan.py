"""What fine-tuning Stable Diffusion 1.5 at 512 x 512 needs of a GPU, on paper: ``python -m analysis.memory_plan``.

The networks are made on the meta device from the published architecture, without weights, and every tensor of a forward
and a backward pass is counted (``empirical.training.memory``). Nothing here ran on a GPU: what no tensor shows, such as
workspaces and fragmentation, is left a tenth of the card.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
import tyro
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.table import Table
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from analysis.command import console, run
from empirical.training.memory import MARGIN, Budget, Sizes, budget

GB = 1e9
CARDS = (24, 80)  # GB
BLOCKS = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4


def networks() -> tuple[nn.Module, AutoencoderKL, nn.Module]:
    """Denoiser, autoencoder and text encoder of Stable Diffusion 1.5, half precision, without weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
            coder = AutoencoderKL(
                down_block_types=BLOCKS[0], up_block_types=BLOCKS[1], block_out_channels=(128, 256, 512, 512),
                layers_per_block=2, latent_channels=4, sample_size=512,
            )  # fmt: skip
            text = CLIPTextModel(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
            )
    finally:
        torch.set_default_dtype(before)
    return unet, coder, text


def plan(parts: tuple[nn.Module, AutoencoderKL, nn.Module], micro_batch: int, sizes: Sizes, guided: bool) -> Budget:
    """The budget of this micro-batch, with classifier-free guidance in training or without."""
    unet, coder, text = parts
    n = 2 * micro_batch if guided else micro_batch
    inputs = {
        "sample": torch.empty(n, 4, 64, 64, device="meta"),
        "timestep": torch.empty(n, device="meta"),
        "encoder_hidden_states": torch.empty(n, 77, 768, device="meta"),
    }
    return budget(unet, [coder, text], inputs, "sample", coder, (micro_batch, 4, 64, 64), sizes)


def largest(budgets: dict[int, Budget], card: int) -> str:
    """The largest micro-batch that a card of so many GB holds."""
    fit = [n for n, one in budgets.items() if one.total <= (1 - MARGIN) * card * GB]
    return str(max(fit)) if fit else "none"


def main(
    micro_batches: Annotated[tuple[int, ...], tyro.conf.arg(help="Samples that go through together.")] = (
        1, 2, 4, 8, 16, 32, 64, 128,
    ),
    rank: Annotated[int, tyro.conf.arg(help="Of the LoRA.")] = 16,
    samples: Annotated[int, tyro.conf.arg(help="An epoch's samples on this GPU.")] = 256,
    steps: Annotated[int, tyro.conf.arg(help="Of the sampler.")] = 50,
) -> None:  # fmt: skip
    """Print the memory of every micro-batch, and the largest that each card holds."""
    parts, sizes = networks(), Sizes(torch.bfloat16, rank, False, False, samples, steps)
    table = Table(title=f"SD 1.5, 512 x 512, LoRA of rank {rank}, bfloat16, {samples} samples of {steps} steps: GB")
    for column in ("guided", "blocks computed again", *map(str, micro_batches), *(f"{n} GB holds" for n in CARDS)):
        table.add_column(column, justify="right")
    found: Any = None
    for guided in (True, False):
        for again in (False, True):
            found = {n: plan(parts, n, replace(sizes, checkpointing=again), guided) for n in micro_batches}
            cells = [f"{one.total / GB:.1f}" for one in found.values()]
            words = ["yes" if flag else "no" for flag in (guided, again)]
            table.add_row(*words, *cells, *(largest(found, card) for card in CARDS))
    output = console()
    output.print(table)
    for name, value in vars(found[min(micro_batches)]).items():
        output.print(f"{name}, the last row's first: {value / GB:.2f} GB", highlight=False)


if __name__ == "__main__":
    run(main, "python -m analysis.memory_plan")
