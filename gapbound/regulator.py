r"""What N-step RL converges to: a policy of fixed variances on a Gaussian is a linear-quadratic regulator.

A step of the reference sampler is z' = A z + b + S xi. The policy moves its mean by u and pays u' (S S')^-1 u / 2, the
Kullback-Leibler divergence of the step. What is still to be earned, over beta, stays quadratic, -z' P z / 2 + q'z:

.. math:: u = N M (q - P (A z + b)), \quad P \leftarrow A' M P A, \quad q \leftarrow A' M (q - P b), \qquad
    M = (I + P N)^{-1}, \quad N = S S',

from P = 2A_r / beta and q = (b_r + 2 A_r c) / beta at the end. A step without noise carries no control. The policy
moves as reference paths that are reweighted by exp(r / beta) do in the mean; their steps would also be narrower, which
fixed variances cannot follow. The network that was trained predicts eps = (z - mean) / (sigma - carry), see
``gapbound.kernel``; any other sampler can reuse that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, choice, count, non_negative, positive, shown
from gapbound.affine import AffineScore
from gapbound.chain import AffineStep, affine_steps, diagonalised, discrete_law, levels
from gapbound.eta import EDGE, Eta, Windows, checked, mean_square
from gapbound.exponent import diag
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.kernel import step
from gapbound.process import Process
from gapbound.reward import Linear, Quadratic

POLICIES = ("ddim", "gddim", "euler-maruyama")  # one evaluation of the model a step, one variance for all directions
SAME_LEVEL = 1e-9  # relative distance within which a noise level is one of the grid's


@dataclass(frozen=True, eq=False)
class RLOptimumDiscrete(AffineScore):
    r"""The optimal policy, as the score that its network predicts at the levels of its grid.

    See ``rl_optimum_discrete``.

    Attributes:
        reference: the untrained model.
        process: start and prior.
        sampler: of the policy.
        eta: its stochasticity.
        sigmas: its grid, shape (N + 1,).
        gains: what the control adds to the reference's gain on each step, shape (N, \*batch, d, d).
        pulls: what it adds to the offset, shape (N, \*batch, d).
        first: what it adds to the reference's denoised mean on a first step from sigma_T = inf, shape (\*batch, d).
    """

    reference: Gaussian | AffineScore
    process: Process
    sampler: str
    eta: Array | Windows
    sigmas: Array
    gains: Array
    pulls: Array
    first: Array

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.reference.dim

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the batch of the reference and beta."""
        return self.pulls.shape[1:-1]

    @property
    def is_diagonal(self) -> bool:
        """False, but in d = 1: the gain is kept as a matrix."""
        return self.dim == 1

    @property
    def variance_range(self) -> tuple[float, float]:
        """Not there: between its levels the policy is not defined.

        Raises:
            ValueError: always, so that continuous-time laws refuse it.
        """
        raise ValueError(
            "a discrete optimum is known at its own noise levels alone and has no law in continuous time; use "
            "discrete_law with sigmas=optimum.sigmas (or some of them), or rl_optimum"
        )

    @property
    def pure_noise_mean(self) -> Array:
        """That of the reference, moved by the control where the grid starts at sigma = inf."""
        return self.reference.pure_noise_mean + self.first

    @property
    @door()
    def law(self) -> Gaussian:
        """What the trained policy draws: the law of its own chain."""
        return self.sampled()

    @door()
    def sampled(self, sampler: str | None = None, eta: Eta | None = None, every: int = 1) -> Gaussian:
        """What another sampler draws with the same network, on this grid or on one level in ``every`` of it.

        Raises:
            ValueError: ``every`` does not divide the number of steps; else see ``discrete_law``.
        """
        if (len(self.sigmas) - 1) % count("every", every):
            raise ValueError(f"every must divide the {len(self.sigmas) - 1} steps, got {every}")
        name = self.sampler if sampler is None else sampler
        own = self.eta if eta is None else eta
        return discrete_law(self, self.process, name, own, sigmas=self.sigmas[::every])

    @door(sigma=non_negative)
    def gain(self, sigma: Any) -> Array:
        """The reference's gain and, at a level of the grid, what the control adds to it."""
        k, own = self._step_from(sigma), self.reference.gain(sigma)
        matrix = (diag(own) if self.reference.is_diagonal else own) + self.gains[k]
        return matrix[..., 0] if self.is_diagonal else matrix

    @door(sigma=non_negative)
    def offset(self, sigma: Any) -> Array:
        """The reference's offset and what the control adds to it."""
        return self.reference.offset(sigma) + self.pulls[self._step_from(sigma)]

    def _step_from(self, sigma: Any) -> int:
        value = np.asarray(sigma, dtype=float)
        if value.size != 1:
            raise ValueError(f"a discrete optimum takes one noise level at a time, got shape {value.shape}")
        k = int(np.abs(self.sigmas[:-1] - value.item()).argmin())
        if abs(self.sigmas[k] - value.item()) > SAME_LEVEL * self.sigmas[k]:
            raise ValueError(
                f"a discrete optimum is known at the {len(self.sigmas) - 1} levels that it steps from, got "
                f"sigma={value.item():g}, the nearest of them being {self.sigmas[k]:g}; sample it with "
                "sigmas=optimum.sigmas, or some of them"
            )
        return k


