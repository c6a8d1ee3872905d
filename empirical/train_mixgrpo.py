"""Fine-tune a flow-matching or diffusion model by MixGRPO: ``python empirical/train_mixgrpo.py``.

Only the steps of a window are stochastic, and only they are trained; before and after it the sampler is the ODE.
Without arguments it trains the flow-matching model that this repository brings, on a CPU. ``--model`` takes any
diffusers folder or hub id of Stable Diffusion 1.x to 3, XL or FLUX. Everything else is as in ``train_ddpo``: guards,
resume, processes, evaluation. An iteration, called epoch there, is: window, rollout, score, advantage, update.

By settings it is also: Flow-GRPO (``--window None --sampler flow-grpo --eta 0.5``, its noise level a over sqrt(2)),
Flow-GRPO-Fast (the same with ``--window 1`` or 2, ``--position random``), DanceGRPO (``--window None --sampler
dance-grpo``), CPS (``--window None --sampler cps``), MixGRPO-Flash (``--flash 8``).

Reference: MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE (Li et al., 2025),
https://arxiv.org/abs/2507.21802
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import tyro
from accelerate import Accelerator
from torch import Tensor

if not __package__:  # started as a script: its own folder is on the path, and the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from empirical.rewards import score_masked
from empirical.rewards.combine import WeightedSum
from empirical.rewards.scoring import Reward
from empirical.train_ddpo import log, rollout, update
from empirical.training import evaluate, finish
from empirical.training.command import obey, read
from empirical.training.rollout import Trajectory, decode
from empirical.training.run import Run, Say, start
from empirical.training.settings import Common
from empirical.training.window import Position, Window
from gapbound.updates import Advantage, combined_advantage, group_advantage

#: The paper's moves of the window, and what models of any size can do, for every model that is not brought along.
PUBLISHED = {
    "reward": "jpeg_compressibility", "also": (), "epochs": 300, "interval": 25, "micro_batch": 8, "rank": 16,
    "kl_weight": 0.0, "ema": None, "dtype": "bfloat16", "evaluation_samples": 2, "spread": "group",
}  # fmt: skip


@dataclass(frozen=True)
class Config(Common):
    """MixGRPO's own settings, beside those of every trainer."""

    algorithm: ClassVar[str] = "MixGRPO"

    model: Annotated[str, tyro.conf.arg(help="A diffusers folder, a hub id, or an embedded model.")] = "embedded-flow"
    out: Annotated[Path, tyro.conf.arg(help="Folder of checkpoints, log, evaluations, weights.")] = Path(
        "build/mixgrpo"
    )
    reward: Annotated[str, tyro.conf.arg(help="As for train_ddpo.")] = "alignment"
    also: Annotated[tuple[str, ...], tyro.conf.arg(help="Rewards that are judged beside the trained one.")] = (
        "strict_alignment",
    )
    families: Annotated[tuple[str, ...], tyro.conf.arg(help="Of captions, where no file names the prompts.")] = (
        "single",
        "count",
    )
    steps: Annotated[int, tyro.conf.arg(help="Of the sampler, in rollouts and evaluation.")] = 25
    guidance: Annotated[float, tyro.conf.arg(help="Of rollouts and their replay alike; 1 for none.")] = 1.0
    epochs: Annotated[int, tyro.conf.arg(help="Iterations: rounds of rollout and update.")] = 400
    learning_rate: Annotated[float, tyro.conf.arg(help="Of AdamW.")] = 1e-4
    kl_weight: Annotated[float, tyro.conf.arg(help="Of the KL to the model before training, per entry.")] = 0.05
    ema: Annotated[
        float | None, tyro.conf.arg(help="Decay of a moving average of the weights, then judged and saved.")
    ] = 0.98
    evaluate_every: Annotated[int, tyro.conf.arg(help="Epochs between evaluations; also before and after all.")] = 100
    evaluation_samples: Annotated[int, tyro.conf.arg(help="x_T of each held-out prompt, at least 2.")] = 12
    save_every: Annotated[int, tyro.conf.arg(help="Iterations between checkpoints.")] = 10
    shared_noise: Annotated[
        bool, tyro.conf.arg(help="Start a group at one x_T; ODE steps before the window are then done once a group.")
    ] = True

    window: Annotated[int | None, tyro.conf.arg(help="Steps that are stochastic and trained; None for all.")] = 4
    position: Annotated[
        Position, tyro.conf.arg(help="Towards the data and back to the start, at random, or fixed.")
    ] = "progressive"
    first: Annotated[int, tyro.conf.arg(help="Where the window starts, counted from x_T.")] = 0
    stride: Annotated[int, tyro.conf.arg(help="Steps by which it moves.")] = 1
    interval: Annotated[int, tyro.conf.arg(help="Iterations between moves.")] = 60
    spread: Annotated[
        Literal["group", "batch"],
        tyro.conf.arg(help="Advantages are over the std of their group, or one std of all groups of the iteration."),
    ] = "batch"
    aggregate: Annotated[
        Literal["reward", "advantage"],
        tyro.conf.arg(help="Whether several rewards are added before or after each is normalised in its group."),
    ] = "reward"

    @property
    def windows(self) -> Window | None:
        """Which steps are stochastic when; None where all are."""
        if self.window is None:
            return None
        return Window(self.steps, self.window, self.first, self.stride, self.interval, self.position, self.seed)

    def eta_at(self, epoch: int) -> float | list[float]:
        """eta of an iteration's rollouts: 0 outside its window.

        Raises:
            ValueError: a profile of eta beside a window, or a window that does not fit.
        """
        windows = self.windows
        if windows is None:
            return self.profile
        if len(self.eta) != 1:
            raise ValueError(f"a window takes one eta, got {len(self.eta)} values; or leave it out with --window None")
        return windows.profile(epoch, self.eta[0])


def train(config: Config, say: Say, accelerator: Accelerator | None = None) -> Run:
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


def main(config: Config) -> None:
    """Train, with clear words for what cannot be."""
    obey(config, train)


def cli(arguments: Sequence[str] | None = None) -> Config:
    """Read the command line; what it leaves open depends on the model."""
    return read(Config, PUBLISHED, "python empirical/train_mixgrpo.py", __doc__, arguments)


if __name__ == "__main__":
    main(cli())
