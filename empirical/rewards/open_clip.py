"""The state of an open_clip model under the names that transformers' CLIPModel gives to the same tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

RENAMED = {
    r"visual\.class_embedding": "vision_model.embeddings.class_embedding",
    r"visual\.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    r"visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"visual\.ln_pre\.": "vision_model.pre_layrnorm.",  # sic
    r"visual\.ln_post\.": "vision_model.post_layernorm.",
    r"visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"transformer\.resblocks\.": "text_model.encoder.layers.",
    r"token_embedding\.": "text_model.embeddings.token_embedding.",
    r"positional_embedding": "text_model.embeddings.position_embedding.weight",
    r"ln_final\.": "text_model.final_layer_norm.",
}
WITHIN = {".ln_1.": ".layer_norm1.", ".ln_2.": ".layer_norm2.", ".c_fc.": ".fc1.", ".c_proj.": ".fc2."}
WITHIN |= {".attn.out_proj.": ".self_attn.out_proj."}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
QKV = re.compile(r"\.attn\.in_proj_(weight|bias)$")


def to_transformers(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an open_clip model, renamed, transposed, and with q, k and v apart.

    Args:
        state: name -> tensor, as open_clip saves it ("module." in front is dropped).
        expected: name -> tensor of a CLIPModel of the same architecture, for names and shapes.

    Raises:
        ValueError: a name is missing or left over, or a shape differs; the first ones are named.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name in TRANSPOSED:
            found[TRANSPOSED[name]] = value.T
            continue
        new = _renamed(name)
        if (fused := QKV.search(new)) is None:
            found[new] = value
            continue
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            found[f"{new[: fused.start()]}.self_attn.{letter}_proj.{fused[1]}"] = part
    missing, left = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or left:
        raise ValueError(
            f"these are no open_clip weights of that architecture: {len(missing)} tensors are missing {missing[:2]}, "
            f"{len(left)} are unknown {left[:2]}"
        )
    for name, value in found.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} in the checkpoint, {tuple(expected[name].shape)} in the base; "
                "name the base it was trained from"
            )
    return found


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        if re.match(old, name):
            name = re.sub("^" + old, new, name)
            break
    for old, new in WITHIN.items():
        name = name.replace(old, new)
    return name
