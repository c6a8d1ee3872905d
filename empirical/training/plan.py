"""What a run would do: images, network passes, memory, time; printed by ``--dry-run``."""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers import FluxPipeline
from rich.console import Console
from torch import nn

from empirical.meter.draws import Draws
from empirical.meter.pipelines import DTYPES, denoiser, image_size, latent_shape
from empirical.training.memory import Budget, Sizes, budget
from empirical.training.rollout import passes, roll
from empirical.training.run import Run, assemble
from empirical.training.settings import Common

BACKWARD = 2.0  # passes that a backward pass takes; one more where blocks are computed again


def planned(config: Common) -> dict[str, Any]:
    """The numbers of the plan, after one rollout of a micro-batch to see how long it takes.

    Raises:
        ValueError: what ``start`` refuses.
    """
    run = assemble(config, print)
    images, by_epoch = config.epochs * config.batch, []
    for epoch in range(config.epochs):
        run.policy.use(config.eta_at(epoch))
        by_epoch.append(network_passes(run))
    rolled, replays, compared = (sum(one[key] for one in by_epoch) for key in ("rollout", "gradient", "reference"))
    run.policy.use(config.eta_at(0))
    one = seconds_of_a_pass(run) / run.accelerator.num_processes
    expected = one * (rolled + replays * (1 + BACKWARD + config.checkpointing) + compared)
    return {
        "images for training": images,
        "steps that can be trained": list(run.trained),
        "network passes, rollout": rolled,
        "network passes with gradient": replays,
        "network passes, reference": compared,
        "trained parameters": sum(p.numel() for p in run.parameters),
        **{f"memory, MB: {name}": value / 1e6 for name, value in vars(memory(run)).items()},
        "memory, MB: together": memory(run).total / 1e6,
        "minutes expected without evaluation": expected / 60,
        "evaluations": len({*range(0, config.epochs, config.evaluate_every), config.epochs}),
        "device": str(torch.device(run.accelerator.device).type),
    }


def network_passes(run: Run) -> dict[str, float]:
    """Evaluations of the network for one sample each in an epoch, all processes together, by what they are for."""
    config, policy = run.config, run.policy
    trained = len(policy.trainable_steps) if config.train_steps is None else config.train_steps
    replays = config.batch * trained * (2 if policy.doubled else 1)
    rolled = config.batch * passes(policy, config.together)
    return {"rollout": rolled, "gradient": replays, "reference": replays if run.state.kl_weight else 0}


def seconds_of_a_pass(run: Run) -> float:
    """Of one sample through the network once, in a rollout of a micro-batch."""
    prompts, numbers = run.samples(0, range(run.config.micro_batch))
    began = time.perf_counter()
    roll(run.policy, prompts, numbers, Draws(run.config.seed), run.config.together)
    return (time.perf_counter() - began) / (passes(run.policy, run.config.together) * len(prompts))


def memory(run: Run) -> Budget:
    """What the run needs in each process, see ``memory.budget``."""
    config, pipeline, n = run.config, run.pipeline, run.config.micro_batch
    condition = run.policy.condition([""] * n)
    shape = latent_shape(pipeline, config.size)
    inputs = {
        condition.sample: torch.zeros(2 * n if condition.doubled else n, *shape),
        "timestep": torch.zeros(2 * n if condition.doubled else n),
        **condition.inputs,
    }
    side = [pixels // pipeline.vae_scale_factor for pixels in image_size(pipeline, config.size)]
    others = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    own = config.batch // run.accelerator.num_processes
    sizes = Sizes(DTYPES[config.dtype], config.rank, config.checkpointing, config.ema is not None, own, config.steps)
    coder = pipeline.vae
    channels = shape[-1] // 4 if isinstance(pipeline, FluxPipeline) else shape[0]
    return budget(
        denoiser(pipeline), [part for part in others if part is not denoiser(pipeline)], inputs, condition.sample,
        coder, (n, channels, *side), sizes,
    )  # fmt: skip


def show_plan(config: Common, output: Console) -> None:
    """Print it."""
    for name, value in planned(config).items():
        output.print(f"{name}: {f'{value:,.4g}' if isinstance(value, float) else value}", highlight=False)