@door(infinite=True)
def rl_optimum_discrete(
    reference: Gaussian | AffineScore,
    reward: Quadratic | Linear,
    beta: Any,
    process: Process,
    sampler: str = "gddim",
    eta: Eta = 1.0,
    steps: int | None = None,
    *,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
) -> RLOptimumDiscrete:
    r"""The optimum of KL-regularised RL on an N-step sampler whose variances are fixed; see the module.

    It converges to ``rl_optimum`` at order 1 in the step. Its ``law`` is what the policy draws; ``discrete_law`` and
    ``simulate`` take it with ``sigmas=optimum.sigmas``, for any sampler that evaluates the model at levels of the grid.
    From sigma_T = inf (flow matching from t = 1) the first step of a policy that forgets x_T there moves by a constant,
    which the network stores as its prediction of x_0; ``sigmas[0]`` is then infinite.

    Args:
        reference: Gaussian or affine score (``guided``), any batch.
        reward: ``Quadratic`` (A of any sign) or ``Linear``.
        beta: temperature, positive; an array broadcasts with the batch.
        process: start and prior, with one T.
        sampler: of the policy, one of ``POLICIES``.
        eta: its stochasticity, a number or ``Windows``.
        steps: as the following, see ``discrete_law``.
        sigmas: the noise levels themselves.
        grid: kind of grid.
        t_min: where it stops; the reward is given to z there.

    Raises:
        ValueError: an unknown sampler, T or eta that is an array, a policy that carries x_T from sigma_T = inf, E r -
            beta KL without a maximum (says about which beta has one), and what ``discrete_law`` refuses.
        TypeError: another reward or reference.
    """
    model, beta = untrained(reference, reward, beta, process, sampler, eta, steps, sigmas, grid, t_min)
    return visited(model, model.eta, reward, beta)


def untrained(
    reference: Gaussian | AffineScore,
    reward: Quadratic | Linear,
    beta: Any,
    process: Process,
    sampler: str,
    eta: Eta,
    steps: int | None,
    sigmas: Any,
    grid: str,
    t_min: float,
) -> tuple[RLOptimumDiscrete, Array]:
    """The validated model before training, without controls, and beta; see ``rl_optimum_discrete``."""
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"only Quadratic and Linear rewards have an affine optimum, got {shown(reward)}")
    diagonalised(reference)  # refuses other models
    choice("sampler", sampler, POLICIES)
    own, beta = checked(eta), positive("beta", beta)
    grid_levels = levels(process, steps, sigmas, grid, t_min)
    if grid_levels.ndim != 1 or not (isinstance(own, Windows) or own.ndim == 0):
        raise ValueError("a discrete optimum takes one T and one eta, got an array; call once for each")
    batch = broadcastable("the batch of the reference and beta", reference.batch_shape, beta.shape)
    pulls = np.zeros((len(grid_levels) - 1, *batch, reference.dim))
    return RLOptimumDiscrete(reference, process, sampler, own, grid_levels, diag(pulls), pulls, pulls[0]), beta


