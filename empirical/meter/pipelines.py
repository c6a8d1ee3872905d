"""Which pipelines the meter knows, how they are loaded and checked, and what differs between their classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import nn

from empirical.models import BUNDLED

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # by their names


@dataclass(frozen=True)
class Kind:
    """What the meter has to know of a pipeline class.

    Attributes:
        network: the attribute that holds the denoiser.
        packed: latent channels per channel of the denoiser's input, inverted: 4 where 2x2 patches are channels.
        loading: keywords of ``from_pretrained`` that leave out what would change images after sampling.
    """

    network: str
    packed: int
    loading: Mapping[str, Any]


KINDS: Mapping[type[DiffusionPipeline], Kind] = {
    StableDiffusionPipeline: Kind("unet", 1, {"safety_checker": None, "requires_safety_checker": False}),
    StableDiffusionXLPipeline: Kind("unet", 1, {"add_watermarker": False}),
    StableDiffusion3Pipeline: Kind("transformer", 1, {}),
    FluxPipeline: Kind("transformer", 4, {}),
}
NAMES = tuple(known.__name__ for known in KINDS)


def load(source: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """The pipeline in a folder or of an id on the hub, or one that this repository brings (``BUNDLED``).

    A safety checker and a watermark are left out: they replace or alter images, and rewards would measure them.

    Raises:
        ValueError: no such folder or id, or a pipeline of a class that the meter does not know.
    """
    if source in BUNDLED:
        from empirical.shapes.model import FOLDERS, load_pipeline  # only who asks for it needs it

        try:
            made = load_pipeline(FOLDERS[source]).to(device)
            return checked(made if dtype == torch.float32 else made.to(dtype))
        except FileNotFoundError as error:
            raise ValueError(f"the model {source} is missing: {error}") from error
    is_id = source.count("/") == 1 and not source.startswith((".", "/", "~"))
    if not Path(source).exists() and not is_id:
        raise ValueError(
            f"no such model: {source} is no folder; give a diffusers folder, a hub id, or one of {BUNDLED}"
        )
    try:
        index = DiffusionPipeline.load_config(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no such model: {source} holds no diffusers pipeline (model_index.json), here or on the hub: "
            f"{str(error).splitlines()[0]}"
        ) from error
    found = next((known for known in KINDS if known.__name__ == index["_class_name"]), None)
    if found is None:
        raise ValueError(_unknown(index["_class_name"]))
    absent = {part: None for part, value in index.items() if value == [None, None]}  # diffusers asks for these again
    return checked(found.from_pretrained(source, dtype=dtype, **{**absent, **KINDS[found].loading}).to(device))


def kind_of(pipeline: Any) -> Kind:
    """What the meter knows of this pipeline's class.

    Raises:
        ValueError: it knows nothing.
    """
    for known, kind in KINDS.items():
        if isinstance(pipeline, known):
            return kind
    raise ValueError(_unknown(type(pipeline).__name__))


def checked(pipeline: Any) -> DiffusionPipeline:
    """A pipeline that can be measured.

    Raises:
        ValueError: an unknown class; a network in training mode, whose dropout would be measured; a safety checker or
            watermark, which would be.
    """
    kind_of(pipeline)
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and component.training:
            raise ValueError(f"{name} is in training mode, with dropout; call pipeline.{name}.eval() first")
    if getattr(pipeline, "safety_checker", None) is not None:
        raise ValueError(
            "the safety checker replaces images, so its replacements would be measured; set pipeline.safety_checker = "
            "None"
        )
    if getattr(pipeline, "watermark", None) is not None:
        raise ValueError("the watermark alters images before they are scored; set pipeline.watermark = None")
    return pipeline


def denoiser(pipeline: DiffusionPipeline) -> nn.Module:
    """The UNet or transformer."""
    return getattr(pipeline, kind_of(pipeline).network)


def networks(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """Every network that a run calls: text encoders, denoiser, decoder."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return [part.decoder if name == "vae" else part for name, part in modules.items()]


def guidance_arguments(pipeline: DiffusionPipeline, guidance: float, batch: int) -> dict[str, Any]:
    """Keywords that guide this class by ``guidance``, 1 for none.

    Flux takes it as an input of its network where it was distilled to (FLUX.1-dev); elsewhere it is classifier-free
    guidance with an empty negative prompt.
    """
    if isinstance(pipeline, FluxPipeline) and not denoiser(pipeline).config.guidance_embeds:
        return {"true_cfg_scale": guidance, "negative_prompt": [""] * batch}
    return {"guidance_scale": guidance}


def image_size(pipeline: DiffusionPipeline, size: int | None) -> tuple[int, int]:
    """Height and width of the images: ``size`` squared, or what the pipeline was trained for."""
    if size is not None:
        return size, size
    trained = getattr(pipeline, "default_sample_size", None) or denoiser(pipeline).config.sample_size
    height, width = (trained, trained) if isinstance(trained, int) else trained
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def latent_shape(pipeline: DiffusionPipeline, size: int | None) -> tuple[int, ...]:
    """Shape of one x_T as this class takes it: (channels, height, width), or (patches, channels) where packed."""
    channels = denoiser(pipeline).config.in_channels // kind_of(pipeline).packed
    found = pipeline.prepare_latents(
        1, channels, *image_size(pipeline, size), torch.float32, torch.device("cpu"), torch.Generator()
    )
    return tuple((found[0] if isinstance(found, tuple) else found).shape[1:])


def fingerprint(pipeline: DiffusionPipeline) -> str:
    """SHA-256 over the names, shapes and bytes of all weights of the pipeline, adapters included."""
    digest = hashlib.sha256()
    for part, component in sorted(pipeline.components.items(), key=lambda item: item[0]):
        if isinstance(component, nn.Module):
            for name, tensor in sorted(component.state_dict().items()):
                digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def without_adapters(pipeline: DiffusionPipeline) -> Iterator[None]:
    """The pipeline as it was before fine-tuning: its LoRA switched off, and on again at the end.

    Raises:
        ValueError: it has no LoRA.
    """
    adapted = [part for part in networks(pipeline) if getattr(part, "peft_config", None)]
    if not adapted:
        raise ValueError("the pipeline has no LoRA to switch off; name the reference model, or leave it out")
    for part in adapted:
        part.disable_adapters()
    try:
        yield
    finally:
        for part in adapted:
            part.enable_adapters()


def _unknown(name: str) -> str:
    return f"the meter does not know the pipeline class {name}; it knows {', '.join(NAMES)}"
