"""The settings of MixGRPO, beside those that every trainer has; loads no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from empirical.training.settings import Common
from empirical.training.window import Position, Window

#: The paper's moves of the window, and what models of any size can do, for every model that is not brought along.
PUBLISHED = {
    "reward": "jpeg_compressibility", "also": (), "epochs": 300, "interval": 25, "micro_batch": 8, "rank": 16,
    "kl_weight": 0.0, "ema": None, "dtype": "bfloat16", "evaluation_samples": 2, "spread": "group",
}  # fmt: skip


@dataclass(frozen=True)
class MixGRPOConfig(Common):
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
