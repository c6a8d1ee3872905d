"""Torch simulation of any sampler on any model, chunk by chunk in cache, with noise that is reproducible by block."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gapbound._door import door
from gapbound._tensors import real_tensor
from gapbound._validate import Array, choice, count, flag, real, shown
from gapbound._validate import seed as checked_seed
from gapbound.chain import levels
from gapbound.eta import Eta, Windows, checked
from gapbound.kernel import SAMPLERS
from gapbound.noise import BLOCK_ELEMENTS, GivenNoise, Noise, SeededNoise
from gapbound.process import Process
from gapbound.stepper import CallableStepper, Model, Stepper, make_stepper

NOT_GAUSSIAN = ("stochastic-heun", "edm")  # samplers whose steps are no Gaussians where the score is not affine


@dataclass(frozen=True)
class Simulation:
    """What a run returns.

    Attributes:
        samples: final states in z = x / s(t_min), data space at t_min = 0; shape (n, d).
        sigmas: the noise levels visited, shape (steps + 1,).
        trajectory: z at each of them, shape (steps + 1, n, d), if asked for; at sigma = inf the unit noise itself.
        log_prob: for each step, if asked for, the log-density of its outcome given its start, summed over the d
            dimensions, shape (n,); None where the step is deterministic and has no density.
    """

    samples: Tensor
    sigmas: Array
    trajectory: Tensor | None = None
    log_prob: list[Tensor | None] | None = None


@door(infinite=True)
def simulate(
    model: Model,
    process: Process,
    sampler: str = "gddim",
    eta: Eta = 1.0,
    steps: int | None = None,
    n: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
    dim: int | None = None,
    noise: tuple[Tensor, Tensor] | None = None,
    draw: int = 0,
    chunk: int | None = None,
    trajectory: bool = False,
    log_prob: bool = False,
) -> Simulation:
    r"""Run ``n`` independent paths of a sampler from the prior of ``process`` down to sigma(t_min).

    Runs with one seed share x_T and their increments step by step, whatever the model, sampler and eta, so that
    differences between them are paired. Samples depend on seed, dtype, device type and the position of the path alone,
    not on ``n``, ``chunk`` or the number of threads; a matrix product of few rows may round its last bits its own way.

    Args:
        model: a Gaussian, a mixture, an affine score, or any callable (z of shape (m, d), sigma) -> score of z's shape
            in z = x / s; a callable runs in one thread, without gradients.
        process: start and prior.
        sampler: a name of ``gapbound.kernel.SAMPLERS``.
        eta: a number of at least 0, or ``Windows``.
        steps: number of steps of the ``grid``, 50 if neither this nor sigmas is given.
        n: number of paths.
        seed: of the noise.
        device: where to run.
        dtype: torch.float32 or torch.float64.
        sigmas: the noise levels themselves, falling from sigma_T.
        grid: see ``gapbound.grid``.
        t_min: where the grid stops.
        dim: dimension, for a callable.
        noise: ``(x_T, xi)``, shapes (n, d) and (steps, n, d), standard normal, instead of a seed.
        draw: another set of increments over the same x_T.
        chunk: paths advanced together, rounded up to whole blocks of noise; a choice of speed and memory alone.
        trajectory: keep every state.
        log_prob: keep the log-density of every step.

    Raises:
        ValueError: unknown names, a batched model, an eta the sampler does not admit, a ``dim`` that is not the
            model's, noise of the wrong shape or not finite, a dtype below fp32, a score that is not finite (names the
            step) or has the wrong shape, paths that leave the range of the dtype, a device that torch does not have,
            a run that would keep more than the memory allows (names the size).
        TypeError: a model that is none of the above, noise that is no pair, a flag that is not True or False, a score
            that is complex.
    """
    _check_request(sampler, dtype, trajectory, log_prob)
    profile, place, sigma = _one_eta(eta), usable_device(device), levels(process, steps, sigmas, grid, t_min)
    if sigma.ndim != 1:
        raise ValueError(f"simulate takes one T at a time, got shape {sigma.shape[1:]}")
    stepper = make_stepper(model, process, sampler, sigma, profile, dim, dtype, place)
    source: Noise
    if noise is None:
        source = SeededNoise(checked_seed(seed), count("draw", draw, 0), stepper.dim, dtype, place)
    else:
        source = _given(noise, count("n", n), len(sigma) - 1, stepper.dim, dtype, place)
    _check_memory(count("n", n), stepper.dim, len(sigma), trajectory, log_prob, dtype, place)
    run = _Run(stepper, source, n, trajectory, log_prob, dtype, place)
    chunk = _default_chunk(place, stepper.dim) if chunk is None else count("chunk", chunk)
    if place.type != "cpu" or isinstance(stepper, CallableStepper):
        run.all_paths(chunk, threads=1)
    else:
        with _single_threaded_operations() as threads:
            run.all_paths(chunk, threads)
    return Simulation(run.samples, sigma, run.trajectory, run.log_prob)


def usable_device(device: Any) -> torch.device:
    """A device that torch can compute on here.

    Raises:
        ValueError: it cannot; says why.
        TypeError: something that names no device.
    """
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be the name of a torch device, got {shown(device)}; as 'cpu' or 'cuda:0'")
    try:
        place = torch.device(device)
        torch.Generator(place)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # torch goes on for half a page
        raise ValueError(f"device: torch cannot use {str(device)!r} here ({reason}); try 'cpu'") from None
    return place


def _check_request(sampler: str, dtype: torch.dtype, trajectory: bool, log_prob: bool) -> None:
    choice("sampler", sampler, SAMPLERS)
    flag("trajectory", trajectory), flag("log_prob", log_prob)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}; lower precision spoils log_prob")
    if log_prob and sampler in NOT_GAUSSIAN:
        raise ValueError(f"a step of {sampler!r} is not Gaussian and has no closed log_prob; use another sampler")


def _check_memory(
    n: int, dim: int, levels: int, trajectory: bool, log_prob: bool, dtype: torch.dtype, place: torch.device
) -> None:
    """Refuse what is larger than this machine's memory: allocating it would end the process later, without a word."""
    numbers = n * (dim * (1 + levels * trajectory) + (levels - 1) * log_prob)
    if place.type == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory = torch.cuda.get_device_properties(place).total_memory if place.type == "cuda" else 2**63
    size = numbers * dtype.itemsize
    if size > memory:
        raise ValueError(
            f"n={n} paths in {dim} dimensions would keep {size / 2**30:.3g} GiB, and there are {memory / 2**30:.3g}; "
            "use fewer paths at a time, or leave out trajectory and log_prob"
        )


