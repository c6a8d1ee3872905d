"""The parts of the embedded model, of diffusers' and transformers' own classes, and the pipeline made of them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from empirical.shapes.autoencoder import CHANNELS
from empirical.shapes.tokenizer import LENGTH
from gapbound.schedule import STABLE_DIFFUSION

WEIGHTS = Path(__file__).with_name("weights") / "diffusion"  # committed, in half precision
FOLDERS = {  # by their names in commands
    "embedded": WEIGHTS,
    "embedded-early": WEIGHTS.with_name("early"),
    "embedded-flow": WEIGHTS.with_name("flow"),
}
SHARED = {"vae": "vae", "tokenizer": "tokenizer", "tokenizer_2": "tokenizer"}  # part -> its one copy, in ``WEIGHTS``
SIDE = 8  # of the latents
TEXT = 96  # width of the text encoder
JOINED = 64  # width of each of the flow model's two
HEAD = 24  # width of an attention head of the flow model's


class WithoutT5(StableDiffusion3Pipeline):
    """Stable Diffusion 3's pipeline without the 256 zeros that it puts in the place of an absent T5.

    The same as ``StableDiffusion3Pipeline`` called with ``max_sequence_length=0``, at a quarter of the tokens.
    """

    def encode_prompt(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        """See ``StableDiffusion3Pipeline``."""
        return super().encode_prompt(*args, **{**kwargs, "max_sequence_length": 0})


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of CLIP's text model for this tokenizer."""
    return CLIPTextModel(_text_config(tokenizer, TEXT))


def projected_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The same, narrower and with a projection of the whole caption, as Stable Diffusion 3 takes two of."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, JOINED))


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def denoiser(width: int = 80, blocks: str = "DC") -> UNet2DConditionModel:
    """Stable Diffusion's UNet with levels of 8 x 8 and 4 x 4; C: with cross-attention to the caption, D: without."""
    down = {"C": "CrossAttnDownBlock2D", "D": "DownBlock2D"}
    up = {"C": "CrossAttnUpBlock2D", "D": "UpBlock2D"}
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(width,) * len(blocks),
        layers_per_block=1,
        down_block_types=tuple(down[block] for block in blocks),
        up_block_types=tuple(up[block] for block in reversed(blocks)),
        cross_attention_dim=TEXT,
        attention_head_dim=4,  # the number of heads, in spite of its name
        norm_num_groups=8,
    )


def transformer(width: int, layers: int, patch: int = 2) -> SD3Transformer2DModel:
    """Stable Diffusion 3's transformer on patches of the latents; the width is a multiple of ``HEAD``."""
    return SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=patch,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=layers,
        attention_head_dim=HEAD,
        num_attention_heads=width // HEAD,
        joint_attention_dim=2 * JOINED,
        caption_projection_dim=width,
        pooled_projection_dim=2 * JOINED,
        pos_embed_max_size=SIDE // patch,
        qk_norm="rms_norm",
    )


def flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow matching's ODE sampler, its times not shifted."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def scheduler(prediction: str) -> DDIMScheduler:
    """Stable Diffusion 1.5's own schedule and grid, as an ODE sampler."""
    return DDIMScheduler(**{**STABLE_DIFFUSION, "clip_sample": False, "prediction_type": prediction})


def pipeline(
    vae: AutoencoderTiny, text: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel, prediction: str
) -> StableDiffusionPipeline:
    """Stable Diffusion's pipeline made of these parts, in eval mode."""
    made = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def save_pipeline(made: DiffusionPipeline, folder: Path = WEIGHTS, whole: bool = True) -> None:
    """Write the pipeline in half precision, without its ``SHARED`` parts if not ``whole``; it is left as it is."""
    halves = {
        name: copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
        for name, part in made.components.items()
    }
    if isinstance(made, WithoutT5):
        StableDiffusion3Pipeline(**halves).save_pretrained(folder)
    else:
        StableDiffusionPipeline(**halves, requires_safety_checker=False).save_pretrained(folder)
    for name in () if whole else SHARED:
        shutil.rmtree(folder / name, ignore_errors=True)


def load_pipeline(folder: Path = WEIGHTS) -> DiffusionPipeline:
    """An embedded model in fp32: ``load_pipeline()("a red circle").images[0]``. Nothing is downloaded.

    ``SHARED`` parts that the folder lacks are those of ``WEIGHTS``.

    Raises:
        FileNotFoundError: there is no model in the folder.
    """
    index = Path(folder) / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"no model in {folder}; python -m empirical.shapes.pretrain makes one")
    parts = json.loads(index.read_text(encoding="utf-8"))
    absent = {name: None for name, kind in parts.items() if kind == [None, None]}  # diffusers asks for these again
    with _quiet():
        kinds = {"vae": AutoencoderTiny, "tokenizer": CLIPTokenizer}
        lacking = {
            name: kinds[copy_of].from_pretrained(WEIGHTS / copy_of)
            for name, copy_of in SHARED.items()
            if name in parts and not (Path(folder) / name).is_dir()
        }
        kind = WithoutT5 if parts["_class_name"] == StableDiffusion3Pipeline.__name__ else StableDiffusionPipeline
        made = kind.from_pretrained(folder, local_files_only=True, **absent, **lacking).to(torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and without diffusers' surprise at AutoencoderTiny, which its class of pipeline takes as well."""
    before = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    transformers_bars = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before[0])
        if before[1]:
            diffusers_logging.enable_progress_bar()
        if transformers_bars:
            transformers_logging.enable_progress_bar()
