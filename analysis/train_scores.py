"""Train the score networks of the certificates: ``python -m analysis.train_scores``, minutes on one CPU core.

Denoising score matching on fresh draws of the target at every step: F of ``analysis.score_network`` is fitted to what
turns c_skip z into x, over noise levels that are uniform in log sigma. Every step draws from a seed of its own, so a
run that was stopped goes on from its last checkpoint as if nothing had happened, and two runs on one machine write the
same bytes.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor

import gapbound as gb
from analysis.command import run
from analysis.files import atomically
from analysis.score_network import SIGMA, TARGETS, WEIGHTS, ScoreNetwork, file_of, new

BUILD = Path("build/scores")  # not committed
KEEP = 1000  # steps between checkpoints


@dataclass(frozen=True)
class Training:
    """One run.

    Args:
        dim: of the target.
        steps: of Adam.
        batch: draws a step.
        rate: learning rate, falling to 0 along half a cosine.
        seed: of the initial weights and of every draw.
    """

    dim: int
    steps: int = 20_000
    batch: int = 2048
    rate: float = 2e-3
    seed: int = 0

    def generator(self, step: int) -> torch.Generator:
        """The randomness of one step; step -1 is the initial weights'."""
        sequence = np.random.SeedSequence([self.seed, self.dim, step + 1])
        return torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))


def draw(target: gb.GaussianMixture, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clean points (n, d), unit noise (n, d) and noise levels (n, 1), log-uniform and stratified."""
    weights, law = torch.tensor(target.weights, dtype=torch.float32), target.components
    chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
    means, sds = (torch.tensor(part, dtype=torch.float32)[chosen] for part in (law.mean, np.sqrt(law.variances)))
    x = means + sds * torch.randn(means.shape, generator=generator)
    low, high = math.log(SIGMA[0]), math.log(SIGMA[1])
    share = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    noise = torch.randn(means.shape, generator=generator)
    return x, noise, (low + (high - low) * share).exp()[:, None]


def loss_of(network: ScoreNetwork, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mean squared error of F: (x - c_skip z) / c_out is of unit size at every noise level."""
    s = network.data_std
    z, total = x + sigma * noise, (sigma**2 + s**2).sqrt()
    wanted = (x - s**2 / total**2 * z) * total / (sigma * s)
    return ((network.residual(z, sigma) - wanted) ** 2).mean()


def train(run: Training, checkpoint: Path, progress: Any = lambda step, loss: None) -> ScoreNetwork:
    """The trained network; goes on from ``checkpoint`` where that is of the same run."""
    network = initial(run)
    optimizer = torch.optim.Adam(network.parameters(), lr=run.rate)
    first = _resume(run, checkpoint, network, optimizer)
    target = TARGETS[run.dim]
    for step in range(first, run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.rate * (1 + math.cos(math.pi * step / run.steps)) / 2
        loss = loss_of(network, *draw(target, run.batch, run.generator(step)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % KEEP == 0 or step + 1 == run.steps:
            _keep(run, checkpoint, step + 1, network, optimizer)
            progress(step + 1, float(loss.detach()))
    return network


def initial(run: Training) -> ScoreNetwork:
    """The network before its first step: torch's initialisation from the run's seed, the global generator untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.generator(-1).initial_seed())
        return new(run.dim)


def export(network: ScoreNetwork, run: Training, path: Path) -> None:
    """Write the weights with the run and the versions that made them, whole or not at all."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    # one entry: safetensors keeps no order among several
    training = json.dumps(asdict(run) | {"sigma": SIGMA, "versions": versions}, sort_keys=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    atomically(path, lambda temporary: temporary.write_bytes(save(tensors, {"training": training})))


def _keep(run: Training, checkpoint: Path, step: int, network: ScoreNetwork, optimizer: torch.optim.Optimizer) -> None:
    state = {"run": asdict(run), "step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
    atomically(checkpoint, lambda path: torch.save(state, path))


def _resume(run: Training, checkpoint: Path, network: ScoreNetwork, optimizer: torch.optim.Optimizer) -> int:
    """The first step to make; loads what a run of the same parameters left."""
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["run"] != asdict(run):
        return 0
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def main(
    dim: Annotated[int | None, tyro.conf.arg(help="One dimension alone: 1, 2 or 8.")] = None,
    steps: Annotated[int, tyro.conf.arg(help="Of Adam.")] = Training.steps,
    seed: Annotated[int, tyro.conf.arg(help="Of the weights and of every draw.")] = 0,
    out: Annotated[Path, tyro.conf.arg(help="Folder of the weights.")] = WEIGHTS,
    build: Annotated[Path, tyro.conf.arg(help="Folder of the checkpoints.")] = BUILD,
) -> None:
    """Train the score networks in 1, 2 and 8 dimensions; a run that was stopped goes on."""
    if dim is not None and dim not in TARGETS:
        raise SystemExit(f"--dim must be one of {', '.join(map(str, TARGETS))}, got {dim}")
    if steps < 1 or seed < 0:
        raise SystemExit(f"--steps must be positive and --seed 0 or more, got {steps} and {seed}")
    torch.set_num_threads(1)  # sums in one order
    console = Console(width=None if sys.stdout.isatty() else 110)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
    for size in TARGETS if dim is None else (dim,):
        run = Training(size, steps=steps, seed=seed)
        with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
            task = bars.add_task(f"d = {size}", total=steps, loss="")

            def progress(step: int, loss: float, task: Any = task, bars: Progress = bars, size: int = size) -> None:
                bars.update(task, completed=step, loss=f"loss {loss:.4f}")
                if not console.is_terminal:
                    console.print(f"d = {size}: step {step} of {steps}, loss {loss:.4f}", highlight=False)

            network = train(run, build / f"mixture_{size}d.pt", progress)
        export(network, run, file_of(size, out))
        console.print(f"d = {size}: {file_of(size, out)} written", highlight=False)


if __name__ == "__main__":
    run(main, "python -m analysis.train_scores")
