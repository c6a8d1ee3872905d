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
        latents: float32, shape (steps + 1, batch, ...), x_T first; fewer where a solver took the last steps.
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
def roll(policy: Policy, prompts: Sequence[str], numbers: Sequence[int], draws: Draws, together: int = 1) -> Trajectory:
    """Sample one path for each prompt; sample ``n`` of a prompt is the same whatever runs beside it.

    Args:
        policy: whose network is called.
        prompts: one a sample.
        numbers: of the samples, see ``Trajectory``.
        draws: the random numbers of the run.
        together: so many successive samples of a prompt start at one x_T, and go the deterministic steps before the
            first stochastic one as one path, the **trunk**.

    Raises:
        ValueError: NaN or an infinity, with step and prompt; samples that share x_T and have different prompts.
    """
    pairs = list(zip(prompts, numbers, strict=True))
    require_together(prompts, together)
    pipeline, scheduler = policy.pipeline, policy.scheduler
    condition, trainable = policy.condition(prompts), policy.trainable_steps
    x = draws.initial(pairs[::together], latent_shape(pipeline, policy.size)).to(pipeline.device)
    latents = _trunk(policy, x, condition.of(range(0, len(prompts), together))) if together > 1 else [x]
    latents = [one.repeat_interleave(together, 0) for one in latents]
    x, generators, (tail, solver) = latents[-1], draws.increments(pairs, 0), policy.solver()
    densities: dict[int, LogProb] = {}
    tolerances: dict[int, Tensor] = {}
    for k in range(len(latents) - 1, tail[0] if tail else policy.steps):
        found = scheduler.step(policy.output(x, k, condition), scheduler.timesteps[k], x, generator=generators)
        x = found.prev_sample
        latents.append(x)
        if k in trainable:
            densities[k] = scored(x, found.prev_mean, found.std)
            tolerances[k] = tolerance(found.prev_mean, found.std, policy.dtype)
    for k in tail:
        x = solver.step(policy.output(x, k, condition), scheduler.timesteps[k], x).prev_sample
        latents.append(x)
    return Trajectory(tuple(prompts), tuple(numbers), condition, torch.stack(latents), densities, tolerances)


def _trunk(policy: Policy, x: Tensor, condition: Condition) -> list[Tensor]:
    """x_T and what the deterministic steps before the first stochastic one make of it."""
    latents, scheduler = [x], policy.scheduler
    for k in range(policy.trunk):
        latents.append(scheduler.step(policy.output(latents[-1], k, condition), scheduler.timesteps[k], latents[-1])[0])
    return latents


def require_together(prompts: Sequence[str], together: int) -> None:
    """Refuse samples that share x_T and not their prompt.

    Raises:
        ValueError: says which.
    """
    if len(prompts) % together:
        raise ValueError(f"{len(prompts)} samples are no multiple of the {together} that share x_T")
    for first in range(0, len(prompts), together):
        if len({*prompts[first : first + together]}) > 1:
            raise ValueError(f"samples {first} to {first + together - 1} share x_T, but not their prompt")


@torch.no_grad()
def decode(pipeline: DiffusionPipeline, latents: Tensor, size: int | None = None) -> Tensor:
    """Images of final latents as the pipeline itself decodes them, float32 in [0, 1], shape (batch, 3, H, W)."""
    vae = pipeline.vae
    if isinstance(pipeline, FluxPipeline):
        latents = pipeline._unpack_latents(latents, *image_size(pipeline, size), pipeline.vae_scale_factor)
    z = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    z = z.to(vae.dtype, memory_format=torch.channels_last)  # as trainers keep the decoder's weights
    images = vae.decode(z, return_dict=False)[0].float()
    require_finite("the decoder", images)
    return pipeline.image_processor.postprocess(images, output_type="pt")


def passes(policy: Policy, together: int = 1) -> float:
    """Network evaluations of one sample's rollout, its share of trunks; classifier-free guidance takes two a step."""
    tail, _ = policy.solver()
    shared = policy.trunk if together > 1 else 0
    whole = (tail[0] if tail else policy.steps) - shared + len(tail)
    return (shared / together + whole) * (2 if policy.doubled else 1)
