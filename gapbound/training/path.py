r"""Closed-form laws, KL and rewards of affine policies, differentiable and batched.

With eps_k(z) = g_k z + o_k a step is z' = A z + b + std xi, A = 1 - drop g, b = -drop o, hence

.. math:: m_{k+1} = A_k m_k + b_k, \qquad V_{k+1} = A_k^2 V_k + std_k^2, \qquad
    KL = \sum_k w_k \, \big[(\delta g_k m_k + \delta o_k)^2 + \delta g_k^2 V_k \big], \quad
    w = \frac{drop^2}{2 \, std^2}.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gapbound.training.policy import Affine
from gapbound.training.task import Task, Walk


class Path(NamedTuple):
    r"""Mean and variance of z before each step and at the end, shapes (N + 1, \*batch)."""

    mean: Tensor
    variance: Tensor


def path(walk: Walk, model: Affine) -> Path:
    """The law of z at every level, by recursion from the prior."""
    A, b = (1 - walk.drop * model.gain), -walk.drop * model.offset
    mean, variance = torch.zeros_like(walk.start), walk.start
    means, variances = [mean], [variance]
    for factor, shift, noise in zip(A.unbind(), b.unbind(), (walk.std**2).unbind(), strict=True):
        mean, variance = torch.addcmul(shift, factor, mean), torch.addcmul(noise, factor * factor, variance)
        means.append(mean)
        variances.append(variance)
    return Path(torch.stack(means), torch.stack(variances))


def path_kl(weight: Tensor, law: Path, model: Affine, reference: Affine) -> Tensor:
    r"""KL of the model's paths to the reference's, shape \*batch; ``weight`` is that of the walk, or rescaled."""
    gain, offset = model.gain - reference.gain, model.offset - reference.offset
    change = (gain * law.mean[:-1] + offset) ** 2 + gain**2 * law.variance[:-1]
    return (weight * change).sum(0)


def expected_reward(task: Task, mean: Tensor, variance: Tensor) -> Tensor:
    """``E r = -a ((m - c)^2 + V) + b m + const``."""
    a, c, b, const = task.quadratic_form()
    return -a * ((mean - c) ** 2 + variance) + b * mean + const
