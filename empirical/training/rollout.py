"""Rollouts: trajectories of the policy as they are stored, and the images at their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor

from empirical.meter.draws import Draws
from empirical.meter.pipelines import image_size, latent_shape
from empirical.training.condition import Condition
from empirical.training.guards import require_finite, tolerance
from empirical.training.policy import Policy
from gapbound.updates import LogProb, log_prob


@dataclass(frozen=True)
class Trajectory:
    """A batch of paths and what the policy that drew them thought of its steps.

    Attributes:
        prompts: one a sample.
        numbers: of the samples, counted from the start of the run; their noise is keyed by them.
        condition: what the network was told.
        latents: float32, shape (steps + 1, batch, ...), x_T first.
        log_prob: of the trainable steps alone, float64, shapes (batch,).
        tolerance: of their summed log-ratios before an update, shape (batch,).
    """

    prompts: tuple[str, ...]
    numbers: tuple[int, ...]
    condition: Condition
    latents: Tensor
    log_prob: Mapping[int, LogProb]
    tolerance: Mapping[int, Tensor]

    @property
    def entries(self) -> int:
        """Of one sample's latents."""
        return self.latents[0, 0].numel()


def scored(outcome: Tensor, mean: Tensor, std: Tensor) -> LogProb:
    """Log-density of a step, evaluated in float64 from float32 moments: its sum over 16,384 entries has five digits
    before the point, where float32 would resolve log-ratios to 1e-3 only.
    """  # noqa: D205
    return log_prob(outcome.double(), mean.double(), std.double(), event_dims=outcome.ndim - 1)


@torch.no_grad()
def roll(policy: Policy, prompts: Sequence[str], numbers: Sequence[int], draws: Draws) -> Trajectory:
    """Sample one path for each prompt; sample ``n`` of a prompt is the same whatever runs beside it.

    Args:
        policy: whose network is called.
        prompts: one a sample.
        numbers: of the samples, see ``Trajectory``.
        draws: the random numbers of the run.

    Raises:
        ValueError: NaN or an infinity, with step and prompt.
    """
    pairs = list(zip(prompts, numbers, strict=True))
    pipeline, scheduler = policy.pipeline, policy.scheduler
    condition, trainable = policy.condition(prompts), policy.trainable_steps
    x = draws.initial(pairs, latent_shape(pipeline, policy.size)).to(pipeline.device)
    generators, latents = draws.increments(pairs, 0), [x]
    densities: dict[int, LogProb] = {}
    tolerances: dict[int, Tensor] = {}
    for k, t in enumerate(scheduler.timesteps):
        output = policy.output(x, k, condition)
        found = scheduler.step(output, t, x, generator=generators)
        x = found.prev_sample
        latents.append(x)
        if k in trainable:
            densities[k] = scored(x, found.prev_mean, found.std)
            tolerances[k] = tolerance(found.prev_mean, found.std, policy.dtype)
    return Trajectory(tuple(prompts), tuple(numbers), condition, torch.stack(latents), densities, tolerances)


@torch.no_grad()
def decode(pipeline: DiffusionPipeline, latents: Tensor, size: int | None = None) -> Tensor:
    """Images of final latents as the pipeline itself decodes them, float32 in [0, 1], shape (batch, 3, H, W)."""
    vae = pipeline.vae
    if isinstance(pipeline, FluxPipeline):
        latents = pipeline._unpack_latents(latents, *image_size(pipeline, size), pipeline.vae_scale_factor)
    z = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    images = vae.decode(z.to(vae.dtype), return_dict=False)[0].float()
    require_finite("the decoder", images)
    return pipeline.image_processor.postprocess(images, output_type="pt")


def passes(policy: Policy) -> int:
    """Network evaluations of one sample's rollout: classifier-free guidance takes two a step."""
    return policy.steps * (2 if policy.condition([""]).doubled else 1)
