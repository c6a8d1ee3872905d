"""A run of a trainer: what it holds, how it starts or goes on, and which samples each process makes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object, set_seed
from diffusers import DiffusionPipeline
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from analysis.files import write_text
from empirical.meter.measure import named_rewards
from empirical.meter.pipelines import DTYPES, denoiser, load
from empirical.training import checkpoint, tune
from empirical.training.evaluate import Exam
from empirical.training.log import Log
from empirical.training.policy import Policy
from empirical.training.prompts import Prompts, held_out, training
from empirical.training.settings import TRACKERS, Common, check
from gapbound.updates import PromptBuffer

Say = Callable[[str], Any]


@dataclass
class State:
    """What a run remembers from epoch to epoch besides its weights."""

    epoch: int = 0
    updates: int = 0
    kl_weight: float = 0.0
    buffer: PromptBuffer = field(default_factory=PromptBuffer)


@dataclass
class Run:
    """Everything that a trainer needs; ``start`` makes it."""

    config: Any
    accelerator: Accelerator
    pipeline: DiffusionPipeline
    policy: Policy
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    ema: EMAModel | None
    reward: Any
    prompts: Prompts
    exam: Exam
    log: Log
    say: Say
    state: State = field(default_factory=State)
    trained: tuple[int, ...] = ()

    def samples(self, epoch: int, numbers: Sequence[int]) -> tuple[list[str], list[int]]:
        """Prompts of an epoch's samples, and their numbers counted from the start of the run."""
        each, config = self.config.batch // self.config.group, self.config
        prompts = self.prompts.take(epoch * each, each)
        return [prompts[i // config.group] for i in numbers], [epoch * config.batch + i for i in numbers]

    def shares(self) -> Iterator[range]:
        """This process's samples of an epoch, ``micro_batch`` at a time, update by update."""
        config, world = self.config, self.accelerator.num_processes
        part = config.batch // config.updates
        own = part // world
        for u in range(config.updates):
            first = u * part + self.accelerator.process_index * own
            for i in range(first, first + own, config.micro_batch):
                yield range(i, i + config.micro_batch)

    def gathered(self, values: Tensor) -> Tensor:
        """Numbers of this process's samples -> those of all samples, in their order, on the CPU."""
        own = torch.tensor([i for share in self.shares() for i in share], device=self.accelerator.device)
        order, found = (self.accelerator.gather(t).cpu() for t in (own, values.to(self.accelerator.device)))
        return torch.empty_like(found).index_copy(0, order, found)

    @contextmanager
    def judged(self) -> Iterator[str]:
        """The weights that are evaluated and saved, "ema" or "raw", in their place inside the block."""
        if self.ema is None:
            yield "raw"
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield "ema"
        finally:
            self.ema.restore(self.parameters)

    def save_if_due(self, epoch: int) -> None:
        """``save`` every ``save_every`` epochs and after the last."""
        if epoch % self.config.save_every == 0 or epoch == self.config.epochs:
            self.save(epoch)

    def save(self, epoch: int) -> None:
        """A checkpoint after ``epoch`` finished epochs, with the random state of every process."""
        for name, value in tune.trainable(denoiser(self.pipeline)).items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} is not finite after epoch {epoch}; the last good checkpoint is kept")
        randoms = gather_object([checkpoint.random_state()])
        if self.accelerator.is_main_process:
            state = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "random": randoms,
                "updates": self.state.updates,
                "kl_weight": self.state.kl_weight,
                "buffer": {prompt: list(kept) for prompt, kept in self.state.buffer.rewards.items()},
            }
            weights = tune.trainable(denoiser(self.pipeline))
            checkpoint.save(self.config.out / "checkpoints", epoch, weights, state, self.config.keep)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go back to the last whole checkpoint, if there is one.

        Raises:
            ValueError: no checkpoint is whole, or one of another number of processes.
        """
        found = checkpoint.latest(self.config.out / "checkpoints", self.say)
        epoch = 0 if found is None else found.epoch
        if found is not None:
            self._restore(found)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.log.rewind(epoch)
            for old in (self.config.out / "evaluations").glob("epoch-*"):
                if int(old.name.removeprefix("epoch-")) > epoch:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        state, randoms = found.state, found.state["random"]
        if len(randoms) != self.accelerator.num_processes:
            raise ValueError(
                f"the checkpoint is of {len(randoms)} processes, this run has {self.accelerator.num_processes}; start "
                "as many, or name another folder"
            )
        tune.restore(tune.trainable(denoiser(self.pipeline)), found.weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.accelerator.device)
        buffer = PromptBuffer(rewards={prompt: tuple(kept) for prompt, kept in state["buffer"].items()})
        self.state = State(found.epoch, state["updates"], state["kl_weight"], buffer)
        checkpoint.set_random_state(randoms[self.accelerator.process_index])
        self.say(f"going on after epoch {found.epoch}")


def start(config: Common, say: Say, accelerator: Accelerator | None = None) -> Run:
    """A run in its folder, which goes on from the last checkpoint there if there is one.

    Raises:
        ValueError: see ``assemble``; a folder of another run, or one that cannot be written; no checkpoint is whole.
    """
    run = assemble(config, say, accelerator)
    if run.accelerator.is_main_process:
        _claim(config, run.prompts)
    run.accelerator.wait_for_everyone()
    run.log = _log(config, run.accelerator)
    set_seed(config.seed, device_specific=True)  # the run's own draws are keyed; a reward's may not be
    run.resume()
    return run


def assemble(config: Common, say: Say, accelerator: Accelerator | None = None) -> Run:
    """Load everything and refuse what cannot be, writing nothing.

    Raises:
        ValueError: see ``settings.check``; FSDP or DeepSpeed; a tracker that is missing; a model, reward, prompts,
            sampler or eta that cannot be.
    """
    accelerator = accelerator or Accelerator(
        cpu=not torch.cuda.is_available(),  # or processes on CPUs would not find each other
        log_with=None if config.tracker == "none" else _tracker(config.tracker),
        project_dir=str(config.out),
    )
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ValueError(f"{accelerator.distributed_type} shards what checkpoints must hold whole; use plain processes")
    check(config, accelerator.num_processes)
    pipeline = load(config.model, accelerator.device, DTYPES[config.dtype])
    pipeline.set_progress_bar_config(disable=True)
    for network in (denoiser(pipeline), pipeline.vae):
        network.to(memory_format=torch.channels_last)  # convolutions are faster so, forward by a third
    reference = tune.unfreeze(pipeline) if config.rank is None else tune.add_lora(pipeline, config.rank, config.seed)
    if config.checkpointing:
        denoiser(pipeline).enable_gradient_checkpointing()
    policy = Policy(
        pipeline, config.steps, config.eta_at(0), config.guidance, config.sampler, config.size, reference=reference,
        flash=config.flash,
    )  # fmt: skip
    trained = _checked_steps(config, policy)
    rewards = named_rewards([config.reward, *config.also])
    parameters = list(tune.trainable(denoiser(pipeline)).values())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    policy.network = accelerator.prepare_model(denoiser(pipeline))
    return Run(
        config, accelerator, pipeline, policy, parameters, optimizer,
        torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup(config.warmup)),
        None if config.ema is None else EMAModel(parameters, decay=config.ema),
        next(iter(rewards.values())), Prompts(training(config.prompts, config.model, config.families), config.seed),
        _exam(config, rewards), Log(config.out / "log.jsonl", active=False), say, State(kl_weight=config.kl_weight),
        trained,
    )  # fmt: skip


def _exam(config: Common, rewards: Mapping[str, Any]) -> Exam:
    etas = {1.0} | ({config.eta[0]} if len(config.eta) == 1 else set())
    return Exam(
        held_out(config.evaluation_prompts, config.model, config.families), rewards, tuple(sorted(etas)), config.steps,
        config.guidance, config.evaluation_samples, config.seed, config.sampler, config.size, config.micro_batch,
    )  # fmt: skip


def _log(config: Common, accelerator: Accelerator) -> Log:
    track = None
    if config.tracker != "none":
        settings = {key: str(value) for key, value in config.record().items()}
        accelerator.init_trackers("gapbound", config=settings)
        track = accelerator.log
    return Log(config.out / "log.jsonl", accelerator.is_main_process, track)


def _checked_steps(config: Common, policy: Policy) -> tuple[int, ...]:
    """The steps that the run trains at all, after a look at every eta that it will use."""
    found: set[int] = set()
    for eta in {tuple(np.atleast_1d(config.eta_at(epoch)).tolist()) for epoch in range(config.epochs)}:
        policy.use(eta[0] if len(eta) == 1 else eta)
        trainable = policy.trainable_steps
        found |= set(trainable)
        if config.train_steps is not None and not 1 <= config.train_steps <= len(trainable):
            raise ValueError(
                f"train_steps must be 1 to {len(trainable)}, the steps that can be trained, got {config.train_steps}"
            )
    policy.use(config.eta_at(0))
    return tuple(sorted(found))


def _warmup(updates: int) -> Callable[[int], float]:
    return lambda done: min(1.0, (done + 1) / (updates + 1))


def _tracker(name: str) -> str:
    if importlib.util.find_spec(TRACKERS[name]) is None:
        raise ValueError(f"the tracker {name} is not installed; pip install {name}, or pass --tracker none")
    return name


def _claim(config: Common, prompts: Prompts) -> None:
    """A folder belongs to the settings of one run."""
    digest = hashlib.sha256("\n".join(prompts.texts).encode()).hexdigest()
    path, own = config.out / "config.json", json.loads(json.dumps({**config.record(), "prompts_sha256": digest}))
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, json.dumps(own, indent=1) + "\n")
            return
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot write into {config.out} ({error.strerror}); name another folder") from None
    different = [key for key in {**found, **own} if found.get(key) != own.get(key)]
    if different:
        told = ", ".join(f"{key} {found.get(key)} there and {own.get(key)} here" for key in different)
        raise ValueError(f"{config.out} holds another run ({told}); name another folder with --out, or delete it")
