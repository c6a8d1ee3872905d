"""How fast the library is, beside the physical limit and other libraries in one run: ``make bench``.

Every figure is a ratio of medians over interleaved repetitions, so that a drifting machine slows both sides alike. The
limit of an SDE simulation is the time torch takes to fill the same count of normal numbers and do nothing with them.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchsde
import tyro
from diffusers import DDIMScheduler
from rich.console import Console
from rich.table import Table

import gapbound as gb

BLOCK = 2**15  # normals per fill: the fastest, in cache
PATHS, STEPS = 1_000_000, 50
TARGET, PROCESS = gb.Gaussian(0.7, 0.5), gb.VE(5.0)
MIXTURE = gb.GaussianMixture(np.full(8, 1 / 8), np.linspace(-3.5, 3.5, 8), np.linspace(0.05, 0.4, 8))
MEMORY_LIMIT = 64  # MiB beyond the output


@dataclass(frozen=True)
class Row:
    """One line of the report: what was measured, the target, whether it is met."""

    case: str
    measured: str
    target: str
    met: bool | None = None


def main(repeat: int = 5, strict: bool = False) -> None:
    """Measure and print the ratios.

    Args:
        repeat: repetitions of each side, of which the median counts.
        strict: exit with 1 if a target is missed.
    """
    rows: list[Row] = []
    console = Console()
    for measure in (gaussian, sixty_four_dimensions, mixture, memory, closed_forms):
        with console.status(measure.__doc__ or ""):
            rows += measure(repeat)
    table = Table(title=f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {repeat}")
    for column in ("case", "measured", "target", "met"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.case, row.measured, row.target, {True: "yes", False: "NO", None: ""}[row.met])
    console.print(table)
    if strict and any(row.met is False for row in rows):
        sys.exit(1)


def gaussian(repeat: int) -> list[Row]:
    """One dimension, 1e6 paths x 50 steps: against the limit and three peers."""
    own, single, threaded, naive = medians(
        repeat,
        lambda: gb.simulate(TARGET, PROCESS, n=PATHS, steps=STEPS),
        lambda: fill_normals(PATHS * STEPS, threads=1),
        lambda: fill_normals(PATHS * STEPS, threads=torch.get_num_threads()),
        lambda: naive_loop(PATHS, STEPS),
    )
    own_again, diffusers_time, sde_time = medians(
        max(1, repeat // 2),
        lambda: gb.simulate(TARGET, PROCESS, n=PATHS, steps=STEPS),
        lambda: diffusers_loop(PATHS, STEPS),
        lambda: torchsde_loop(TARGET.score, PATHS // 10, 1, STEPS),
    )
    case = f"{PATHS:.0e} paths x {STEPS} steps, 1-d Gaussian"
    return [
        Row(case, f"{own:.3f} s", ""),
        share("share of the limit, normal_ as torch runs it (one thread)", single / own, 0.8),
        share(f"share of the limit, normal_ in {torch.get_num_threads()} threads", threaded / own, 0.8),
        times("against a naive whole-array torch loop", naive / own, None),
        times("against torchsde's Euler (1e5 paths, scaled by 10)", 10 * sde_time / own_again, 20),
        times("against a diffusers DDIMScheduler loop", diffusers_time / own_again, 30),
    ]


def sixty_four_dimensions(repeat: int) -> list[Row]:
    """Sixty-four dimensions, a diagonal Gaussian."""
    law, n = gb.Gaussian(np.zeros(64), np.linspace(0.1, 2.0, 64)), 20_000
    own, limit, peer = medians(
        max(1, repeat // 2),
        lambda: gb.simulate(law, PROCESS, n=n, steps=STEPS),
        lambda: fill_normals(64 * n * STEPS, threads=torch.get_num_threads()),
        lambda: torchsde_loop(law.score, n // 10, 64, STEPS),
    )
    case = f"{n} paths x {STEPS} steps, 64-d Gaussian"
    return [
        Row(case, f"{own:.3f} s", ""),
        share("share of the threaded limit", limit / own, None),
        times("against torchsde (a tenth of the paths, scaled by 10)", 10 * peer / own, 5),
    ]


def mixture(repeat: int) -> list[Row]:
    """Eight components in one dimension; the limit adds one exponential per component."""
    n = 200_000
    own, limit, peer = medians(
        max(1, repeat // 2),
        lambda: gb.simulate(MIXTURE, PROCESS, n=n, steps=STEPS),
        lambda: (fill_normals(n * STEPS, 1), exponentials(8 * n * STEPS)),
        lambda: torchsde_loop(MIXTURE.score, n // 10, 1, STEPS),
    )
    case = f"{n} paths x {STEPS} steps, 8-component mixture"
    return [
        Row(case, f"{own:.3f} s", ""),
        share("share of the limit (normals and 8 exponentials per step, one thread)", limit / own, None),
        times("against torchsde with the same score (a tenth of the paths, scaled by 10)", 10 * peer / own, 5),
    ]


def memory(repeat: int) -> list[Row]:
    """Peak memory of a large run beyond its samples, in a process of its own."""
    n = 20_000_000
    code = (
        "import resource, gapbound as gb; target, process = gb.Gaussian(0.7, 0.5), gb.VE(5.0); "
        "gb.simulate(target, process, n=100_000, steps=5); "
        "before = [line for line in open('/proc/self/status') if line.startswith('VmRSS')][0].split()[1]; "
        f"gb.simulate(target, process, n={n}, steps=5); "
        "print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    if not Path("/proc/self/status").exists():
        return [Row("memory beyond the output", "needs Linux", "")]
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, peak = (float(kib) / 2**10 for kib in output.split())
    extra = peak - before - n * 4 / 2**20
    return [
        Row(
            f"memory beyond the output, {n:.0e} paths",
            f"{extra:.0f} MiB",
            f"<= {MEMORY_LIMIT} MiB",
            extra <= MEMORY_LIMIT,
        )
    ]


def closed_forms(repeat: int) -> list[Row]:
    """Closed forms: one gap, a million, a full covariance, a long recursion."""
    reward, rng = gb.Quadratic(1.0, 0.0), np.random.default_rng(0)
    times_T = np.logspace(-1, 3, 1_000_000)
    root = rng.standard_normal((1000, 1000))
    cov = root @ root.T / 1000 + 0.1 * np.eye(1000)
    matrix = gb.Quadratic(np.eye(1000) + (root + root.T) / 100, np.zeros(1000))
    many = 500
    one, million, full, recursion = medians(
        repeat,
        lambda: [gb.reward_gap(TARGET, PROCESS, reward) for _ in range(many)],
        lambda: gb.reward_gap(TARGET, gb.VE(times_T), reward),
        lambda: gb.reward_gap(gb.Gaussian(np.ones(1000), cov), PROCESS, matrix),
        lambda: gb.discrete_law(TARGET, PROCESS, "gddim", np.linspace(0, 3, 1000), 1000),
    )
    return [
        below("one closed-form gap", one / many * 1e6, 100, "us"),
        below("a million broadcast gaps", million, 2, "s"),
        below("one gap, full covariance, d = 1000", full, 2, "s"),
        below("exact law of 1000 steps for 1000 eta", recursion, 1, "s"),
    ]


def fill_normals(total: int, threads: int) -> None:
    """Fill ``total`` normals in cache-sized buffers and do nothing with them."""

    def fill(count: int) -> None:
        buffer, generator = torch.empty(BLOCK), torch.Generator()
        for _ in range(count // BLOCK):
            buffer.normal_(generator=generator)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, [total // threads] * threads))


def exponentials(total: int) -> None:
    """``total`` exponentials in a cache-sized buffer."""
    buffer, result = torch.full((BLOCK,), -0.5), torch.empty(BLOCK)
    for _ in range(total // BLOCK):
        torch.exp(buffer, out=result)


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
    """The exact noise prediction stepped by diffusers' DDIMScheduler at eta = 1."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    scheduler.set_timesteps(steps)
    x = torch.randn(n, 1)
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t]
        eps = (1 - alpha_bar).sqrt() * (x - 0.7 * alpha_bar.sqrt()) / (0.5 * alpha_bar + 1 - alpha_bar)
        x = scheduler.step(eps, t, x, eta=1.0).prev_sample
    return x


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
        return torch.full_like(z, (2 * self.sigma_T**2 * (1 - float(s))) ** 0.5)


