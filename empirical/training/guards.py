r"""Guards: ratios are 1 before an update, numbers are finite.

**The tolerance of a ratio.** Replayed from the same inputs, a step's mean may differ by rounding. With unit roundoff u
of the network's dtype and a growth G of rounding errors through its layers, each of the n entries of the mean is off by
about G u |mean|, independently, so that the summed log-ratio is off by

.. math:: \sqrt n \, r + \tfrac n2 r^2, \qquad r = G \, u \, \frac{\mathrm{rms}(\mathrm{mean})}{\mathrm{std}}

which grows as std falls: steps of small std cannot be guarded, and the last one is never trained. It is capped at the
clip: a ratio that is off by as much before any update makes the update meaningless, whatever the reason. In bfloat16
the cap binds at most steps, and what passes there is a replay in the same batches by the same kernels, which is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

GROWTH = 64.0  # tests/test_ddpo_guards.py measures it: float32 against float64 stays below half of the tolerance


class TrainingStopped(ValueError):
    """The run cannot go on; what was saved before is untouched."""


def tolerance(mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Largest absolute summed log-ratio that rounding explains, float64 of shape (batch,).

    Args:
        mean: of a step, shape (batch, ...).
        std: of it, positive.
        dtype: in which the network computes.
    """
    entries = mean[0].numel()
    u = torch.finfo(dtype).eps / 2
    r = GROWTH * u * mean.double().square().flatten(1).mean(1).sqrt() / std.double().flatten()
    return entries**0.5 * r + entries / 2 * r**2


@dataclass
class RatioGuard:
    """Collects log-ratios that must be 0, and names the worst of those that are not.

    Args:
        timesteps: of the grid, for the message.
        cap: the clip, summed over entries.
    """

    timesteps: Sequence[float]
    cap: float
    worst: dict[int, tuple[float, float, str]] = field(default_factory=dict)

    def add(self, step: int, log_ratio: Tensor, allowed: Tensor, prompts: Sequence[str]) -> None:
        """Log-ratios of a step, summed over entries, shape (batch,), with their tolerances."""
        change, allowed = log_ratio.detach().abs().double(), allowed.clamp(max=self.cap)
        share = (change / allowed.to(change)).nan_to_num(nan=torch.inf)
        i = int(share.argmax())
        if step not in self.worst or float(share[i]) > self.worst[step][0] / self.worst[step][1]:
            self.worst[step] = float(change[i]), float(allowed[i]), prompts[i]

    def shares(self) -> Mapping[int, float]:
        """Worst log-ratio of each step over its tolerance."""
        return {step: change / allowed for step, (change, allowed, _) in sorted(self.worst.items())}

    def check(self) -> None:
        """Stop where a ratio is not 1.

        Raises:
            TrainingStopped: names the worst step, by its excess over the tolerance, its timestep, prompt and numbers.
        """
        shares = self.shares()
        failed = [step for step, share in shares.items() if not share <= 1]
        if not failed:
            return
        step = max(failed, key=lambda k: shares[k] if shares[k] == shares[k] else torch.inf)
        change, allowed, prompt = self.worst[step]
        raise TrainingStopped(
            f"before the first update every ratio must be 1, but at step {step} (timestep {self.timesteps[step]:g}) a "
            f"log-ratio is {change:.3g}, tolerance {allowed:.3g}, prompt {prompt!r}; {len(failed)} of {len(shares)} "
            "trained steps fail. Replay must use the timestep, precision, guidance and eval mode of the rollout"
        )


def require_finite(what: str, values: Tensor, prompts: Sequence[str] | None = None) -> None:
    """Stop at NaN or an infinity.

    Raises:
        TrainingStopped: says what gave it, and for which prompt.
    """
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    sample = int((~finite.flatten(1).all(1)).nonzero()[0]) if prompts else None  # a doubled batch repeats them
    where = "" if sample is None else f" for sample {sample % len(prompts)}, prompt {prompts[sample % len(prompts)]!r}"
    raise TrainingStopped(
        f"{what} gave NaN or an infinity{where}; the last good checkpoint is kept: lower the learning rate, or use "
        "float32 or bfloat16"
    )
