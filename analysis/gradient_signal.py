r"""How much of DDPO's gradient is signal, step by step: ``python -m analysis.gradient_signal``, minutes.

The policy is that of ``train_ddpo`` without an update, all weights. Epochs of independent samples give gradients g_e;
with E of them, whose mean is g,

.. math:: \text{signal}^2 = \frac{|E g|^2 - \sum_e |g_e|^2}{E (E - 1)}, \qquad
    \text{noise}^2 = \frac1E \sum_e |g_e|^2

and signal over noise, squared, is how many epochs it takes until an average of gradients is half signal, inverted. The
signal is an inner product of different epochs, without bias; its error is the jackknife's over epochs. A
**combination** weighs the steps before it adds them: all equal is DDPO as published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from analysis.command import console, run
from empirical.training.ddpo import advantages, rollout, score
from empirical.training.ddpo_config import DDPOConfig
from empirical.training.run import Run, start
from empirical.training.update import step_share


@dataclass(frozen=True)
class Signal:
    """Of a combination of steps: root mean square norm, (signal / noise)^2 and its standard error."""

    norm: float
    ratio: float
    error: float


def signal(gradients: Tensor) -> Signal:
    """Of gradients of independent epochs, shape (epochs, parameters); at least 3.

    Raises:
        ValueError: fewer than 3 epochs, which give no error.
    """
    n = len(gradients)
    if n < 3:
        raise ValueError(f"epochs must be at least 3, got {n}: the error needs them")
    products = gradients.double() @ gradients.double().T
    squares, rows = products.diagonal(), products.sum(1) - products.diagonal()
    whole = _ratio(rows.sum(), squares.sum(), n)
    without = _ratio(rows.sum() - 2 * rows, squares.sum() - squares, n - 1)  # one epoch left out
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return Signal(float(squares.mean()) ** 0.5, float(whole), float(error))


def _ratio(pairs: Tensor, squares: Tensor, n: int) -> Tensor:
    """Mean inner product of different epochs over that of an epoch with itself."""
    return pairs / (n * (n - 1)) / (squares / n)


def gradients(run: Run, epochs: int) -> dict[int, Tensor]:
    """Of each trainable step, shape (epochs, parameters); nothing is updated."""
    found: dict[int, list[Tensor]] = {k: [] for k in run.policy.trainable_steps}
    for epoch in range(epochs):
        paths = rollout(run, epoch)
        advantage = advantages(run, epoch, score(run, paths)[0])
        kept = float(advantage.kept.sum())
        for k, taken in found.items():
            for path in paths:
                own = torch.tensor(path.numbers) % run.config.batch
                step_share(
                    run.policy, path, k, advantage.value[own], advantage.kept[own], run.config.clip, 0.0, (kept, kept)
                ).loss.backward()
            taken.append(torch.cat([p.grad.flatten().clone() for p in run.parameters if p.grad is not None]))
            run.optimizer.zero_grad(set_to_none=True)
    return {k: torch.stack(taken) for k, taken in found.items()}


def combined(by_step: Mapping[int, Tensor], run: Run) -> dict[str, Signal]:
    """Each step by itself, and the steps added by std^0 (as published), std^1, std^2, and without the last."""
    steps = list(by_step)
    found = {f"step {k}, std {run.policy.scheduler.stds[k]:.3f}": signal(by_step[k]) for k in steps}
    for power in (0, 1, 2):
        weighed = sum(run.policy.weight(k, power) * by_step[k] for k in steps)
        found[f"all steps, weighed by std^{power}"] = signal(weighed)
    found["all but the last, equal weights"] = signal(sum(by_step[k] for k in steps[:-1]))
    return found


def main(
    epochs: Annotated[int, tyro.conf.arg(help="Of 64 samples each.")] = 40,
    model: Annotated[str, tyro.conf.arg(help="As for train_ddpo.")] = "embedded",
    reward: Annotated[str, tyro.conf.arg(help="As for train_ddpo.")] = "jpeg_compressibility",
    guidance: Annotated[float, tyro.conf.arg(help="As for train_ddpo.")] = 1.0,
    seed: Annotated[int, tyro.conf.arg(help="Of everything random.")] = 0,
) -> None:
    """Print the signal of every step and combination."""
    with tempfile.TemporaryDirectory() as out:
        config = DDPOConfig(
            out=Path(out), model=model, reward=reward, guidance=guidance, seed=seed, tracker="none", also=(),
            kl_weight=0.0,
        )  # fmt: skip
        run, output = start(config, lambda text: None), console()
        for name, one in combined(gradients(run, epochs), run).items():
            output.print(f"{name}: norm {one.norm:.4f}, (signal / noise)^2 {one.ratio:+.4f} +- {one.error:.4f}")


if __name__ == "__main__":
    run(main, "python -m analysis.gradient_signal")
