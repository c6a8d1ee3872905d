"""ImageReward: BLIP reads the prompt while it looks at the image; linear layers on the first token; standardised.

The authors' checkpoint is read into transformers' BLIP classes: the vision tensors are renamed, the text tensors have
the same names.

Reference: ImageReward (Xu et al., 2023), https://arxiv.org/abs/2304.05977.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from empirical.rewards.checkpoint import load_tokenizer, weights
from empirical.rewards.head import linear_stack
from empirical.rewards.preprocess import Preprocess

Network = TypeVar("Network", bound=nn.Module)
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the authors' training rewards
TOKENS = 35
HEAD_WIDTH = 64  # of one attention head, in ViT and BERT of every size
VISION = {
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.": "encoder.layers.",
    r"\.norm([12])\.": r".layer_norm\1.",
    r"\.attn\.proj\.": ".self_attn.projection.",
    r"\.attn\.qkv\.": ".self_attn.qkv.",
}


@dataclass(frozen=True)
class ImageReward:
    """About -2 to 2, standardised over the authors' data.

    Args:
        vision: BLIP's image encoder.
        text: BLIP's text encoder with cross-attention.
        head: from the first token to one number, float32.
        tokenizer: BERT's, uncased.
        preprocess: of the images.
        device: where to compute; where the images are if None.
    """

    vision: nn.Module
    text: nn.Module
    head: nn.Module
    tokenizer: Any
    preprocess: Preprocess
    device: str | torch.device | None = None
    name: str = field(default="image_reward", init=False)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32, shape (batch,); prompts are cut at 35 tokens."""
        device = self.device or images.device
        for part in (self.vision, self.text, self.head):
            part.to(device)
        pixels = self.preprocess(images.to(device)).to(next(self.vision.parameters()).dtype)
        seen = self.vision(pixels).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(device)
        read = self.text(
            tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
            is_decoder=False,  # every token sees every other
        ).last_hidden_state
        return (self.head(read[:, 0].float()).squeeze(-1) - MEAN) / STD


def image_reward(
    model: str = "THUDM/ImageReward/ImageReward.pt",
    tokenizer: str = "google-bert/bert-base-uncased",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> ImageReward:
    """ImageReward by path or id.

    Args:
        model: the authors' checkpoint: a path, or owner/name/file on the hub.
        tokenizer: folder or hub id of BERT's uncased tokenizer.
        device: where to compute; where the images are if None.
        dtype: of the encoders; the head is float32.

    Raises:
        OSError: the checkpoint or the tokenizer cannot be loaded.
        ValueError: the checkpoint is not ImageReward's.
    """
    state = weights(model, "ImageReward weights")
    try:
        vision, text = _vision(_below(state, "blip.visual_encoder.")), _text(_below(state, "blip.text_encoder."))
    except KeyError as error:
        raise ValueError(f"{model} does not hold ImageReward's weights: {error} is missing or unknown") from None
    return ImageReward(
        vision.to(dtype),
        text.to(dtype),
        linear_stack(state, "mlp.layers.", text.config.hidden_size),
        load_tokenizer(tokenizer, "BERT tokenizer"),
        Preprocess.square(vision.config.image_size),
        device,
    )


def _vision(state: Mapping[str, Tensor]) -> BlipVisionModel:
    patches, width = state["pos_embed"].shape[1] - 1, state["pos_embed"].shape[2]
    patch = state["patch_embed.proj.weight"].shape[-1]
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_depth(state, r"blocks\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    renamed = {}
    for name, value in state.items():
        for old, new in VISION.items():
            name = re.sub(old, new, name)
        renamed[name] = value
    return _filled(BlipVisionModel(config), renamed)


def _text(state: Mapping[str, Tensor]) -> BlipTextModel:
    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_depth(state, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
    )
    kept = {name: value for name, value in state.items() if name != "embeddings.position_ids"}
    return _filled(BlipTextModel(config, add_pooling_layer=False), kept)


def _filled(model: Network, state: Mapping[str, Tensor]) -> Network:
    if at_fault := sorted(model.state_dict().keys() ^ state.keys()):
        raise KeyError(at_fault[0])
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _depth(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in state if (match := re.match(pattern, name)))
