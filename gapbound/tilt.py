"""The KL-regularised target: the reference law reweighted by exp(reward / beta)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, positive, shown
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.mixture import GaussianMixture, mixed
from gapbound.reward import Linear, Quadratic, Reward


@door()
def tilt(reference: Gaussian | GaussianMixture, reward: Reward, beta: Any) -> Any:
    r"""The law proportional to reference * exp(reward / beta): what KL-regularised RL aims at.

    For ``r = -(x - c)' A (x - c) + b'x + const`` a Gaussian N(m, S) stays one, and a mixture stays a mixture:

    .. math:: S_*^{-1} = S^{-1} + 2A/\beta, \qquad m_* = m + S_* g, \qquad g = (b - 2 A (m - c))/\beta, \qquad
        w_k^* \propto w_k \, E_k[e^{r/\beta}]

    .. math:: \log E[e^{r/\beta}] = r(m)/\beta + \tfrac12 g' S_* g - \tfrac12 \log\det(I + 2 S A/\beta)

    A diagonal covariance stays diagonal where A is a number or a diagonal matrix. A weight may underflow to 0: its
    component is then not there.

    Args:
        reference: Gaussian or mixture, any batch.
        reward: ``Quadratic`` (A of any sign) or ``Linear``.
        beta: temperature, positive, in units of the reward; an array broadcasts with the batch.

    Returns:
        A law of the kind of ``reference``.

    Raises:
        ValueError: beta is not positive, the reward has another dimension, or A has a negative direction so strong that
            reference * exp(r / beta) cannot be normalised (the message says from which beta on it can).
        TypeError: another reward or reference.
    """
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"only Quadratic and Linear rewards keep a Gaussian Gaussian when tilted, got {shown(reward)}")
    if not isinstance(reference, Gaussian | GaussianMixture):
        raise TypeError(f"reference must be a Gaussian or a GaussianMixture, got {shown(reference)}")
    beta = positive("beta", beta)
    broadcastable("the batch of the reference and beta", reference.batch_shape, beta.shape)
    if isinstance(reference, Gaussian):
        return _tilted(reference, reward, beta)[0]
    components, log_mass = _tilted(reference.components, reward, beta[..., None])
    joint = reference._log_weights + log_mass
    relative = np.exp(joint - joint.max(-1, keepdims=True))
    return mixed(relative / relative.sum(-1, keepdims=True), components)


def _tilted(law: Gaussian, reward: Quadratic | Linear, beta: Array) -> tuple[Gaussian, Array]:
    """The tilted Gaussian and log E[exp(r / beta)]."""
    A, c, b, const = reward.quadratic_form(law.dim)
    from_c = law.mean - c
    curved = A * from_c if np.ndim(A) == 0 else from_c @ A
    slope = (b - 2 * curved) / beta[..., None]
    value = ((b * law.mean - curved * from_c).sum(-1) + const) / beta
    if np.ndim(A) and law.is_diagonal and not (A - np.diag(np.diag(A))).any():
        A = np.diag(A)  # coordinates stay independent
    if law.is_diagonal and np.ndim(A) < 2:
        growth = _growth(law.cov * A, beta)
        cov = law.cov / (1 + growth)
        shift = cov * slope
        tilted = trusted(law.mean + shift, cov, event=1)
    else:
        root = np.linalg.cholesky(
            law.matrix
        )  # in x = m + root y the law is N(0, I) and the reward's matrix root' A root
        inner = A * transposed(root) @ root if np.ndim(A) == 0 else transposed(root) @ A @ root
        eigenvalues, basis = np.linalg.eigh(inner)
        growth = _growth(eigenvalues, beta)
        axes = root @ basis / np.sqrt(1 + growth)[..., None, :]  # cov = axes axes'
        shift = rotate(axes, rotate(transposed(axes), slope))
        tilted = trusted(law.mean + shift, axes @ transposed(axes), event=2)
    return tilted, value + (slope * shift).sum(-1) / 2 - np.log1p(growth).sum(-1) / 2


def _growth(curvature: Array, beta: Array) -> Array:
    """2 lambda / beta, by how much the precision grows on each axis; lambda are the eigenvalues of cov A."""
    beta = beta[..., None]
    growth = 2 * curvature / beta
    at_fault = ~(growth > -1)
    if at_fault.any():
        lowest = float(np.broadcast_to(curvature, growth.shape)[at_fault].min())
        met = float(np.broadcast_to(beta, growth.shape)[at_fault].min())
        raise ValueError(
            f"the tilted law cannot be normalised: cov A has the eigenvalue {lowest:g}, so the precision would not "
            f"stay positive definite; beta must be above {-2 * lowest:g}, got {met:g}"
        )
    return growth
