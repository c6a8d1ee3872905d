"""How fast the library is, beside the physical limit and other libraries in one run: ``make bench``.

Every figure is a ratio of medians over interleaved repetitions, so that a drifting machine slows both sides alike. All
peers do the whole work at full size; none is extrapolated. The limit of an SDE simulation is the time torch takes to
fill the same count of normal numbers (and, for a mixture, to take one exponential per component) and do nothing else;
beside each peer stands how much faster the limit itself is, which no simulator can pass.

Ratios to peers hold on an idle machine: their operations are OpenMP loops, which wait for the slowest core. Where
another process holds one they take twice as long, and ten times with OpenMP's default of waiting in a loop, which is
switched off here. The first line tells: normal_ should gain nearly the number of threads. The ratios in one thread do
not suffer.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    # before torch is loaded: the OpenMP threads of one side would go on spinning while the next side is timed
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torchsde
from diffusers import DDIMScheduler
from rich.console import Console
from rich.table import Table

import gapbound as gb
from analysis.command import run

BLOCK = 2**15  # numbers per buffer: they stay in cache, and torch is fastest there
PATHS, STEPS = 1_000_000, 50
TARGET, PROCESS = gb.Gaussian(0.7, 0.5), gb.VE(5.0)
WIDE = gb.Gaussian(np.zeros(64), np.linspace(0.1, 2.0, 64))
MIXTURE = gb.GaussianMixture(np.full(8, 1 / 8), np.linspace(-3.5, 3.5, 8), np.linspace(0.05, 0.4, 8))
PLAIN_MEANS, PLAIN_VARIANCES = (
    torch.tensor(values[:, 0], dtype=torch.float32) for values in (MIXTURE.components.mean, MIXTURE.components.cov)
)
SCHEDULER = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
MEMORY_LIMIT = 64  # MiB beyond the output


@dataclass(frozen=True)
class Row:
    """One line of the report: what was measured, its target if it has one, and whether that is met."""

    case: str
    measured: str
    target: str = ""
    met: bool | None = None


def main(repeat: int = 5, strict: bool = False) -> None:
    """Measure and print the ratios.

    Args:
        repeat: repetitions of each side, of which the median counts; the slowest peers run half as often.
        strict: exit with 1 if a target is missed.
    """
    rows: list[Row] = []
    console = Console(width=120)
    for measure in (gaussian, sixty_four_dimensions, mixture, memory, closed_forms):
        with console.status(measure.__doc__ or ""):
            rows += measure(repeat)
    table = Table(title=f"{torch.get_num_threads()} threads, torch {torch.__version__}, medians of up to {repeat}")
    for column in ("case", "measured", "target", "met"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.case, row.measured, row.target, {True: "yes", False: "NO", None: ""}[row.met])
    console.print(table)
    if strict and any(row.met is False for row in rows):
        sys.exit(1)


def gaussian(repeat: int) -> list[Row]:
    """One dimension, 1e6 paths x 50 steps: against the limit and three peers."""

    def own() -> object:
        return gb.simulate(TARGET, PROCESS, n=PATHS, steps=STEPS)

    def limit() -> None:  # one normal for x_T and one for each step but the last, which goes to sigma = 0
        fill_normals(PATHS * STEPS)

    threads = torch.get_num_threads()
    mine, all_threads, one_thread, mine_alone = medians(2 * repeat + 1, own, limit, alone(limit), alone(own))
    peers = {
        "torchsde's Euler": (lambda: torchsde_loop(TARGET.score, PATHS, 1, STEPS), 20),
        "a diffusers DDIMScheduler loop, eta = 1": (lambda: diffusers_loop(PATHS, STEPS), 30),
        "a naive loop over whole arrays": (lambda: naive_loop(PATHS, STEPS), None),
    }
    return [
        Row("normal_ in all threads over normal_ in one", f"{one_thread / all_threads:.2f} x", f"{threads} x if idle"),
        Row(f"1e6 paths x {STEPS} steps of a 1-d Gaussian", f"{mine:.3f} s"),
        share("  of the limit: the same count by normal_, in one thread as torch runs it", one_thread / mine, 0.8),
        share(f"  of the limit in {threads} threads, as simulate runs", all_threads / mine, 0.8),
        share("  of the limit, both in one thread", one_thread / mine_alone),
        *against(repeat, own, limit, peers),
    ]


def sixty_four_dimensions(repeat: int) -> list[Row]:
    """Sixty-four dimensions, a diagonal Gaussian."""
    n = 20_000

    def own() -> object:
        return gb.simulate(WIDE, PROCESS, n=n, steps=STEPS)

    def limit() -> None:
        fill_normals(64 * n * STEPS)

    mine, bound = medians(repeat, own, limit)
    return [
        Row(f"{n} paths x {STEPS} steps of a 64-d Gaussian", f"{mine:.3f} s"),
        share("  of the limit in as many threads", bound / mine),
        *against(repeat, own, limit, {"torchsde's Euler": (lambda: torchsde_loop(WIDE.score, n, 64, STEPS), 5)}),
    ]


def mixture(repeat: int) -> list[Row]:
    """Eight components in one dimension; the limit takes one exponential per component and step."""
    n = 200_000

    def own() -> object:
        return gb.simulate(MIXTURE, PROCESS, n=n, steps=STEPS)

    def limit() -> None:
        fill_normals(n * STEPS)
        exponentials(8 * n * STEPS)

    mine, bound = medians(repeat, own, limit)
    peers = {
        "torchsde's Euler, the score in plain torch": (lambda: torchsde_loop(plain_score, n, 1, STEPS), 5),
        "torchsde's Euler with this library's score": (lambda: torchsde_loop(MIXTURE.score, n, 1, STEPS), 5),
    }
    return [
        Row(f"{n} paths x {STEPS} steps of a mixture of 8", f"{mine:.3f} s"),
        share("  of the limit in as many threads: a normal and 8 exponentials per step", bound / mine),
        *against(repeat, own, limit, peers),
    ]


def against(
    repeat: int,
    own: Callable[[], object],
    limit: Callable[[], object],
    peers: dict[str, tuple[Callable[[], object], float | None]],
) -> list[Row]:
    """One line per peer: in all threads, in one, and by the limit."""
    sides = [own, limit, *(peer for peer, _ in peers.values())]
    mine, bound, *theirs = medians(repeat // 2 + 1, *sides)
    mine_alone, *theirs_alone = medians(repeat // 2 + 1, *(alone(side) for side in (own, *sides[2:])))
    return [
        times(
            f"  against {name}",
            peer / mine,
            target,
            f"one thread {peer_alone / mine_alone:.1f}; limit {peer / bound:.1f}",
        )
        for (name, (_, target)), peer, peer_alone in zip(peers.items(), theirs, theirs_alone, strict=True)
    ]


def alone(side: Callable[[], object]) -> Callable[[], None]:
    """The same in one thread."""

    def run() -> None:
        with torch_threads(1):
            side()

    return run


def memory(repeat: int) -> list[Row]:
    """Peak memory of a large run beyond its samples, in a new process.

    What is resident before the run is read first, or the peak that importing left would hide it.
    """
    n = 20 * PATHS
    code = (
        "from analysis.benchmarks.speed import *; "
        "gb.simulate(TARGET, PROCESS, n=PATHS // 10, steps=5); "
        "read = lambda key: next(line for line in open('/proc/self/status') if line.startswith(key)).split()[1]; "
        f"before = read('VmRSS'); samples = gb.simulate(TARGET, PROCESS, n={n}, steps=5).samples; "
        "print(before, read('VmHWM'), samples.nbytes)"
    )
    if not Path("/proc/self/status").exists():
        return [Row("peak memory beyond the samples", "needs Linux")]
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, peak, samples = (int(word) for word in output.split())  # KiB, KiB, bytes
    extra = (peak - before) / 2**10 - samples / 2**20
    case = f"peak memory of {n:.0e} paths beyond their {samples / 2**20:.0f} MiB of samples"
    return [Row(case, f"{extra:.0f} MiB", f"<= {MEMORY_LIMIT} MiB", extra <= MEMORY_LIMIT)]


def closed_forms(repeat: int) -> list[Row]:
    """Closed forms: one gap, a million, a full covariance, a long recursion."""
    reward, rng = gb.Quadratic(1.0, 0.0), np.random.default_rng(0)
    root = rng.standard_normal((1000, 1000))
    cov = root @ root.T / 1000 + 0.1 * np.eye(1000)
    matrix = gb.Quadratic(np.eye(1000) + (root + root.T) / 100, 0.0)
    many, etas = 1000, np.linspace(0, 3, 1000)
    one, million, full, recursion = medians(
        repeat // 2 + 1,
        lambda: [gb.reward_gap(TARGET, PROCESS, reward) for _ in range(many)],
        lambda: gb.reward_gap(TARGET, gb.VE(np.logspace(-1, 3, 1_000_000)), reward),
        lambda: gb.reward_gap(gb.Gaussian(np.ones(1000), cov), PROCESS, matrix),
        lambda: gb.discrete_law(TARGET, PROCESS, "gddim", etas, 1000),
    )
    return [
        below("one closed-form gap", one / many * 1e6, 100, "us"),
        below("a million broadcast gaps", million, 2, "s"),
        below("one gap of a full covariance, d = 1000, with its decomposition", full, 2, "s"),
        below("exact law of 1000 steps for 1000 eta", recursion, 1, "s"),
    ]


def fill_normals(total: int) -> None:
    """Fill ``total`` normals in buffers that stay in cache, and do nothing with them."""

    def fill(count: int) -> None:
        buffer, generator = torch.empty(BLOCK), torch.Generator()
        for _ in range(-(-count // BLOCK)):
            buffer.normal_(generator=generator)

    in_threads(fill, total)


def exponentials(total: int) -> None:
    """Take ``total`` exponentials in buffers that stay in cache."""

    def fill(count: int) -> None:
        buffer, result = torch.full((BLOCK,), -0.5), torch.empty(BLOCK)
        for _ in range(-(-count // BLOCK)):
            torch.exp(buffer, out=result)

    in_threads(fill, total)


def in_threads(work: Callable[[int], None], total: int) -> None:
    """``work`` on equal shares of ``total`` in as many Python threads as torch has, each with single-threaded torch."""
    threads = torch.get_num_threads()
    with torch_threads(1), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(work, [total // threads] * threads))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def naive_loop(n: int, steps: int) -> torch.Tensor:
    """GDDIM on whole arrays, as one writes it first."""
    sigmas = gb.grid(PROCESS, steps).tolist()
    z = PROCESS.sigma_T.item() * torch.randn(n, 1)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        eps = sigma * (z - 0.7) / (0.5 + sigma**2)
        k = sigma_next / sigma
        z = z - sigma * eps + sigma_next * k * eps + sigma_next * (1 - k**2) ** 0.5 * torch.randn_like(z)
    return z


def diffusers_loop(n: int, steps: int) -> torch.Tensor:
    """The exact noise prediction for ``TARGET`` stepped by diffusers' DDIMScheduler at eta = 1."""
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 1)
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t]
        eps = (1 - alpha_bar).sqrt() * (x - 0.7 * alpha_bar.sqrt()) / (0.5 * alpha_bar + 1 - alpha_bar)
        x = scheduler.step(eps, t, x, eta=1.0).prev_sample
    return x


