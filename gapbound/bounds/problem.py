r"""One question, checked at the door: a target, a process, a reward and an eta.

Lengths are measured in the prior's standard deviation s = sqrt(sigma_T^2 + excess) wherever the prior meets q_T: there
the prior is N(0, I) and a component is N(m / s, I + E) with E = (S - excess I) / s^2, small numbers that are never
differences of large ones. So mismatches keep their relative accuracy at any sigma_T.

The question is reduced to the directions that matter first (``gapbound.reduction``): every theorem is applied to the
law along these, whose divergences do not count the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gapbound._validate import Array
from gapbound.bounds.value import Bound, Constant
from gapbound.eta import Windows, checked
from gapbound.gaussian import Gaussian, trusted
from gapbound.mixture import GaussianMixture, mixed
from gapbound.process import Process, checked_process
from gapbound.reduction import reduced
from gapbound.reward import Reward, as_reward

Target = Gaussian | GaussianMixture
KEPT = 8  # questions whose constants are remembered, as `best` asks for the same ones several times
LARGEST = 1e100  # of sigma_T: its square must be a number
AnyReward = Reward | Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """A target without batch axes, one sigma_T, one eta (or ``Windows``) and a reward written out in d dimensions.

    Target and reward are reduced; ``given_dim`` is the dimension of those that were given.
    """

    target: Target
    process: Process
    sigma_T: float
    excess: float
    reward: Reward
    eta: Array | Windows
    given_dim: int

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.target.dim

    @property
    def forgotten(self) -> bool:
        """Whether sigma_T is infinite, so that nothing of the start is left."""
        return math.isinf(self.sigma_T)

    @property
    def prior_sd(self) -> float:
        """Standard deviation s of the prior in z, per coordinate."""
        return math.hypot(self.sigma_T, math.sqrt(self.excess))

    @property
    def weights(self) -> Array:
        """Weights of the components, shape (K,)."""
        return self.target.weights if isinstance(self.target, GaussianMixture) else np.ones(1)

    @cached_property
    def components(self) -> Gaussian:
        """The components, batch (K,)."""
        if isinstance(self.target, GaussianMixture):
            return self.target.components
        return trusted(self.target.mean[None], self.target.cov[None], event=1 if self.target.is_diagonal else 2)

    @property
    def single(self) -> bool:
        """Whether the target is one Gaussian."""
        return isinstance(self.target, Gaussian)

    @property
    def variance_range(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue of the components' covariances."""
        eigenvalues = self.components.spectrum[0]
        return float(eigenvalues.min()), float(eigenvalues.max())

    @property
    def trivial(self) -> float:
        """Sup r - inf r."""
        low, high = self.reward.range
        return high - low


def problem(target: Target, process: Process, reward: AnyReward, eta: Any) -> Problem:
    """The checked question, along the directions that matter.

    Raises:
        ValueError: see ``unreduced``.
        TypeError: see ``unreduced``.
    """
    question = unreduced(target, process, reward, eta)
    law, read = reduced(question.target, question.reward)
    return replace(question, target=law, reward=read)


def unreduced(target: Target, process: Process, reward: AnyReward, eta: Any) -> Problem:
    """The checked question with all d directions.

    Raises:
        ValueError: batches (a bound is about one problem at a time), a negative eta, a reward of another dimension.
        TypeError: a target that is neither a Gaussian nor a mixture, or something that is no process, reward or eta.
    """
    if not isinstance(target, Gaussian | GaussianMixture):
        raise TypeError(
            f"a bound needs a Gaussian or a GaussianMixture, whose score is exact, got {type(target).__name__}"
        )
    process, eta = checked_process(process), checked(eta)
    shapes = {"target": target.batch_shape, "T": np.shape(process.T)}
    shapes["eta"] = () if isinstance(eta, Windows) else eta.shape
    batched = [f"{name} {shape}" for name, shape in shapes.items() if shape]
    if batched:
        raise ValueError(f"a bound takes one problem at a time, got batches of shapes {', '.join(batched)}; loop")
    if isinstance(target, GaussianMixture):
        target = _without_empty(target)
    reward = as_reward(reward).in_dim(target.dim)
    sigma_T = float(process.sigma_T)
    if LARGEST < sigma_T < math.inf:
        raise ValueError(f"sigma_T must stay below {LARGEST:g} (or be inf), got {sigma_T:g}; use a smaller T")
    return Problem(target, process, sigma_T, float(process.prior_excess), reward, eta, target.dim)


def answered(of: Callable[[Problem], Bound], question: Problem) -> Bound:
    """The bound that a theorem gives, with the reduction among its constants."""
    bound = of(question)
    if question.dim == question.given_dim:
        return bound
    source = f"directions that matter, independent of the rest of d = {question.given_dim} (gapbound.reduction)"
    return replace(bound, constants=(Constant("dimension", question.dim, "closed form", source), *bound.constants))


def _without_empty(mixture: GaussianMixture) -> Target:
    """The mixture without components whose weight has underflowed, a Gaussian where one is left."""
    kept, law = mixture.weights > 0, mixture.components
    event = 1 if law.is_diagonal else 2
    if kept.sum() == 1:
        return trusted(law.mean[kept][0], law.cov[kept][0], event)
    return mixed(mixture.weights[kept], trusted(law.mean[kept], law.cov[kept], event))
