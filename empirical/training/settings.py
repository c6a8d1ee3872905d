"""Settings that every trainer has, checked before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from empirical.models import EMBEDDED, GUIDANCE
from empirical.shapes.scene import FAMILIES
from gapbound._validate import choice, count, finite, non_negative, positive

#: What DDPO was published with, for every model that is not brought along; ``Common`` holds what suits those that are.
PUBLISHED = {
    "reward": "jpeg_compressibility", "also": (), "steps": 50, "guidance": 5.0, "batch": 256, "micro_batch": 4,
    "updates": 4, "advantage": "prompt", "std_power": 0.0, "rank": 16, "learning_rate": 3e-4, "kl_weight": 0.0,
    "ema": None, "dtype": "bfloat16", "epochs": 200,
}  # fmt: skip
FREE = ("epochs", "out", "keep", "tracker", "dry_run")  # may change when a run goes on
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}


@dataclass(frozen=True)
class Common:
    """What is trained, on what, how long, and how it is judged."""

    model: Annotated[str, tyro.conf.arg(help="A diffusers folder, a hub id, 'embedded', 'embedded-early'.")] = EMBEDDED
    prompts: Annotated[
        Path | None, tyro.conf.arg(help="A text file with a training prompt a line; captions if none.")
    ] = None
    families: Annotated[
        tuple[str, ...], tyro.conf.arg(help="Of an embedded model's captions, where no file names the prompts.")
    ] = tuple(FAMILIES)
    reward: Annotated[str, tyro.conf.arg(help="Such as alignment, pick_score@PATH, or a weighted sum.")] = (
        "jpeg_compressibility+strict_alignment:0.3"
    )
    out: Annotated[Path, tyro.conf.arg(help="Folder of checkpoints, log, evaluations, weights.")] = Path("build/ddpo")
    seed: Annotated[int, tyro.conf.arg(help="Of everything random.")] = 0

    steps: Annotated[int, tyro.conf.arg(help="Of the sampler, in rollouts and evaluation.")] = 10
    eta: Annotated[
        tuple[float, ...], tyro.conf.arg(help="Stochasticity of rollouts: a number, or one for each step.")
    ] = (1.0,)
    guidance: Annotated[float, tyro.conf.arg(help="Of rollouts and their replay alike; 1 for none.")] = GUIDANCE
    sampler: Annotated[str, tyro.conf.arg(help="A name of empirical.schedulers.")] = "gddim"
    size: Annotated[int | None, tyro.conf.arg(help="Pixels of the images; the pipeline's own if none.")] = None
    flash: Annotated[
        int | None,
        tyro.conf.arg(help="A second-order solver takes the ODE's steps after the last SDE step, in at most so many."),
    ] = None
    shared_noise: Annotated[
        bool, tyro.conf.arg(help="Start a group at one x_T; ODE steps before the first SDE step are then done once.")
    ] = False

    epochs: Annotated[int, tyro.conf.arg(help="Rounds of rollout and update.")] = 60
    batch: Annotated[int, tyro.conf.arg(help="Samples an epoch, of all processes together.")] = 64
    group: Annotated[int, tyro.conf.arg(help="Samples of a prompt in an epoch.")] = 8
    micro_batch: Annotated[int, tyro.conf.arg(help="Samples that go through the network together.")] = 32
    updates: Annotated[int, tyro.conf.arg(help="Optimiser steps an epoch, each on batch / updates samples.")] = 1

    train_steps: Annotated[
        int | None, tyro.conf.arg(help="Steps trained in an update, drawn anew each time; all stochastic ones if none.")
    ] = None

    std_power: Annotated[
        float, tyro.conf.arg(help="Steps weigh in the loss by their std to this power; 0 is DDPO as published.")
    ] = 2.0
    rank: Annotated[int | None, tyro.conf.arg(help="Of the LoRA; all weights are trained if none.")] = None
    learning_rate: Annotated[float, tyro.conf.arg(help="Of AdamW.")] = 3e-4
    warmup: Annotated[int, tyro.conf.arg(help="Updates over which the learning rate rises from 0.")] = 0
    weight_decay: Annotated[float, tyro.conf.arg(help="Of AdamW.")] = 1e-4
    max_norm: Annotated[float, tyro.conf.arg(help="Gradients are clipped to this norm.")] = 1.0
    clip: Annotated[float, tyro.conf.arg(help="Of the log-ratio per latent entry.")] = 1e-4
    kl_weight: Annotated[float, tyro.conf.arg(help="Of the KL to the model before training, per entry.")] = 0.01
    kl_target: Annotated[
        float | None, tyro.conf.arg(help="KL of a step, summed over entries, towards which the weight adapts.")
    ] = None
    checkpointing: Annotated[
        bool, tyro.conf.arg(help="Compute the denoiser's blocks again in the backward pass: less memory, more time.")
    ] = False
    ema: Annotated[
        float | None, tyro.conf.arg(help="Decay of a moving average of the weights, then judged and saved.")
    ] = 0.9

    evaluate_every: Annotated[int, tyro.conf.arg(help="Epochs between evaluations; also before and after all.")] = 20
    evaluation_prompts: Annotated[
        Path | None, tyro.conf.arg(help="A text file with held-out prompts; captions if none.")
    ] = None
    evaluation_samples: Annotated[int, tyro.conf.arg(help="x_T of each held-out prompt, at least 2.")] = 2
    also: Annotated[tuple[str, ...], tyro.conf.arg(help="Rewards that are judged beside the trained one.")] = (
        "jpeg_compressibility",
        "strict_alignment",
    )
    save_every: Annotated[int, tyro.conf.arg(help="Epochs between checkpoints.")] = 1
    keep: Annotated[int, tyro.conf.arg(help="The last checkpoints that are kept.")] = 3
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], tyro.conf.arg(help="Of frozen weights; adapters are float32.")
    ] = "float32"
    tracker: Annotated[Literal["tensorboard", "wandb", "none"], tyro.conf.arg(help="Beside the log, log.jsonl.")] = (
        "tensorboard"
    )
    dry_run: Annotated[bool, tyro.conf.arg(help="Print what would be done, and stop.")] = False

    def record(self) -> dict[str, Any]:
        """As JSON holds it, without what may change when a run goes on."""
        return {
            key: [*value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for key, value in asdict(self).items()
            if key not in FREE
        }

    @property
    def profile(self) -> float | list[float]:
        """eta as schedulers take it."""
        return self.eta[0] if len(self.eta) == 1 else list(self.eta)

    def eta_at(self, epoch: int) -> float | list[float]:
        """eta of an epoch's rollouts."""
        return self.profile

    @property
    def together(self) -> int:
        """How many samples share x_T."""
        return self.group if self.shared_noise else 1


