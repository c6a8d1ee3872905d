"""The measurement itself: batch by batch, every cell of the plan, finished pairs recorded as they are made."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from empirical.meter.clock import Clock
from empirical.meter.diversity import describe
from empirical.meter.draws import Draws
from empirical.meter.generate import Generated, Pair, Run, Sampler
from empirical.meter.pipelines import networks, without_adapters
from empirical.meter.plan import REFERENCE, Cell, Plan
from empirical.meter.store import PairRecord, Store
from empirical.rewards import RewardError, name_of, score

Reward = Callable[..., Any]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class LatentReward:
    """A reward of the final latents, where theory knows the answer, instead of the image.

    Args:
        name: in the report.
        function: latents of shape (batch, ...), float32 -> one number per sample.
    """

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        """The function; a prompt plays no part."""
        return self.function(latents)


@dataclass(frozen=True)
class Instrument:
    """What measures: the model, what it is compared with, and the rewards.

    Args:
        samplers: by role.
        rewards: by name.
        adapters: whether the reference is the model itself with its LoRA off, and has no sampler of its own.
    """

    samplers: Mapping[str, Sampler]
    rewards: Mapping[str, Reward]
    adapters: bool = False

    def seeded(self, seed: int) -> Instrument:
        """The same with other random numbers."""
        samplers = {role: replace(sampler, draws=Draws(seed)) for role, sampler in self.samplers.items()}
        return replace(self, samplers=samplers)

    def generate(self, role: str, pairs: Sequence[Pair], run: Run) -> Generated:
        """One run of the model, or of the reference."""
        if role == REFERENCE and self.adapters:
            sampler = self.samplers["model"]
            with without_adapters(sampler.pipeline):
                return sampler(pairs, run)
        return self.samplers[role](pairs, run)

    def score(self, made: Generated, pairs: Sequence[Pair], run: Run) -> Tensor:
        """The rewards of each image, shape (batch, rewards), on the CPU.

        Raises:
            RewardError: a reward failed; it, the prompt, the sample and the run are named.
        """
        return torch.stack([self._one(reward, made, pairs, run) for reward in self.rewards.values()], dim=1)

    def _one(self, reward: Reward, made: Generated, pairs: Sequence[Pair], run: Run) -> Tensor:
        prompts = [prompt for prompt, _ in pairs]
        try:
            if isinstance(reward, LatentReward):
                return _scored(reward, made.latents, prompts)
            return score(reward, made.images, prompts).cpu()
        except RewardError as error:
            if error.index is None:
                raise
            raise RewardError(f"{error}: sample {pairs[error.index][1]}, {run}", error.index, error.prompt) from error


def _scored(reward: LatentReward, latents: Tensor, prompts: Sequence[str]) -> Tensor:
    values = torch.as_tensor(reward(latents, prompts)).float().cpu()
    if values.shape != latents.shape[:1]:
        raise RewardError(f"the reward {name_of(reward)} must give shape {(len(latents),)}, got {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        index = int((~torch.isfinite(values)).nonzero()[0])
        gave = f"gave {float(values[index])} on image {index}, prompt {prompts[index]!r}"
        raise RewardError(f"the reward {name_of(reward)} {gave}", index, prompts[index])
    return values


@dataclass(frozen=True)
class World:
    """The processes that share a measurement, as accelerate or torchrun start them."""

    rank: int = 0
    size: int = 1

    @classmethod
    def found(cls) -> World:
        """This process's place, from the environment that its launcher set; alone if none did."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            from accelerate import PartialState  # only what several processes need

            PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def measure(
    plan: Plan,
    instrument: Instrument,
    store: Store,
    batch_size: int,
    world: World = World(),
    advance: Advance = lambda images: None,
) -> Clock:
    """Run what is not finished yet of ``plan``, and record it.

    Batches are cut before anything is looked up, and dealt to the processes in turn: neither an interrupt nor the
    number of processes changes which pairs run together.

    Args:
        plan: what.
        instrument: with what.
        store: where to.
        batch_size: pairs that run together.
        world: the processes.
        advance: is told how many images were made, or were there already.

    Returns:
        The time it took in this process.
    """
    finished, clock = store.finished(), Clock()
    world.wait()  # every process has read what is finished before one adds to it
    parts = {id(part): part for sampler in instrument.samplers.values() for part in networks(sampler.pipeline)}
    with clock.watch(parts.values()), torch.no_grad():
        for number, batch in enumerate(plan.batches(batch_size)):
            if number % world.size != world.rank:
                continue
            for cell in plan.cells:
                left = [pair for pair in batch if (cell, *pair) not in finished]
                each = 1 + len(plan.etas) * plan.draws
                advance((len(batch) - len(left)) * each)
                if left:
                    store.append(measure_pairs(plan, instrument, cell, left, clock, advance))
    world.wait()
    return clock


def measure_pairs(
    plan: Plan,
    instrument: Instrument,
    cell: Cell,
    batch: Sequence[tuple[int, int]],
    clock: Clock,
    advance: Advance,
) -> list[PairRecord]:
    """One ODE run and the SDE runs of every eta and draw, over the same pairs."""
    pairs = [(plan.prompts[prompt], sample) for prompt, sample in batch]
    rewards, cells, last = [], [], []
    for run in plan.runs(cell):
        made = instrument.generate(cell.role, pairs, run)
        with clock.scoring():
            rewards.append(instrument.score(made, pairs, run).tolist())
        cells.append(describe(made.images))
        last.append(made.last_std)
        sigmas = [None if math.isinf(sigma) else sigma for sigma in made.sigmas]
        advance(len(pairs))
    by_eta = [range(1 + e * plan.draws, 1 + (e + 1) * plan.draws) for e in range(len(plan.etas))]
    return [
        PairRecord(
            *cell,
            *pair,
            ode=rewards[0][i],
            sde=[[rewards[k][i] for k in draws] for draws in by_eta],
            cells=[column[i] for column in cells],
            sigmas=sigmas,
            last_std=last[1 :: plan.draws],
        )
        for i, pair in enumerate(batch)
    ]