def _one_eta(eta: Eta) -> Array | Windows:
    profile = checked(eta)
    if not isinstance(profile, Windows) and profile.ndim:
        raise ValueError(f"simulate takes one eta at a time, got shape {profile.shape}; use estimate_gap or a loop")
    return profile


def _default_chunk(device: torch.device, dim: int) -> int:
    """Small enough for a CPU's cache, large enough to fill a GPU."""
    return max(1, (BLOCK_ELEMENTS if device.type == "cpu" else 2**22) // dim)


class _Run:
    """The buffers of one simulation, filled range by range."""

    def __init__(
        self,
        stepper: Stepper,
        noise: Noise,
        n: int,
        trajectory: bool,
        log_prob: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.stepper, self.noise, self.steps = stepper, noise, len(stepper.std)
        self.random = [bool(torch.as_tensor(std, dtype=torch.float64).any()) for std in stepper.std]
        self.draws = max((k + 1 for k, random in enumerate(self.random) if random), default=0)
        self.samples = torch.empty(n, stepper.dim, dtype=dtype, device=device)
        self.trajectory = (
            torch.empty(self.steps + 1, n, stepper.dim, dtype=dtype, device=device) if trajectory else None
        )
        self.log_prob = (
            [torch.empty(n, dtype=dtype, device=device) if random else None for random in self.random]
            if log_prob
            else None
        )

    def all_paths(self, chunk: int, threads: int) -> None:
        """Simulate everything, ``chunk`` paths at a time rounded up to whole blocks of noise."""
        n, block = len(self.samples), self.noise.block
        blocks = -(-n // block)
        pieces = -(-blocks // -(-chunk // block))
        pieces = min(blocks, -(-pieces // threads) * threads)  # an equal share for every thread
        edges = [min(n, piece * blocks // pieces * block) for piece in range(pieces + 1)]
        if threads == 1 or pieces == 1:
            for start, stop in itertools.pairwise(edges):
                self.paths(start, stop)
            return
        # torch hands its setting to a new thread late, and MKL would start threads of its own until then
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(self.paths, edges[:-1], edges[1:]))

    @torch.no_grad()
    def paths(self, start: int, stop: int) -> None:
        """Simulate the paths ``start`` to ``stop``."""
        state = self.stepper.start(self.noise.initial(start, stop))
        increments = self.noise.increments(start, stop)
        self._record(0, start, stop, state)
        for k in range(self.steps):
            # a deterministic step before a random one draws too: runs of different eta stay aligned step by step
            xi = increments.next() if k < self.draws else None
            state = self.stepper.step(k, state, xi)
            self._record(k + 1, start, stop, state)
            if self.log_prob is not None and (values := self.log_prob[k]) is not None and xi is not None:
                values[start:stop] = _log_density(xi, self.stepper.std[k])
        self.samples[start:stop] = self._read(self.steps, state)

    def _record(self, k: int, start: int, stop: int, state: Tensor) -> None:
        if self.trajectory is not None:
            self.trajectory[k, start:stop] = self._read(k, state)

    def _read(self, k: int, state: Tensor) -> Tensor:
        z = self.stepper.read(k, state)
        if not torch.isfinite(z).all():
            raise ValueError(
                f"paths leave the range of {z.dtype} at step {k}; use dtype=torch.float64, start from a smaller T, or "
                "take more steps where the sampler diverges"
            )
        return z


@contextmanager
def _single_threaded_operations() -> Iterator[int]:
    """Torch's number of threads, which goes to whole chunks meanwhile: operations in cache are too short to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _log_density(xi: Tensor, std: float | Tensor) -> Tensor:
    """log N(z'; mean, std^2) at z' = mean + std xi, summed over dimensions."""
    log_std = torch.as_tensor(std, dtype=xi.dtype, device=xi.device).log().expand(xi.shape[-1]).sum()
    return -(xi**2).sum(-1) / 2 - log_std - xi.shape[-1] * math.log(2 * math.pi) / 2


def _given(
    noise: tuple[Tensor, Tensor], n: int, steps: int, dim: int, dtype: torch.dtype, device: torch.device
) -> GivenNoise:
    if not isinstance(noise, Sequence) or len(noise) != 2:
        raise TypeError(f"noise must be a pair (x_T, xi), got {type(noise).__name__}")
    x_T, xi = (
        torch.as_tensor(
            real_tensor(name, part) if isinstance(part, Tensor) else real(name, part), dtype=dtype, device=device
        )
        for name, part in zip(("x_T", "xi"), noise, strict=True)
    )
    if x_T.shape != (n, dim) or xi.shape != (steps, n, dim):
        raise ValueError(
            f"noise must be (x_T, xi) of shapes {(n, dim)} and {(steps, n, dim)}, got {tuple(x_T.shape)} and "
            f"{tuple(xi.shape)}"
        )
    if not (torch.isfinite(x_T).all() and torch.isfinite(xi).all()):
        raise ValueError("noise must be finite, got NaN or infinity; draw it with torch.randn")
    return GivenNoise(x_T, xi)
