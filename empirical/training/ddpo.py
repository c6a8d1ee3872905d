"""DDPO, from top to bottom: an epoch is rollout, score, advantage, update; every so often evaluate and save.

Reference: Training Diffusion Models with Reinforcement Learning (Black et al., 2023),
https://arxiv.org/abs/2305.13301; the sampler's steps are those of ``gapbound.kernel``, the updates of
``gapbound.updates``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from empirical.meter.draws import Draws
from empirical.rewards import score_masked
from empirical.training import evaluate, finish
from empirical.training.ddpo_config import DDPOConfig
from empirical.training.improve import Record, improve
from empirical.training.plan import network_passes
from empirical.training.prompts import pick_steps
from empirical.training.rollout import Trajectory, decode, roll
from empirical.training.run import Run, Say, start
from gapbound.updates import Advantage, adapted_weight, group_advantage, prompt_advantage


def train(config: DDPOConfig, say: Say, accelerator: Accelerator | None = None) -> Run:
    """The run: everything that happens, in order."""
    run = start(config, say, accelerator)
    for epoch in range(run.state.epoch, config.epochs):
        evaluate.at(run, epoch)
        iteration(run, epoch)
    evaluate.at(run, config.epochs)
    finish.write(run)
    return run


def iteration(run: Run, epoch: int) -> None:
    """An epoch, and its checkpoint if one is due."""
    began = time.perf_counter()
    paths = rollout(run, epoch)
    rewards, failures = score(run, paths)
    advantage = advantages(run, epoch, rewards)
    record = update(run, epoch, paths, advantage)
    log(run, epoch, rewards, advantage, failures, record, time.perf_counter() - began)
    run.save_if_due(epoch + 1)


def rollout(run: Run, epoch: int) -> list[Trajectory]:
    """This process's share of the epoch's samples, a batch at a time, in the order in which updates take them."""
    draws, together = Draws(run.config.seed), run.config.together
    return [roll(run.policy, *run.samples(epoch, numbers), draws, together) for numbers in run.shares()]


def score(run: Run, paths: Sequence[Trajectory]) -> tuple[Tensor, list[str]]:
    """Rewards of all samples of the epoch, in their order, NaN where the reward failed; and how it failed here."""
    images = torch.cat([decode(run.pipeline, path.latents[-1], run.config.size) for path in paths])
    prompts = [prompt for path in paths for prompt in path.prompts]
    scores = score_masked(run.reward, images, prompts, run.config.micro_batch)
    return run.gathered(scores.value), list(scores.failures)


def advantages(run: Run, epoch: int, rewards: Tensor) -> Advantage:
    """How much better than expected each sample is; the same in every process."""
    config = run.config
    if config.advantage == "group":
        found = group_advantage(rewards.reshape(-1, config.group), failed="mask")
        return Advantage(found.value.flatten(), found.kept.flatten(), found.flat, found.failed)
    prompts, _ = run.samples(epoch, range(config.batch))
    found, run.state.buffer = prompt_advantage(
        run.state.buffer, prompts, rewards, config.advantage_clamp, failed="mask"
    )
    return found


def update(run: Run, epoch: int, paths: Sequence[Trajectory], advantage: Advantage) -> Record:
    """The epoch's optimiser steps, each on its part of the samples; every ratio must be 1 before the first."""
    config, record = run.config, Record()
    each = len(paths) // config.updates
    for part in range(config.updates):
        steps = pick_steps(run.policy.trainable_steps, config.train_steps, (config.seed, epoch, part))
        improve(run, paths[part * each : (part + 1) * each], advantage, steps, record, part)
    record.reduced(run.accelerator)
    return record


def log(
    run: Run, epoch: int, rewards: Tensor, advantage: Advantage, failures: list[str], record: Record, seconds: float
) -> None:
    """Write the epoch down, and move the KL's weight towards its target."""
    valid = rewards[torch.isfinite(rewards)].double()
    values = {
        "reward_mean": float(valid.mean()),
        "reward_std": float(valid.std(correction=0)),
        "rewards_failed": advantage.failed,
        "first_failure": failures[0] if failures else None,
        "groups_flat": advantage.flat,
        "samples_kept": int(advantage.kept.sum()),
        "advantages_clamped": advantage.clamped,
        "kl_weight": run.state.kl_weight,
        "learning_rate": run.schedule.get_last_lr()[0],
        "updates": run.state.updates,
        "network_passes": network_passes(run),
        **record.record(run.config.clip),
    }
    run.log.add("epoch", epoch, values, seconds)
    passes = sum(values["network_passes"].values())
    told = f"reward {values['reward_mean']:.4g} (std {values['reward_std']:.3g}), {passes:,.0f} passes, {seconds:.1f} s"
    run.say(f"epoch {epoch}: {told}")
    if run.config.kl_target is not None and record.kl is not None:
        run.state.kl_weight = adapted_weight(run.state.kl_weight, record.kl, run.config.kl_target)
