"""One optimiser step on a part of an epoch's samples, and the numbers that an epoch's updates leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from empirical.training.guards import RatioGuard
from empirical.training.rollout import Trajectory
from empirical.training.update import Share, check_gradients, step_share
from gapbound.updates import Advantage, summed_clip

if TYPE_CHECKING:
    from empirical.training.run import Run


@dataclass
class Record:
    """Sums over the shares of an epoch, of this process until ``reduced``.

    Attributes:
        terms: pairs of sample and step.
        clipped: of them, those whose gradient the clip removed.
        kl: summed KL of their steps; ``kl_at_eta_1`` rescaled, NaN where there is no formula.
        change: largest absolute summed log-ratio.
        guard: worst log-ratio before the first update over its tolerance.
        tolerances: largest tolerance of each step checked.
        norms: of the gradients, before they were clipped.
        skipped: updates without any advantage.
        trained: how often each step was trained.
        entries: of a sample's latents.
    """

    terms: float = 0.0
    clipped: float = 0.0
    kl_sum: float = 0.0
    rescaled: float = 0.0
    weighed: bool = False
    change: float = 0.0
    guard: float = 0.0
    tolerances: dict[int, float] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0
    trained: dict[int, int] = field(default_factory=dict)
    entries: int = 1

    def add(self, share: Share, rescaling: float | None) -> None:
        """Count a share."""
        self.terms += len(share.change)
        self.clipped += share.clipped
        self.change = max(self.change, float(share.change.abs().max()))
        if share.kl is not None:
            self.weighed = True
            self.kl_sum += float(share.kl.sum())
            self.rescaled += float("nan") if rescaling is None else rescaling * float(share.kl.sum())

    @property
    def kl(self) -> float | None:
        """Mean KL of a step, summed over entries; None if it was not computed."""
        return self.kl_sum / self.terms if self.weighed and self.terms else None

    def reduced(self, accelerator: Any) -> None:
        """Make the sums and maxima those of all processes."""
        device = accelerator.device
        sums = torch.tensor([self.terms, self.clipped, self.kl_sum, self.rescaled], device=device)
        peaks = torch.tensor([[self.change, self.guard]], device=device)
        self.terms, self.clipped, self.kl_sum, self.rescaled = accelerator.reduce(sums, "sum").tolist()
        self.change, self.guard = accelerator.gather(peaks).max(0).values.tolist()

    def record(self, clip: float) -> Mapping[str, Any]:
        """As the log holds it, in both units where there are two: per entry, and summed."""
        kl_at_1 = self.rescaled / self.terms if self.kl is not None and self.rescaled == self.rescaled else None
        return {
            "clipped_fraction": self.clipped / self.terms if self.terms else 0.0,
            "clip_per_entry": clip,
            "clip_summed": summed_clip(clip, self.entries),
            "largest_log_ratio_per_entry": self.change / self.entries,
            "largest_log_ratio_summed": self.change,
            "guard_log_ratio_over_tolerance": self.guard,
            "guard_tolerance_by_step": {str(k): value for k, value in self.tolerances.items()},
            "kl_step": self.kl,
            "kl_step_at_eta_1": kl_at_1,
            "gradient_norm": self.norms,
            "updates_skipped": self.skipped,
            "trained_steps": {str(k): n for k, n in sorted(self.trained.items())},
        }


def improve(
    run: Run, paths: Sequence[Trajectory], advantage: Advantage, steps: Sequence[int], record: Record, part: int
) -> None:
    """Accumulate the gradient over ``steps`` of ``paths`` and take an optimiser step.

    The loss is a mean over the part's samples in all processes, so that their number does not change it.

    Args:
        run: policy, optimiser and state.
        paths: this process's share of the part.
        advantage: of all samples of the epoch.
        steps: to train.
        record: gets the numbers.
        part: which part of the epoch; the ratios are guarded in the first.

    Raises:
        TrainingStopped: a ratio that is not 1, a number that is not finite.
    """
    config, world = run.config, run.accelerator.num_processes
    size = config.batch // config.updates
    kept = int(advantage.kept[part * size : (part + 1) * size].sum())
    if not kept and not run.state.kl_weight:
        record.skipped += 1
        return
    guard = RatioGuard(run.policy.scheduler.timesteps.tolist(), summed_clip(config.clip, paths[0].entries))
    shares = [(path, k) for path in paths for k in steps]
    for i, (path, k) in enumerate(shares):
        own = torch.tensor(path.numbers) % config.batch
        last = i == len(shares) - 1  # only then do processes average their gradients
        with nullcontext() if last else run.accelerator.no_sync(run.policy.network):
            share = step_share(
                run.policy, path, k, advantage.value[own], advantage.kept[own], config.clip, run.state.kl_weight,
                (kept * len(steps), size * len(steps)), run.policy.weight(k, config.std_power),
            )  # fmt: skip
            run.accelerator.backward(share.loss * world)
        record.add(share, run.policy.rescaling(k))
        record.entries = path.entries
        if part == 0:
            guard.add(k, share.change, path.tolerance[k], path.prompts)
    guard.check()
    record.guard = max([record.guard, *guard.shares().values()])
    record.tolerances |= {k: allowed for k, (_, allowed, _) in sorted(guard.worst.items())}
    for k in steps:
        record.trained[k] = record.trained.get(k, 0) + size
    record.norms.append(check_gradients(run.parameters, config.max_norm))
    run.optimizer.step()
    run.schedule.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.state.updates += 1
    if run.ema is not None:
        run.ema.step(run.parameters)
