"""One run of a pipeline over a batch of pairs: given x_T and increments in, images and final latents out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from empirical.meter.draws import Draws
from empirical.meter.pipelines import denoiser, guidance_arguments, image_size, latent_shape
from empirical.schedulers import stochastic

Pair = tuple[str, int]  # prompt and number of the sample


class NetworkError(ValueError):
    """A network that gave NaN or an infinity; the message names step, sample and prompt."""


@dataclass(frozen=True)
class Run:
    """How one image is made from x_T.

    Attributes:
        eta: 0 for the ODE.
        steps: how many.
        guidance: 1 for none.
        draw: which increments; the ODE has none.
    """

    eta: float
    steps: int
    guidance: float
    draw: int = 0

    def __str__(self) -> str:
        """As messages name it."""
        return f"eta={self.eta:g}, {self.steps} steps, guidance {self.guidance:g}"


@dataclass(frozen=True)
class Generated:
    """What a run made of a batch.

    Attributes:
        images: float32 in [0, 1], shape (batch, 3, H, W).
        latents: what the decoder got, float32, shape (batch, ...) as x_T has it.
        sigmas: noise-to-signal ratios where the run began (inf for flow matching from t = 1) and where it ended.
        last_std: standard deviation of the noise of the last step; 0 if it ends without.
    """

    images: Tensor
    latents: Tensor
    sigmas: tuple[float, float]
    last_std: float


@dataclass(frozen=True)
class Sampler:
    """A pipeline with the random numbers of a measurement.

    Args:
        pipeline: a checked one.
        draws: where x_T and increments come from.
        sampler: of the SDE runs, by its name in ``empirical.schedulers``; ODE runs take "gddim" at eta = 0, which is
            DDIM (for flow matching: Euler).
        size: pixels, or None for the pipeline's own.
    """

    pipeline: DiffusionPipeline
    draws: Draws
    sampler: str = "gddim"
    size: int | None = None

    def __call__(self, pairs: Sequence[Pair], run: Run) -> Generated:
        """The images of these pairs under ``run``.

        Raises:
            NetworkError: NaN or an infinity, from the denoiser at a step or from the decoder.
            ValueError: the pipeline's scheduler has no stochastic form.
        """
        pipeline, (height, width) = self.pipeline, image_size(self.pipeline, self.size)
        scheduler = stochastic(pipeline.scheduler, sampler=self.sampler if run.eta else "gddim", eta=run.eta)
        watched = _WatchedStep(scheduler.step, pairs, run, self.draws.increments(pairs, run.draw))
        scheduler.step = watched
        x_T = self.draws.initial(pairs, latent_shape(pipeline, self.size)).to(denoiser(pipeline).dtype)
        with _borrowed(pipeline, scheduler):
            images = pipeline(
                [prompt for prompt, _ in pairs],
                num_inference_steps=run.steps,
                latents=x_T,
                height=height,
                width=width,
                output_type="pt",
                **guidance_arguments(pipeline, run.guidance, len(pairs)),
            ).images.float()
        _check_finite(images, "the decoder", pairs, run)
        sigma = scheduler.levels.sigma  # of the grid that the pipeline has just set
        ends = float(sigma[0]), float(sigma[-1])
        return Generated(images, watched.latents.float(), ends, watched.last_std)


class _WatchedStep:
    """A scheduler's step that brings its own generators, watches for NaN, and keeps the latest latents."""

    def __init__(self, step: Any, pairs: Sequence[Pair], run: Run, generators: list[torch.Generator]) -> None:
        self._step, self._pairs, self._run, self._generators = step, pairs, run, generators
        self._count, self.latents, self.last_std = 0, torch.empty(0), 0.0

    def __call__(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        """Pipelines give these four only, as no other parameter is declared: eta is the scheduler's own."""
        self._count += 1
        where = f"step {self._count} of {self._run.steps} (timestep {float(timestep):g})"
        _check_finite(model_output, f"the network at {where}", self._pairs, self._run)
        result = self._step(model_output, timestep, sample, generator=self._generators)
        self.latents, self.last_std = result.prev_sample, float(torch.as_tensor(result.std).max())
        return (result.prev_sample,)


def _check_finite(values: Tensor, what: str, pairs: Sequence[Pair], run: Run) -> None:
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    prompt, sample = pairs[int((~finite.flatten(1).all(1)).nonzero()[0])]
    raise NetworkError(
        f"{what} gave NaN or an infinity on sample {sample} of prompt {prompt!r} ({run}); half precision overflows on "
        "some models: try float32 or bfloat16"
    )


@contextmanager
def _borrowed(pipeline: DiffusionPipeline, scheduler: Any) -> Iterator[None]:
    """The pipeline with another scheduler and no progress bar of its own; as it was afterwards."""
    before = pipeline.scheduler, getattr(pipeline, "_progress_bar_config", {})
    pipeline.scheduler = scheduler
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.scheduler = before[0]
        pipeline.set_progress_bar_config(**before[1])
