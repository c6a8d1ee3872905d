"""What is trained: low-rank adapters of the denoiser's attention, or all of its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from empirical.meter.pipelines import denoiser, kind_of
from gapbound._validate import count

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # diffusers' names of attention's projections


def add_lora(pipeline: DiffusionPipeline, rank: int, seed: int) -> None:
    """Put adapters of this rank on the denoiser's attention, float32, everything else frozen; it computes as before.

    ``alpha`` equals the rank, so that the saved adapters need no scale.

    Raises:
        ValueError: rank is below 1.
    """
    network = frozen(pipeline)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapt(network, rank)


def adapt(network: nn.Module, rank: int) -> None:
    """Put the adapters on a frozen denoiser.

    Raises:
        ValueError: rank is below 1.
    """
    network.add_adapter(
        LoraConfig(r=count("rank", rank), lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights="gaussian")
    )
    for parameter in trainable(network).values():
        parameter.data = parameter.data.float()
    network.eval()  # the adapters came in training mode


def unfreeze(pipeline: DiffusionPipeline) -> nn.Module:
    """Make every weight of the denoiser trainable; returns the frozen copy that stays the reference.

    Raises:
        ValueError: weights below float32, which cannot hold small updates.
    """
    network = frozen(pipeline)
    if network.dtype != torch.float32:
        raise ValueError(f"all weights are trained in float32, got {network.dtype}; load float32, or train a LoRA")
    reference = copy.deepcopy(network)
    network.requires_grad_(True)
    return reference


def frozen(pipeline: DiffusionPipeline) -> nn.Module:
    """The denoiser, after freezing all that the pipeline holds."""
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False)
    return denoiser(pipeline)


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name, in the order of the network."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def restore(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Put saved values into the parameters.

    Raises:
        ValueError: other names or shapes.
    """
    if {k: tuple(v.shape) for k, v in parameters.items()} != {k: tuple(v.shape) for k, v in values.items()}:
        raise ValueError("the checkpoint's weights are of another network or another rank; name another folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def save(pipeline: DiffusionPipeline, folder: Path, lora: bool) -> None:
    """Write adapters that ``pipe.load_lora_weights(folder)`` takes, or the whole denoiser as diffusers saves it."""
    network, part = denoiser(pipeline), kind_of(pipeline).network
    if not lora:
        network.save_pretrained(folder / part)
        return
    layers: Any = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    type(pipeline).save_lora_weights(folder, **{f"{part}_lora_layers": layers})
