"""What a pipeline tells its denoiser besides latents and time, taken from the pipeline's own call.

The pipeline is run up to its first call of the denoiser and stopped there: text encoders, classifier-free doubling,
sizes and the scheduler's grid are then what the class itself makes of them, and no class is written twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor

from empirical.meter.pipelines import denoiser, guidance_arguments, image_size, latent_shape

SAMPLES = ("sample", "hidden_states")  # what denoisers call their latents
PLACES = ("img_ids", "txt_ids")  # inputs that all samples share


@dataclass(frozen=True)
class Condition:
    """Inputs of the denoiser for a batch of prompts, the same at every step.

    Attributes:
        prompts: for messages.
        inputs: keywords besides latents and time.
        sample: the keyword of the latents.
        divisor: the scheduler's timestep over the denoiser's: 1, or 1000 for Flux.
        guidance: weight of the classifier-free guidance; 1 where the denoiser is asked once.
        doubled: whether the batch is doubled, unconditional half first.
    """

    prompts: tuple[str, ...]
    inputs: Mapping[str, Any]
    sample: str
    divisor: int
    guidance: float
    doubled: bool

    def of(self, samples: Sequence[int]) -> Condition:
        """That of these of its samples, in this order; one may occur again."""
        rows = torch.tensor([*samples, *(len(self.prompts) + k for k in samples)][: (1 + self.doubled) * len(samples)])
        inputs = {name: _picked(name, value, rows) for name, value in self.inputs.items()}
        return replace(self, prompts=tuple(self.prompts[k] for k in samples), inputs=inputs)


def _picked(name: str, value: Any, rows: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {key: _picked(key, one, rows) for key, one in value.items()}
    if not isinstance(value, Tensor) or name in PLACES:
        return value
    return value.index_select(0, rows.to(value.device))


class _Captured(Exception):
    """The denoiser was about to be called."""


def prepare(
    pipeline: DiffusionPipeline,
    scheduler: Any,
    prompts: Sequence[str],
    steps: int,
    guidance: float,
    size: int | None = None,
) -> Condition:
    """The condition of these prompts; ``scheduler`` gets the grid of ``steps`` steps as the pipeline sets it.

    Raises:
        ValueError: classifier-free guidance of a Flux model, which asks its network twice.
    """
    network = denoiser(pipeline)
    if isinstance(pipeline, FluxPipeline) and not network.config.guidance_embeds and guidance > 1:
        raise ValueError(
            f"guidance {guidance:g} asks this Flux model twice a step, which is not trained through; use guidance 1"
        )
    given: dict[str, Any] = {}

    def capture(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.update(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments)
        raise _Captured

    height, width = image_size(pipeline, size)
    latents = torch.zeros(len(prompts), *latent_shape(pipeline, size), dtype=network.dtype)
    before, pipeline.scheduler = pipeline.scheduler, scheduler
    handle = network.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        pipeline(
            list(prompts), num_inference_steps=steps, latents=latents, height=height, width=width,
            output_type="latent", **guidance_arguments(pipeline, guidance, len(prompts)),
        )  # fmt: skip
    except _Captured:
        pass
    finally:
        handle.remove()
        pipeline.scheduler = before
    return _read(given, scheduler, tuple(prompts), guidance)


def _read(given: dict[str, Any], scheduler: Any, prompts: tuple[str, ...], guidance: float) -> Condition:
    given.pop("self")
    sample = next(name for name in SAMPLES if name in given)
    doubled = len(given.pop(sample)) == 2 * len(prompts)
    first: Tensor = given.pop("timestep").flatten()[0]
    divisor = round(float(scheduler.timesteps[0]) / float(first))
    return Condition(prompts, given, sample, divisor, guidance if doubled else 1.0, doubled)
