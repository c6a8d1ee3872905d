"""What a run would do: images, network passes, memory; printed by ``--dry-run``."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console

from empirical.meter.draws import Draws
from empirical.meter.pipelines import denoiser
from empirical.training import tune
from empirical.training.rollout import passes, roll
from empirical.training.run import assemble
from empirical.training.settings import Common


def planned(config: Common) -> dict[str, Any]:
    """The numbers of the plan, after one rollout of a micro-batch to see how long it takes.

    Raises:
        ValueError: what ``start`` refuses.
    """
    run = assemble(config, print)
    steps, each = len(run.policy.trainable_steps), passes(run.policy)
    trained = steps if config.train_steps is None else config.train_steps
    images, doubled = config.epochs * config.batch, each // config.steps
    replays = images * trained * doubled
    compared = replays if config.kl_weight else 0
    prompts, numbers = run.samples(0, range(config.micro_batch))
    began = time.perf_counter()
    roll(run.policy, prompts, numbers, Draws(config.seed))
    second = (time.perf_counter() - began) / (each * config.micro_batch)
    network, parameters = denoiser(run.pipeline), tune.trainable(denoiser(run.pipeline)).values()
    latents = (config.steps + 1) * config.batch * roll(run.policy, prompts[:1], numbers[:1], Draws(0)).entries
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    weights *= 2 if config.rank is None else 1
    return {
        "images for training": images,
        "steps that can be trained": list(run.policy.trainable_steps),
        "network passes, rollout": images * each,
        "network passes with gradient": replays,
        "network passes, reference": compared,
        "trained parameters": sum(p.numel() for p in parameters),
        "memory of denoiser weights, MB": weights / 1e6,
        "memory of gradients and AdamW, MB": 12 * sum(p.numel() for p in parameters) / 1e6,
        "memory of an epoch's latents, MB": 4 * latents / 1e6,
        "minutes expected without evaluation": second
        * (images * each + 3 * replays + (replays if config.kl_weight else 0))
        / 60,
        "evaluations": len({*range(0, config.epochs, config.evaluate_every), config.epochs}),
        "device": str(torch.device(run.accelerator.device).type),
    }


def show_plan(config: Common, output: Console) -> None:
    """Print it."""
    for name, value in planned(config).items():
        output.print(f"{name}: {f'{value:,.4g}' if isinstance(value, float) else value}", highlight=False)