def visited(
    model: RLOptimumDiscrete, eta: Array | Windows, reward: Quadratic | Linear, beta: Array
) -> RLOptimumDiscrete:
    """The model after its noisy steps at ``eta`` were optimised, its other steps being the ODE's with the model."""
    A, c, b, _ = reward.quadratic_form(model.dim)
    A = A * np.eye(model.dim) if np.ndim(A) == 0 else A
    P = np.broadcast_to(2 * A / beta[..., None, None], (*model.batch_shape, model.dim, model.dim))
    q = np.broadcast_to((b + 2 * (c @ A)) / beta[..., None], model.pulls.shape[1:])
    own, reference = (list(affine_steps(one, model.sampler, model.sigmas, eta)) for one in (model, model.reference))
    gains, pulls, first = model.gains.copy(), model.pulls.copy(), model.first
    for k in reversed(range(len(own))):
        sigma, low = model.sigmas[k], model.sigmas[k + 1]
        noisy = bool(reference[k].S.any()) and _is_stochastic(eta, low, sigma)
        moving = model.reference if noisy else model
        one = _as_matrices((reference if noisy else own)[k], moving.is_diagonal)
        response, push, P, q = _backward(one, P, q, beta)
        if noisy and np.isinf(sigma):
            first = _of_the_start(response, push, model.sampler)
        elif noisy:
            # eps* = eps - u / (sigma - carry), and the score is -eps / sigma
            scale = sigma * (sigma - float(step(model.sampler, sigma, low, eta).carry))
            gains[k], pulls[k] = response / scale, push / scale
    return replace(model, gains=gains, pulls=pulls, first=first)


def _of_the_start(response: Array, push: Array, sampler: str) -> Array:
    """What a control at sigma = inf adds to the denoised mean there, D* = D + u."""
    if response.any():
        raise ValueError(
            f"from sigma_T = inf {sampler!r} carries x_T into the control, which no prediction of x_0 can hold; use "
            "'gddim', or start flow matching at t_max < 1"
        )
    return push


def _is_stochastic(eta: Array | Windows, low: float, sigma: float) -> bool:
    """Whether more than a rounding of the step lies inside a window; always true for a number."""
    if not isinstance(eta, Windows):
        return True
    largest = max((value for _, _, value in eta.windows), default=0.0)
    return float(mean_square(eta, low, sigma)) > EDGE * largest**2


def _backward(step: AffineStep, P: Array, q: Array, beta: Array) -> tuple[Array, Array, Array, Array]:
    """One step of the recursion: ``(K, f)`` of the control u = f - K z, and P and q before the step."""
    noise, root = step.S @ transposed(step.S), step.S
    lowest = np.linalg.eigvalsh(transposed(root) @ P @ root)[..., 0]
    if not (lowest > -1).all():
        needed, met = np.broadcast_arrays(-lowest * beta, beta)
        worst = np.unravel_index(int(np.argmin(lowest)), lowest.shape)
        raise ValueError(
            "the optimum does not exist: E r - beta KL has no maximum from some step on; beta must be above about "
            f"{float(needed[worst]):g}, got {float(met[worst]):g}"
        )
    damp = np.linalg.inv(np.eye(P.shape[-1]) + P @ noise)
    residual = rotate(damp, q - rotate(P, step.b))
    held = damp @ P
    before = transposed(step.A) @ held @ step.A
    return (
        noise @ held @ step.A,
        rotate(noise, residual),
        (before + transposed(before)) / 2,
        rotate(transposed(step.A), residual),
    )


def _as_matrices(step: AffineStep, diagonal: bool) -> AffineStep:
    return AffineStep(diag(step.A), step.b, diag(step.S)) if diagonal else step