def check(config: Common, processes: int) -> None:
    """Refuse what cannot be, before any work.

    Raises:
        ValueError: a number out of range, or a combination that cannot be; says which, and the remedy.
    """
    for name in ("steps", "epochs", "batch", "group", "micro_batch", "updates", "evaluate_every", "save_every", "keep"):
        count(name, getattr(config, name))
    count("evaluation_samples", config.evaluation_samples, 2)
    count("seed", config.seed, 0)
    if config.flash is not None:
        count("flash", config.flash)
    count("warmup", config.warmup, 0)
    for name in ("learning_rate", "max_norm", "clip"):
        positive(name, getattr(config, name))
    for name in ("kl_weight", "weight_decay", "eta", "std_power"):
        non_negative(name, getattr(config, name))
    if float(finite("guidance", config.guidance)) < 1:
        raise ValueError(f"guidance must be 1 (none) or more, got {config.guidance:g}")
    if not config.families or len(set(config.families)) < len(config.families):
        raise ValueError(f"families must name one or more of {', '.join(FAMILIES)}, once, got {config.families}")
    for family in config.families:
        choice("families", family, FAMILIES)
    if config.kl_target is not None and not (positive("kl_target", config.kl_target) and config.kl_weight):
        raise ValueError("kl_target adapts kl_weight, which must then start above 0; give --kl-weight, such as 0.01")
    if config.ema is not None and not 0 < config.ema < 1:
        raise ValueError(f"ema must lie between 0 and 1, got {config.ema:g}")
    if not config.eta or len(config.eta) not in (1, config.steps):
        raise ValueError(f"eta has {len(config.eta)} values for {config.steps} steps; give one, or one for each step")
    if config.shared_noise and config.micro_batch % config.group:
        raise ValueError(
            f"samples that share x_T go through the network together, but group {config.group} does not divide "
            f"micro_batch {config.micro_batch}; change one, or leave out --shared-noise"
        )
    if config.rank is None and config.dtype != "float32":
        raise ValueError(f"all weights are trained in float32, got {config.dtype}; train a LoRA with --rank 16")
    _check_division(config, processes)


def _check_division(config: Common, processes: int) -> None:
    part = config.updates * processes
    if config.batch % config.group:
        raise ValueError(f"batch {config.batch} must be a multiple of group {config.group}")
    if config.batch % part or (config.batch // part) % config.micro_batch:
        raise ValueError(
            f"batch {config.batch} must be a multiple of updates x processes x micro_batch = {config.updates} x "
            f"{processes} x {config.micro_batch} = {part * config.micro_batch}"
        )
