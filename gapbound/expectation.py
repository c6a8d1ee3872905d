"""Expectation of any Python callable under Gaussian laws: quadrature in one dimension, Monte Carlo in more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._reward import Reward
from gapbound._validate import Array, count, real, shown
from gapbound._validate import seed as checked_seed
from gapbound.estimate_value import Estimate
from gapbound.gaussian import Gaussian, rotate
from gapbound.mixture import GaussianMixture

HALF_WIDTH = 12.0  # in standard deviations: 1 - 3.5e-33 of the mass
NODES = 16  # Gauss-Legendre nodes of a panel
PANELS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TOLERANCE = 1e-13  # of E|f|
MOST_DRAWS = 10**8
POINTS = 2**18  # points in one call of the function


@dataclass(frozen=True, eq=False)
class CallableReward(Reward):
    r"""Any function as a reward; its expectation is an ``Estimate``.

    In d = 1 by quadrature (``gapbound.expectation.quadrature``), else by Monte Carlo with its standard error. There the
    function receives one float64 NumPy array (n, d) and must return shape (n,); in simulation it receives whatever the
    reward is called with, a torch tensor: write it with operators and methods that both have.

    Args:
        function: the reward.
        lipschitz: its Lipschitz constant, where known.
        range: its infimum and supremum, where known.
        n: Monte Carlo draws, in antithetic pairs.
        seed: of the Monte Carlo draws.

    Raises:
        TypeError: ``function`` cannot be called, or a parameter is no number.
        ValueError: fewer than 4 draws, a negative seed, a Lipschitz constant or a range that cannot be.
    """

    function: Callable[[Any], Any]
    lipschitz: float = math.inf
    range: tuple[float, float] = (-math.inf, math.inf)
    n: int = 2**18
    seed: int = 0

    @door(infinite=True)
    def __post_init__(self) -> None:
        """Validate the parameters."""
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {shown(self.function)}")
        if count("n", self.n, at_least=4) > MOST_DRAWS:
            raise ValueError(f"n must be at most {MOST_DRAWS:g} draws, about ten seconds, got {shown(self.n)}")
        checked_seed(self.seed)
        lipschitz, ends = real("lipschitz", self.lipschitz), real("range", self.range)
        if lipschitz.ndim or not lipschitz >= 0:
            raise ValueError(f"lipschitz must be one number of at least 0 or inf, got {shown(self.lipschitz)}")
        if ends.shape != (2,) or not ends[0] <= ends[1]:
            raise ValueError(f"range must be the two numbers (infimum, supremum), got {shown(self.range)}")

    def __call__(self, x: Any) -> Any:
        """The function at ``x``, untouched."""
        return self.function(x)

    @door()
    def expectation(self, law: Gaussian | GaussianMixture) -> Estimate:
        """E r with its error.

        Raises:
            ValueError: the function returns another shape than (n,), or NaN or infinity.
            TypeError: ``law`` is neither a Gaussian nor a mixture.
        """
        if not isinstance(law, Gaussian | GaussianMixture):
            raise TypeError(f"expectation needs a Gaussian or a GaussianMixture, got {shown(law)}")
        weights = law.weights if isinstance(law, GaussianMixture) else None
        gaussian = law.components if isinstance(law, GaussianMixture) else law
        if gaussian.dim > 1:
            value, error = monte_carlo(self.function, gaussian, weights, self.n, self.seed)
            return Estimate(value, error, "monte carlo", self.n)
        value, error, nodes = quadrature(self.function, gaussian.mean[..., 0], np.sqrt(gaussian.variances[..., 0]))
        if weights is not None:
            value, error = (weights * value).sum(-1), (weights * error).sum(-1)
        return Estimate(value, error, "quadrature", nodes)

    def _gaussian(self, law: Gaussian) -> Array:
        return self.expectation(law).value


def evaluate(function: Callable[[Any], Any], points: Array) -> Array:
    r"""``function`` at ``points`` of shape (\*shape, d), called with one float64 array (n, d); shape (\*shape,).

    Raises:
        ValueError: the function does not return shape (n,), or something that is not finite.
        TypeError: it does not return real numbers.
    """
    flat = points.reshape(-1, points.shape[-1])
    values = np.asarray(function(flat))
    if values.shape != flat.shape[:1]:
        raise ValueError(
            f"a reward must return shape {flat.shape[:1]} for points of shape {flat.shape}, got {values.shape}; "
            "the last axis is the dimension: reduce it, as x[..., 0] or x.sum(-1)"
        )
    if values.dtype.kind not in "biuf":
        raise TypeError(f"a reward must return real numbers, got an array of {values.dtype}: {shown(values)}")
    values = values.astype(np.float64)
    at_fault = ~np.isfinite(values)
    if at_fault.any():
        where = int(np.argmax(at_fault))
        raise ValueError(f"the reward returned {values[where]} at x = {flat[where]}; it must be finite everywhere")
    return values.reshape(points.shape[:-1])


def quadrature(function: Callable[[Any], Any], mean: Array, sd: Array) -> tuple[Array, Array, int]:
    r"""E f under N(mean, sd^2), d = 1, of any common shape: ``(value, error, nodes)``.

    Composite 16-point Gauss-Legendre on mean -+ 12 sd. Panels are doubled until two successive doublings change nothing
    beyond 1e-13 of E|f|, or 65,536 nodes are reached; the error is the larger of the last two changes. Features
    narrower than about sd/50 can be missed, and jumps converge slowly (error about 1e-4 of the jump).
    """
    centre, width = mean.ravel(), sd.ravel()
    value, size = _composite(function, centre, width, PANELS[0])
    error = np.full(value.shape, np.inf)
    change = np.full(value.shape, np.inf)
    open_ = np.arange(value.size)
    panels = PANELS[0]
    for panels in PANELS[1:]:
        finer, size = _composite(function, centre[open_], width[open_], panels)
        newest = np.abs(finer - value[open_])
        error[open_] = np.maximum(newest, np.where(np.isinf(change[open_]), newest, change[open_]))
        settled = np.maximum(newest, change[open_]) <= TOLERANCE * size
        value[open_], change[open_] = finer, newest
        open_ = open_[~settled]
        if not open_.size:
            break
    return value.reshape(mean.shape), error.reshape(mean.shape), panels * NODES


def _composite(function: Callable[[Any], Any], mean: Array, sd: Array, panels: int) -> tuple[Array, Array]:
    """``(E f, E|f|)``, each of shape (n,), with ``panels`` panels."""
    node, weight = np.polynomial.legendre.leggauss(NODES)
    half = HALF_WIDTH / panels
    centres = np.linspace(-HALF_WIDTH + half, HALF_WIDTH - half, panels)
    u = (centres[:, None] + half * node).ravel()
    density = np.exp(-(u**2) / 2) * np.tile(weight, panels) * half / math.sqrt(2 * math.pi)
    rows = max(1, POINTS // u.size)
    value, size = np.empty_like(mean), np.empty_like(mean)
    for start in range(0, mean.size, rows):
        part = slice(start, start + rows)
        values = evaluate(function, (mean[part, None] + sd[part, None] * u)[..., None])
        value[part], size[part] = (values * density).sum(-1), (np.abs(values) * density).sum(-1)
    return value, size


def monte_carlo(
    function: Callable[[Any], Any], law: Gaussian, weights: Array | None, n: int, seed: int
) -> tuple[Array, Array]:
    r"""E f under ``law`` from ``n`` antithetic draws: ``(value, standard error)``, shape \*batch.

    With ``weights`` (\*batch, K) the law's last batch axis is mixed: every component sees the same draws, and the error
    is that of the weighted sum. Every member of the batch sees the same draws too.
    """
    rng = np.random.default_rng(seed)
    eigenvalues, basis = law.spectrum
    sd = np.sqrt(eigenvalues)
    pairs = n // 2
    size = max(1, POINTS // (2 * max(1, math.prod(law.batch_shape))))
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    while count < pairs:
        m = min(size, pairs - count)
        xi = rng.standard_normal((m, *[1] * len(law.batch_shape), law.dim))
        step = rotate(basis, sd * xi)
        values = (evaluate(function, law.mean + step) + evaluate(function, law.mean - step)) / 2
        if weights is not None:
            values = (weights * values).sum(-1)
        average = values.mean(0)
        shift = average - mean  # Chan's update: no sum of squares ever cancels
        squares = squares + ((values - average) ** 2).sum(0) + shift**2 * (count * m / (count + m))
        mean = mean + shift * (m / (count + m))
        count += m
    return mean, np.sqrt(squares / (count * (count - 1)))
