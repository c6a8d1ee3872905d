r"""Only the directions that a reward looks at: the way out of vacuous bounds in high dimension.

For N(m, S) the sampler acts on every eigendirection of S by itself, and alike on those of one eigenvalue. So a reward
that depends on w'x alone sees one coordinate per distinct eigenvalue: e = P w / |P w|, P the projector on its
eigenspace, with law N(e'm, eigenvalue), and w'x = sum |P w| (e'x). For S = v I that is one coordinate, whatever d.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gapbound.bounds.problem import AnyReward
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.reward import Cosine, HalfSpace, Linear, Reward, as_reward

EQUAL = 1e-12  # relative difference of eigenvalues that rounding may have made


def directions(target: Gaussian, reward: AnyReward) -> tuple[Gaussian, Reward]:
    """A target and a reward of few dimensions with the same gap for every process and eta.

    Bounds on them are bounds on the original question, and sharper: divergences of the full law count every dimension.

    Args:
        target: Gaussian, without batch axes.
        reward: Linear, HalfSpace or Cosine; anything else is returned as it is, with the target.

    Raises:
        ValueError: a batch of targets, a reward of another dimension.
        TypeError: a target that is not a Gaussian (the score of a mixture couples the directions).
    """
    if not isinstance(target, Gaussian):
        raise TypeError(f"directions needs a Gaussian, got {type(target).__name__}, whose score couples the directions")
    if target.batch_shape:
        raise ValueError(f"directions takes one target, got a batch of shape {target.batch_shape}; loop")
    reward = as_reward(reward).in_dim(target.dim)
    names = {Linear: "b", HalfSpace: "w", Cosine: "omega"}
    name = next((field for kind, field in names.items() if isinstance(reward, kind)), None)
    if name is None:
        return target, reward
    eigenvalues, basis = target.spectrum
    w, m = (rotate(transposed(basis), vector) for vector in (getattr(reward, name), target.mean))
    order = np.argsort(eigenvalues)
    eigenvalues, w, m = eigenvalues[order], w[order], m[order]
    first = np.flatnonzero(np.concatenate([[True], np.diff(eigenvalues) > EQUAL * eigenvalues[1:]]))
    size = np.sqrt(np.add.reduceat(w**2, first))
    seen = size > 0
    if not seen.any():
        return Gaussian(m[:1], eigenvalues[:1]), replace(reward, **{name: np.zeros(1)})  # type: ignore[type-var]
    along = np.add.reduceat(w * m, first)[seen] / size[seen]
    return Gaussian(along, eigenvalues[first][seen]), replace(reward, **{name: size[seen]})  # type: ignore[type-var]