def plain_score(z: torch.Tensor, sigma: float) -> torch.Tensor:
    """The score of ``MIXTURE`` as one writes it first: a softmax over the last axis of (n, 8)."""
    variance = PLAIN_VARIANCES + sigma**2
    posterior = torch.softmax(-((z - PLAIN_MEANS) ** 2) / (2 * variance) - variance.log() / 2, -1)
    return (posterior * (PLAIN_MEANS - z) / variance).sum(-1, keepdim=True)


class ReverseSDE(torch.nn.Module):
    """The same SDE as torchsde wants it: time s from 0 to 1 with sigma = sigma_T (1 - s)."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, score: Callable[[torch.Tensor, float], torch.Tensor], sigma_T: float) -> None:
        """Keep the score."""
        super().__init__()
        self.score, self.sigma_T = score, sigma_T

    def f(self, s: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Drift: score times -dtau/ds."""
        sigma = self.sigma_T * (1 - float(s))
        return self.score(z, sigma) * (2 * sigma * self.sigma_T)

    def g(self, s: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Diffusion, sqrt(-dtau/ds)."""
        return torch.full_like(z, self.sigma_T * (2 * (1 - float(s))) ** 0.5)


def torchsde_loop(score: Callable[[torch.Tensor, float], torch.Tensor], n: int, dim: int, steps: int) -> torch.Tensor:
    """torchsde's Euler with its own Brownian motion; it stops a hair before s = 1."""
    sigma_T = float(PROCESS.sigma_T)
    times = torch.tensor([0.0, 1.0 - 1e-6])
    with torch.no_grad():
        start = sigma_T * torch.randn(n, dim)
        return torchsde.sdeint(ReverseSDE(score, sigma_T), start, times, method="euler", dt=1 / steps)[-1]


def medians(repeat: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side, after one warm-up, taken in turn."""
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(repeat + 1):
        for side, record in zip(sides, taken, strict=True):
            begin = time.perf_counter()
            side()
            if round_:
                record.append(time.perf_counter() - begin)
    return [statistics.median(record) for record in taken]


def share(case: str, value: float, target: float | None = None) -> Row:
    """A share of a limit, in percent."""
    if target is None:
        return Row(case, f"{value:.0%}")
    return Row(case, f"{value:.0%}", f">= {target:.0%}", value >= target)


def times(case: str, value: float, target: float | None = None, note: str = "") -> Row:
    """How many times as fast."""
    measured = f"{value:.1f} x" + (f" ({note})" if note else "")
    return Row(case, measured) if target is None else Row(case, measured, f">= {target:g} x", value >= target)


def below(case: str, value: float, target: float, unit: str) -> Row:
    """A time that must stay below its target."""
    return Row(case, f"{value:.3g} {unit}", f"< {target:g} {unit}", value < target)


if __name__ == "__main__":
    run(main, "python -m analysis.benchmarks.speed")
