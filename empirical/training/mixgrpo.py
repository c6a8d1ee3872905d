"""MixGRPO, from top to bottom: an iteration is window, rollout, score, advantage, update; else it is as in ``ddpo``.

Reference: MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE (Li et al., 2025),
https://arxiv.org/abs/2507.21802
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from empirical.rewards import score_masked
from empirical.rewards.combine import WeightedSum
from empirical.rewards.scoring import Reward
from empirical.training import evaluate, finish
from empirical.training.ddpo import log, rollout, update
from empirical.training.mixgrpo_config import MixGRPOConfig
from empirical.training.rollout import Trajectory, decode
from empirical.training.run import Run, Say, start
from gapbound.updates import Advantage, combined_advantage, group_advantage


def train(config: MixGRPOConfig, say: Say, accelerator: Accelerator | None = None) -> Run:
    """The run: everything that happens, in order."""
    run = start(config, say, accelerator)
    say(f"steps that are trained at all: {', '.join(map(str, run.trained))}")
    for epoch in range(run.state.epoch, config.epochs):
        evaluate.at(run, epoch)
        iteration(run, epoch)
    evaluate.at(run, config.epochs)
    finish.write(run)
    return run


def iteration(run: Run, epoch: int) -> None:
    """One iteration, and its checkpoint if one is due."""
    began = time.perf_counter()
    run.policy.use(run.config.eta_at(epoch))
    paths = rollout(run, epoch)
    rewards, failures = score(run, paths)
    advantage = advantages(run, rewards)
    record = update(run, epoch, paths, advantage)
    log(run, epoch, total(run, rewards), advantage, failures, record, time.perf_counter() - began)
    run.save_if_due(epoch + 1)


def parts(run: Run) -> tuple[Mapping[str, Reward], Mapping[str, float]]:
    """The rewards whose weighted sum is trained on, and their weights."""
    if isinstance(run.reward, WeightedSum):
        return run.reward.rewards, run.reward.weights
    return {"reward": run.reward}, {"reward": 1.0}


def score(run: Run, paths: Sequence[Trajectory]) -> tuple[dict[str, Tensor], list[str]]:
    """Each reward by itself, of all samples in their order, NaN where it failed; and how it failed here."""
    images = torch.cat([decode(run.pipeline, path.latents[-1], run.config.size) for path in paths])
    prompts = [prompt for path in paths for prompt in path.prompts]
    found = {name: score_masked(one, images, prompts, run.config.micro_batch) for name, one in parts(run)[0].items()}
    failures = [failure for one in found.values() for failure in one.failures]
    return {name: run.gathered(one.value) for name, one in found.items()}, failures


def total(run: Run, rewards: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of the rewards."""
    return torch.stack([weight * rewards[name] for name, weight in parts(run)[1].items()]).sum(0)


def advantages(run: Run, rewards: Mapping[str, Tensor]) -> Advantage:
    """How much better than its group each sample is; the same in every process."""
    weights = parts(run)[1]
    if run.config.aggregate == "reward":
        rewards, weights = {"sum": total(run, rewards)}, {"sum": 1.0}
    groups = {name: value.reshape(-1, run.config.group) for name, value in rewards.items()}
    own = {name: group_advantage(one, "mask", run.config.spread) for name, one in groups.items()}
    found = combined_advantage(own, weights)
    return Advantage(found.value.flatten(), found.kept.flatten(), found.flat, found.failed)
