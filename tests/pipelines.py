"""Tiny randomly initialised pipelines of the real classes, offline: SD, SDXL, SD3 and Flux, images of 16x16 pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from reward_models import clip_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from gapbound.schedule import STABLE_DIFFUSION

WIDTH, CONTEXT, SIZE = 16, 12, 8  # of the text encoders; of the latents, two pixels each


def stable_diffusion(seed: int = 0, **scheduler: Any) -> StableDiffusionPipeline:
    """StableDiffusionPipeline with Stable Diffusion 1.5's own schedule, except what ``scheduler`` says."""
    torch.manual_seed(seed)
    return _ready(
        StableDiffusionPipeline(
            vae=_autoencoder(4, scaling_factor=0.5),
            text_encoder=CLIPTextModel(_clip_config()),
            tokenizer=_clip_tokenizer(),
            unet=_unet(WIDTH),
            scheduler=DDIMScheduler(**{**STABLE_DIFFUSION, "clip_sample": False, **scheduler}),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def stable_diffusion_xl(seed: int = 0) -> StableDiffusionXLPipeline:
    """StableDiffusionXLPipeline: two text encoders, sizes as an extra condition."""
    torch.manual_seed(seed)
    condition = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return _ready(
        StableDiffusionXLPipeline(
            vae=_autoencoder(4, scaling_factor=0.5),
            text_encoder=CLIPTextModel(_clip_config()),
            text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
            tokenizer=_clip_tokenizer(),
            tokenizer_2=_clip_tokenizer(),
            unet=_unet(2 * WIDTH, projection_class_embeddings_input_dim=6 * 8 + WIDTH, **condition),
            scheduler=DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False),
            add_watermarker=False,
        )
    )


def stable_diffusion_3(seed: int = 0) -> StableDiffusion3Pipeline:
    """StableDiffusion3Pipeline without its T5."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
    )  # fmt: skip
    return _ready(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_autoencoder(4, scaling_factor=0.5, shift_factor=0.1),
            text_encoder=CLIPTextModelWithProjection(_clip_config()),
            tokenizer=_clip_tokenizer(),
            text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
            tokenizer_2=_clip_tokenizer(),
            text_encoder_3=None,
            tokenizer_3=None,
        )
    )


def flux(seed: int = 0, guidance_embeds: bool = True) -> FluxPipeline:
    """FluxPipeline with dynamic shifting; distilled guidance, as FLUX.1-dev has it, unless told otherwise."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_autoencoder(4, scaling_factor=0.5, shift_factor=0.1),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=T5EncoderModel(_t5_config()),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.default_sample_size = SIZE
    return _ready(pipeline)


PIPELINES: dict[str, Callable[..., DiffusionPipeline]] = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
}


def _ready(pipeline: DiffusionPipeline) -> Any:
    """In evaluation mode, silent; the output layers away from their zero or tiny initial values."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
            for parameter in component.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return pipeline


def _unet(cross_attention_dim: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=8, cross_attention_dim=cross_attention_dim,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    )  # fmt: skip


def _autoencoder(channels: int, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=channels, block_out_channels=(4, 8), layers_per_block=1,
        norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=2 * SIZE, **more,
    )  # fmt: skip


def _clip_tokenizer() -> CLIPTokenizer:
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def _clip_config() -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=CONTEXT, projection_dim=WIDTH, pad_token_id=0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


def _t5_tokenizer() -> T5Tokenizer:
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters += [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=letters, extra_ids=0)
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def _t5_config() -> T5Config:
    return T5Config(
        vocab_size=32, d_model=WIDTH, d_kv=8, d_ff=2 * WIDTH, num_layers=1, num_heads=2, decoder_start_token_id=0
    )


class ExactNoise(torch.nn.Module):
    """The noise prediction of latents that are N(mean, variance) in every entry: a UNet without error."""

    def __init__(self, pipeline: StableDiffusionPipeline, mean: float, variance: float) -> None:
        """Knows the schedule of ``pipeline``, and passes for its UNet."""
        super().__init__()
        self.config, self.dtype, self.device = pipeline.unet.config, torch.float32, torch.device("cpu")
        self.register_buffer("alphas", pipeline.scheduler.alphas_cumprod.double())
        self.law = mean, variance

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, **unused: Any) -> tuple[torch.Tensor]:
        """eps = -sigma score, at x = signal z."""
        mean, variance = self.law
        alpha = self.alphas[int(timestep)]
        signal, sigma = alpha.sqrt(), ((1 - alpha) / alpha).sqrt()
        return ((sigma * (x.double() / signal - mean) / (variance + sigma**2)).float(),)


def exact_gaussian(mean: float, variance: float) -> StableDiffusionPipeline:
    """StableDiffusionPipeline whose latents have a law that is known exactly at any number of steps."""
    pipeline = stable_diffusion()
    pipeline.unet = ExactNoise(pipeline, mean, variance).eval()
    return pipeline


def redness(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """A reward without weights: the mean of the red channel."""
    return images[:, 0].mean((1, 2))
