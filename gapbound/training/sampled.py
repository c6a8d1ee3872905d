"""Training by sampled clipped policy gradients, in the forms of DDPO and GRPO, with the functions of ``updates``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gapbound._door import door
from gapbound._validate import choice, count, number, positive
from gapbound._validate import seed as checked_seed
from gapbound.gaussian import Gaussian
from gapbound.reward import Linear, Quadratic
from gapbound.training.history import Samplers, Trained, exact_record, gathered, initial_policy
from gapbound.training.network import Network, require_single
from gapbound.training.policy import Consistent, PerStep, Policy
from gapbound.training.rollout import Rollout, draw_noise, rollout, sampled_record, step_mean
from gapbound.training.task import Task, Walk
from gapbound.updates import (
    Advantage,
    PromptBuffer,
    clipped_surrogate,
    group_advantage,
    log_prob,
    log_ratio,
    prompt_advantage,
    require_on_policy,
    step_kl,
)

FORMS = ("ddpo", "grpo")
EVALUATION = 4096  # paths of every record of a network


@door()
@torch.inference_mode(False)
@torch.enable_grad()
def train_sampled(
    task: Task,
    policy: str | Policy = "per-step",
    form: str = "grpo",
    iterations: int = 100,
    rate: float = 0.02,
    *,
    n: int = 256,
    group: int = 8,
    epochs: int = 2,
    clip: float = 0.2,
    every: int = 10,
    seed: int = 0,
) -> Trained:
    r"""Adam on the clipped surrogate of ``n`` fresh paths an iteration, ``epochs`` updates on each; a single run.

    The paths stand for n / group prompts of ``group`` samples that share one target. "grpo" normalises rewards in each
    group and adds beta KL at the visited states, in units of the batch's reward spread (how the policy changes the
    states it visits is left out, as published). "ddpo" normalises by each prompt's running buffer, and beta enters as
    r - beta log(p / p_ref) of the path, which is unbiased. The loss sums the steps that have a density.

    Args:
        task: a single run.
        policy: "consistent", "per-step", a ``Network``, or any policy.
        form: "ddpo" or "grpo".
        iterations: number of rounds of sampling.
        rate: learning rate of Adam.
        n: paths an iteration, a multiple of ``group``.
        group: samples of a prompt.
        epochs: updates on each set of paths.
        clip: on the absolute log-ratio of a step.
        every: iterations between two records.
        seed: of everything random.

    Raises:
        ValueError: arguments out of range, a batch of runs, n that is not a multiple of group.
        TypeError: arguments of the wrong kind.
    """
    require_single(task)
    choice("form", form, FORMS)
    for name, value in (("iterations", iterations), ("epochs", epochs), ("every", every)):
        count(name, value)
    rate, clip = number("rate", rate, positive), number("clip", clip, positive)
    seed = checked_seed(seed) % 2**62  # torch keeps 64 bits
    if count("group", group, 2) and count("n", n, 2) % group:
        raise ValueError(f"n must be a multiple of group = {group}, got {n}")
    model, generator = initial_policy(task, policy), torch.Generator().manual_seed(seed)
    reference, samplers = reference_policy(task), Samplers.of(task)
    leaves = tuple(p.detach().clone().requires_grad_() for p in model.parameters)
    model, optimiser = model.with_parameters(leaves), torch.optim.Adam(leaves, lr=rate)
    judge = _judge(samplers, reference, seed)
    kept, records, buffer = [0], [judge(model)], PromptBuffer()
    for done in range(1, iterations + 1):
        paths = rollout(samplers.sde, model, task.reward, draw_noise(samplers.sde, n, generator))
        round_ = Round.of(samplers.sde, model, reference, paths)
        advantage, buffer = advantages(task, form, round_, group, buffer)
        for epoch in range(epochs if bool(advantage.kept.any()) else 0):
            loss = round_.loss(task, model, advantage, form, clip, first=epoch == 0)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if done % every == 0 or done == iterations:
            kept.append(done)
            records.append(judge(model))
    return Trained(gathered(kept, records), model.with_parameters(tuple(leaf.detach().clone() for leaf in leaves)))


@dataclass(frozen=True, eq=False)
class Round:
    """One set of paths and what the policy that drew them thought of each step; steps without a density left out.

    Attributes:
        walk: the sampler.
        paths: with their rewards.
        old: log-density of each step under the policy that drew it, shape (steps, n).
        reference_mean: means of all steps under the reference, shape (N, n).
        log_path: log(p / p_ref) of each path, shape (n,).
    """

    walk: Walk
    paths: Rollout
    old: Tensor
    reference_mean: Tensor
    log_path: Tensor

    @classmethod
    def of(cls, walk: Walk, policy: Policy, reference: Policy, paths: Rollout) -> Round:
        """Score the paths exactly as they are stored."""
        with torch.no_grad():
            old = _scores(walk, paths, step_mean(walk, policy, paths.z[:-1], slice(None)))
            mean = step_mean(walk, reference, paths.z[:-1], slice(None))
            return cls(walk, paths, old, mean, log_ratio(old, _scores(walk, paths, mean)).sum(0))

    def loss(self, task: Task, policy: Policy, advantage: Advantage, form: str, clip: float, first: bool) -> Tensor:
        """The clipped surrogate summed over steps, with GRPO's KL; before the first update every ratio must be 1."""
        mean = step_mean(self.walk, policy, self.paths.z[:-1], slice(None))
        change = log_ratio(_scores(self.walk, self.paths, mean), self.old)
        if first:
            require_on_policy(change, 1e-9)
        loss = len(change) * clipped_surrogate(change, advantage.value, clip, advantage.kept).loss
        if form == "grpo" and float(task.beta) > 0:
            has = self.walk.stochastic
            kl = step_kl(mean[has, :, None], self.reference_mean[has, :, None], self.walk.std[has, None, None])
            loss = loss + float(task.beta) / self.paths.reward.std() * kl.sum(0).mean()
        return loss


def advantages(
    task: Task, form: str, round_: Round, group: int, buffer: PromptBuffer
) -> tuple[Advantage, PromptBuffer]:
    """The advantages of the paths, shape (n,), and the buffer for the next round."""
    reward = round_.paths.reward
    if form == "grpo":
        grouped = group_advantage(reward.reshape(-1, group))
        flat = Advantage(grouped.value.reshape(-1), grouped.kept.reshape(-1), grouped.flat, grouped.failed)
        return flat, buffer
    prompts = [str(i // group) for i in range(len(reward))]
    return prompt_advantage(buffer, prompts, reward - float(task.beta) * round_.log_path)


def reference_policy(task: Task) -> Any:
    """The pre-trained model as a policy: affine for a Gaussian, else an untrained network."""
    return Consistent.of(task) if isinstance(task.reference, Gaussian) else Network.of(task, 1)


def _scores(walk: Walk, paths: Rollout, mean: Tensor) -> Tensor:
    """Log-densities of the steps that have one, shape (steps, n)."""
    has = walk.stochastic
    return log_prob(paths.z[1:][has, :, None], mean[has, :, None], walk.std[has, None, None]).total


def _judge(samplers: Samplers, reference: Policy, seed: int) -> Callable[[Any], dict[str, Any]]:
    """How a policy is recorded: in closed form if it is affine and the reward has one, else by the same paths."""
    closed = isinstance(reference, Consistent) and isinstance(samplers.task.reward, Linear | Quadratic)

    def judge(policy: Any) -> dict[str, Any]:
        if closed and isinstance(policy, Consistent | PerStep):
            return exact_record(samplers, policy)
        return sampled_record(samplers, policy, reference, EVALUATION, seed + 1)

    return judge
