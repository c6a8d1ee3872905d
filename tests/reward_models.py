"""Tiny randomly initialised reward models in the formats of the real ones, and images to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

SIZE, PATCH, WIDTH, CONTEXT, PROJECTION = 32, 8, 32, 12, 24
PROMPTS = ["a red circle", "two blue squares", "a cat left of a dog", "a red circle"]
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
BYTES = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]  # of the byte-level alphabet


def images(count: int = 4, height: int = SIZE, width: int = SIZE, seed: int = 0) -> Tensor:
    """Blobs with grain, saturated in places: shape (count, 3, height, width) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (0.5 + 0.4 * smooth + 0.1 * torch.randn(count, 3, height, width, generator=generator)).clamp(0, 1)


def clip_folder(folder: Path, seed: int = 0) -> Path:
    """A CLIP model with tokenizer and image processor, as transformers saves them."""
    tokenizer = clip_tokenizer()
    torch.manual_seed(seed)
    model = CLIPModel(clip_config(tokenizer))
    randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_std=[0.3, 0.25, 0.2]
    ).save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    """Bytes without merges: every letter is a token."""
    letters = [*BYTES, *(letter + "</w>" for letter in BYTES), BOS, EOS]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(letters)}, merges=[])


def clip_config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    """Two heads and two layers a tower, of the exact GELU that open_clip's ViT-H has."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    }
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "pad_token_id": 0}
    text = CLIPTextConfig(**sizes, **special, **tower)
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=PATCH, **tower)
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION)


def randomise(model: nn.Module, seed: int) -> None:
    """Every parameter away from its initial value, so that no tensor can be left out or exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))


def linear_layers(widths: list[int], places: list[int], prefix: str = "layers.", seed: int = 0) -> dict[str, Tensor]:
    """A head's tensors; ``places`` are the layers' numbers, with gaps where dropout was."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for place, before, after in zip(places, widths[:-1], widths[1:], strict=True):
        state[f"{prefix}{place}.weight"] = torch.randn(after, before, generator=generator) / before**0.5
        state[f"{prefix}{place}.bias"] = torch.randn(after, generator=generator)
    return state


def bert_folder(folder: Path) -> Path:
    """An uncased WordPiece tokenizer of letters and a few words, with BERT's special tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "circle", "two"]
    words += [*letters, *("##" + letter for letter in letters)]
    inner = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    inner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{kind}_token": token for kind, token in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return folder


def answer_no(monkeypatch: Any) -> None:
    """Let meta tensors, which hold no values, be asked: transformers asks whether a mask is full.

    A network on the device "meta" then runs, and raises where a tensor was left on the CPU.
    """
    ask = Tensor.__bool__
    monkeypatch.setattr(Tensor, "__bool__", lambda tensor: tensor.device.type != "meta" and ask(tensor))


def assert_scores(value: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """float32 scores that equal the expected ones to ``tolerance`` of their spread, which is not 0."""
    assert value.dtype == torch.float32
    assert value.shape == expected.shape
    assert float(expected.std()) > 0
    torch.testing.assert_close(value, expected.float(), rtol=0, atol=tolerance * float(expected.std()))
