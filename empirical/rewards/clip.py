"""CLIP's two encoders, and the rewards that are a cosine between their embeddings.

References: CLIPScore (Hessel et al., 2021), https://arxiv.org/abs/2104.08718; Pick-a-Pic (PickScore; Kirstain et al.,
2023), https://arxiv.org/abs/2305.01569; Human Preference Score v2 (Wu et al., 2023), https://arxiv.org/abs/2306.09341.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, CLIPModel
from transformers.image_processing_utils import BaseImageProcessor

from empirical.rewards.checkpoint import has_tokenizer, load_tokenizer, local, pretrained, weights
from empirical.rewards.open_clip import to_transformers
from empirical.rewards.preprocess import Preprocess

CLIP_L = "openai/clip-vit-large-patch14"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class Clip(nn.Module):
    """A CLIP model with its tokenizer and preprocessing; it follows the images from device to device.

    Args:
        model: in any dtype; embeddings are normalised in float32.
        tokenizer: of the model, as transformers makes it.
        preprocess: of the model's images.
        device: where to compute; where the images are if None.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: Any, preprocess: Preprocess, device: str | torch.device | None = None
    ) -> None:
        """Evaluation mode, no gradients."""
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.preprocess, self.device = tokenizer, preprocess, device
        self.context = int(model.text_model.embeddings.position_embedding.num_embeddings)

    def images(self, images: Tensor) -> Tensor:
        """Unit embeddings of images (batch, 3, H, W) in [0, 1]: float32 (batch, width)."""
        self.to(self.device or images.device)
        pixels = self.preprocess(images.to(self.model.device)).to(self.model.dtype)
        return _unit(self.model.visual_projection(self.model.vision_model(pixels).pooler_output))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings of prompts, cut at the model's context length: float32 (batch, width).

        Each distinct prompt is encoded once, padded to the full context: neither its neighbours nor their number
        changes its embedding.
        """
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        tokens = self.tokenizer(
            list(place), padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self.model.device)
        pooled = self.model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return _unit(self.model.text_projection(pooled))[[place[prompt] for prompt in prompts]]


@dataclass(frozen=True)
class Similarity:
    """``scale * cos(image, prompt)`` of CLIP's embeddings.

    Args:
        name: of the reward.
        clip: the encoders.
        scale: what multiplies the cosine.
    """

    name: str
    clip: Clip
    scale: float

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32, shape (batch,)."""
        image = self.clip.images(images)  # first: it moves the model to the images' device
        return self.scale * (image * self.clip.texts(prompts)).sum(-1)


def clip_score(
    model: str = CLIP_L,
    processor: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Similarity:
    """CLIPScore: 100 cos, not cut at 0 (torchmetrics gives max(100 cos, 0), the paper 2.5 max(cos, 0)).

    Args:
        model: folder or hub id of a CLIP model.
        processor: folder or hub id of its tokenizer and image processor; the model's own if None.
        device: where to compute; where the images are if None.
        dtype: of the network.

    Raises:
        OSError: model or processor cannot be loaded.
    """
    return Similarity("clip_score", load(model, processor, device, dtype), 100.0)


def pick_score(
    model: str = "yuvalkirstain/PickScore_v1",
    processor: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Similarity:
    """PickScore: the logit exp(logit_scale) cos of a CLIP-H that was trained on human choices; some codes divide by 26.

    Takes and raises what ``clip_score`` does; LAION's CLIP-H is the processor of a model without a tokenizer.
    """
    if processor is None and not has_tokenizer(model):
        processor = CLIP_H
    clip = load(model, processor, device, dtype)
    return Similarity("pick_score", clip, float(clip.model.logit_scale.float().exp()))


def hps_v2(
    model: str = "xswu/HPSv2/HPS_v2_compressed.pt",
    base: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Similarity:
    """HPSv2: the cosine, about 0.2 to 0.35, of a CLIP-H that was trained on human rankings; v2.1 is another file.

    Args:
        model: the authors' checkpoint, which open_clip wrote, as a path or owner/name/file on the hub; or a folder with
            the same model as transformers writes it.
        base: folder or hub id of the CLIP with the same architecture (configuration, tokenizer and image processor are
            read, no weights); LAION's CLIP-H if None, for a folder the model's own.
        device: where to compute; where the images are if None.
        dtype: of the network.

    Raises:
        OSError: the checkpoint or the base cannot be loaded.
        ValueError: the checkpoint is no open_clip model of the base's architecture.
    """
    here = local(model)
    if here is not None and here.is_dir():
        return Similarity("hps_v2", load(model, base, device, dtype), 1.0)
    base = base or CLIP_H
    state = weights(model, "HPSv2 weights")
    network = CLIPModel(pretrained(AutoConfig.from_pretrained, base, "CLIP configuration"))
    network.load_state_dict(to_transformers(state, network.state_dict()))
    return Similarity("hps_v2", Clip(network.to(dtype=dtype), *_processor(base, network), device), 1.0)


def load(
    model: str,
    processor: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Clip:
    """The encoders by path or id; see ``clip_score``."""
    network = pretrained(CLIPModel.from_pretrained, model, "CLIP model")
    return Clip(network.to(dtype=dtype), *_processor(processor or model, network), device)


def _processor(source: str, model: CLIPModel) -> tuple[Any, Preprocess]:
    """Tokenizer and preprocessing; CLIP's usual preprocessing where the folder says nothing about images."""
    tokenizer = load_tokenizer(source, "CLIP tokenizer")
    try:
        config, _ = BaseImageProcessor.get_image_processor_dict(str(local(source) or source))
    except OSError:
        return tokenizer, Preprocess.square(model.vision_model.embeddings.image_size)
    return tokenizer, Preprocess.from_dict(config)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
