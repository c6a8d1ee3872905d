"""The encoders of open_clip and of BLIP as their papers describe them, in plain torch, with the authors' tensor names.

An independent route to what ``empirical.rewards`` computes through transformers: the same tensors, other code.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    """Pre-norm attention and GELU layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        layers = [("c_fc", nn.Linear(width, 2 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(2 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    """Two blocks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([_Block(width, heads) for _ in range(2)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class _OpenVision(nn.Module):
    """open_clip's vision tower: class token, positions, norm, blocks, norm of the class token, projection."""

    def __init__(self, size: int, patch: int, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Transformer(width, heads)
        self.proj = nn.Parameter(torch.randn(width, out) / width**0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """open_clip's CLIP; the text's embedding is taken at the end token, the largest id."""

    def __init__(self, vocabulary: int, context: int, size: int, patch: int, width: int, heads: int, out: int) -> None:
        """Two layers a tower."""
        super().__init__()
        self.visual = _OpenVision(size, patch, width, heads, out)
        self.transformer = _Transformer(width, heads)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out) / width**0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def text(self, ids: Tensor) -> Tensor:
        """The embedding of padded token ids (n, length): (n, out)."""
        length = ids.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding[:length], mask))
        return x[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection


def _attention(x: Tensor, y: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear, heads: int, seen: Tensor) -> Tensor:
    """Softmax attention of x (n, a, width) to y (n, b, .), where ``seen`` (n, b); written out."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q(x), k(y), v(y)))
    weight = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
    return (weight @ value).transpose(1, 2).flatten(2)


class _VitBlock(nn.Module):
    """timm's block: q, k and v in one layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attn.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class _Vit(nn.Module):
    """BLIP's image encoder: every token, normalised."""

    def __init__(self, size: int, patch: int, width: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(_VitBlock(width, heads) for _ in range(2)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed.proj(pixels).flatten(2).mT
        return self.norm(
            self.blocks(torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1) + self.pos_embed)
        )


def _self(width: int, source: int) -> nn.ModuleDict:
    inner = {"query": nn.Linear(width, width), "key": nn.Linear(source, width), "value": nn.Linear(source, width)}
    return nn.ModuleDict({"self": nn.ModuleDict(inner), "output": _output(width, width)})


def _output(inner: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})


class _BertLayer(nn.Module):
    """BERT's layer, which also attends to an image: post-norm."""

    def __init__(self, width: int, heads: int, seen_width: int) -> None:
        super().__init__()
        self.attention, self.crossattention = _self(width, width), _self(width, seen_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        self.output = _output(2 * width, width)
        self.heads = heads

    def forward(self, x: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        everything = torch.ones(image.shape[:2], dtype=torch.bool)
        for part, y, seen in ((self.attention, x, mask), (self.crossattention, image, everything)):
            one = part["self"]
            mixed = _attention(x, y, one.query, one.key, one.value, self.heads, seen)
            x = part.output.LayerNorm(part.output.dense(mixed) + x)
        return self.output.LayerNorm(self.output.dense(F.gelu(self.intermediate.dense(x))) + x)


class _Bert(nn.Module):
    """BLIP's text encoder over an image."""

    def __init__(self, vocabulary: int, width: int, heads: int, seen_width: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, width),
                "position_embeddings": nn.Embedding(64, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([_BertLayer(width, heads, seen_width) for _ in range(2)])})

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        e = self.embeddings
        x = e.LayerNorm(e.word_embeddings(ids) + e.position_embeddings.weight[: ids.shape[1]])
        for layer in self.encoder.layer:
            x = layer(x, mask.bool(), image)
        return x


class Blip(nn.Module):
    """ImageReward's network but for its head, with tensors named blip.visual_encoder... and blip.text_encoder..."""

    def __init__(self, vocabulary: int, size: int, patch: int, vision: int, text: int) -> None:
        """Two layers a tower, heads of width 64."""
        super().__init__()
        parts = {
            "visual_encoder": _Vit(size, patch, vision, vision // 64),
            "text_encoder": _Bert(vocabulary, text, text // 64, vision),
            "vision_proj": nn.Linear(vision, 8),  # in the authors' file, not used
        }
        self.blip = nn.ModuleDict(parts)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The first token, (n, text)."""
        return self.blip.text_encoder(ids, mask, self.blip.visual_encoder(pixels))[:, 0]