def torchsde_loop(score: Callable[[torch.Tensor, float], torch.Tensor], n: int, dim: int, steps: int) -> torch.Tensor:
    """torchsde's Euler with its own Brownian motion."""
    sde = ReverseSDE(score, float(PROCESS.sigma_T))
    z = float(PROCESS.sigma_T) * torch.randn(n, dim)
    times = torch.tensor([0.0, 1.0 - 1e-6])
    with torch.no_grad():
        return torchsde.sdeint(sde, z, times, method="euler", dt=1 / steps)[-1]


def medians(repeat: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side, one warm-up, then taken in turn."""
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(repeat + 1):
        for side, record in zip(sides, taken, strict=True):
            begin = time.perf_counter()
            side()
            if round_:
                record.append(time.perf_counter() - begin)
    return [statistics.median(record) for record in taken]


def share(case: str, value: float, target: float | None) -> Row:
    """A share of a limit, in percent."""
    return Row(
        case, f"{value:.0%}", "" if target is None else f">= {target:.0%}", None if target is None else value >= target
    )


def times(case: str, value: float, target: float | None) -> Row:
    """How many times as fast."""
    return Row(
        case,
        f"{value:.1f} x",
        "" if target is None else f">= {target:g} x",
        None if target is None else value >= target,
    )


def below(case: str, value: float, target: float, unit: str) -> Row:
    """A time that must stay below its target."""
    return Row(case, f"{value:.3g} {unit}", f"< {target:g} {unit}", value < target)


if __name__ == "__main__":
    tyro.cli(main)
