r"""Exact reduction to the few directions that matter: d = 16,384 becomes two or three dimensions.

Write z = (x, y) for the coordinates in a subspace V and across it. The prior N(0, v_pi I) and the sampler's noise are
independent in x and y for every V. If the target is a product p*(x, y) = a(x) b(y), so is every q_tau, the x-part of
its score is the score of a_tau, and x alone solves the reverse equation of the target a, for every eta(tau). If r
depends on x alone, the question (target, process, reward) has therefore the same errors and the same gap, and the same
discrete chains, as the question (a, process, r) in dim V dimensions. The mean of y drops out: it need not be 0.

A mixture sum_k w_k N(m_k, S_k) is such a product if every S_k leaves V invariant, V contains what r reads, and

- either all components agree on V: then a is one Gaussian,
- or V contains all m_j - m_k and the ranges of all S_j - S_k: then a = sum_k w_k N(P m_k, P S_k P).

For S_k = v I that is span{rows of W} if it is orthogonal to the modes, else span{m_j - m_k, rows of W}. A common
covariance with several eigenvalues takes the projection of each of these vectors on each eigenspace. Proof and
consequences: paper/theorems/reduction.tex.

**Rank decisions.** A larger V is never wrong, so that a direction which may matter is kept. A vector is taken to lie in
the span of others only if what is left of it is of the size of its own rounding, ``ROUNDING`` times its length (times d
after a rotation into the eigenbasis), and at most ``INVISIBLE`` of the smallest standard deviation. What is then solved
is the question for inputs moved by their rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._reward import Reward
from gapbound._validate import Array, shown
from gapbound.gaussian import Gaussian, trusted
from gapbound.mixture import GaussianMixture, mixed
from gapbound.reward import as_reward

ROUNDING = 32 * np.finfo(float).eps
INVISIBLE = 1e-9  # of the smallest standard deviation
EQUAL = 1e-12  # relative difference of eigenvalues that a rotation into the eigenbasis may have made

Law = Gaussian | GaussianMixture


@door(infinite=True)
def directions(target: Law, reward: Reward | Callable[[Any], Any]) -> tuple[Law, Reward]:
    """A target and a reward of as few dimensions as possible, with the same gap for every process and eta.

    Bounds and ``reward_gap`` do this by themselves. Linear, HalfSpace, Cosine and Quadratic rewards reduce; Bump,
    AbsoluteDeviation and callables read every coordinate. Components whose covariances are full and differ stay.

    Args:
        target: Gaussian or GaussianMixture, without batch axes.
        reward: a gapbound reward, or any callable.

    Returns:
        The target's law along the directions that matter, and the reward in the same coordinates; the arguments
        themselves where all d directions matter.

    Raises:
        ValueError: a batch of targets, a reward of another dimension.
        TypeError: a target that is neither a Gaussian nor a mixture.
    """
    if not isinstance(target, Gaussian | GaussianMixture):
        raise TypeError(f"directions needs a Gaussian or a GaussianMixture, got {shown(target)}")
    if target.batch_shape:
        raise ValueError(f"directions takes one target, got a batch of shape {target.batch_shape}; loop")
    return reduced(target, as_reward(reward).in_dim(target.dim))


def reduced(target: Law, reward: Reward) -> tuple[Law, Reward]:
    """``directions`` for a checked target without batch axes and a reward written out in its dimension."""
    rows = reward._rows(target.dim) if target.dim > 1 else None
    frame = None if rows is None else _Frame.of(target)
    if rows is None or frame is None:
        return target, reward
    lengths = np.abs(rows).max(-1, keepdims=True)
    rows = frame.turned(rows[lengths[:, 0] > 0] / lengths[lengths > 0][:, None])
    seen = frame.span(rows, frame.tolerance * _norms(rows))
    if seen.dim and not (rows[:, frame.differing] != 0).any() and frame.agree_on(seen):
        return _restricted(frame, seen, reward, single=True)
    apart = frame.mean[1:] - frame.mean[:1]
    generators = np.concatenate([rows, apart])
    limits = np.concatenate([frame.tolerance * _norms(rows), np.full(len(apart), frame.tolerance * frame.size)])
    seen = frame.span(generators, limits).with_coordinates(frame.differing)
    if not seen.dim:  # a constant reward on one law: any direction shows it
        seen = seen.with_coordinates(np.arange(1))
    if seen.dim >= target.dim:
        return target, reward
    return _restricted(frame, seen, reward, single=len(frame.weights) == 1)


@dataclass(frozen=True)
class _Basis:
    """An orthonormal basis of V: some coordinates, and some combinations of the coordinates of each eigenspace."""

    coordinates: Array  # (n,), whole numbers
    blocks: tuple[tuple[Array, Array], ...]  # indices (s,) and rows (n, s)

    @property
    def dim(self) -> int:
        """The dimension of V."""
        return len(self.coordinates) + sum(len(rows) for _, rows in self.blocks)

    def along(self, vectors: Array) -> Array:
        """Coordinates in V of vectors (..., d): shape (..., dim V)."""
        parts = [vectors[..., self.coordinates], *(vectors[..., at] @ rows.T for at, rows in self.blocks)]
        return np.concatenate(parts, axis=-1)

    def constant(self, values: Array) -> Array:
        """Values (..., d) that are constant on each eigenspace, per coordinate of V."""
        parts = [values[..., self.coordinates]]
        parts += [np.repeat(values[..., at[:1]], len(rows), axis=-1) for at, rows in self.blocks]
        return np.concatenate(parts, axis=-1)

    def with_coordinates(self, more: Array) -> _Basis:
        """The span with further coordinates, none of which is there yet."""
        return _Basis(np.concatenate([self.coordinates, more]), self.blocks)


@dataclass(frozen=True)
class _Frame:
    """The components in coordinates in which all their covariances are diagonal."""

    weights: Array  # (K,)
    mean: Array  # (K, d)
    variance: Array  # (K, d)
    basis: Array | None  # (d, d), None for the given coordinates

    @staticmethod
    def of(target: Law) -> _Frame | None:
        """The frame, without repetitions of one component; None for full covariances that differ."""
        if isinstance(target, Gaussian):
            weights, mean, cov, diagonal = np.ones(1), target.mean[None], target.cov[None], target.is_diagonal
        else:
            law = target.components
            weights, mean, cov, diagonal = _distinct(target.weights, law.mean, law.cov, law.is_diagonal)
        if diagonal:
            return _Frame(weights, mean, cov, None)
        if (cov != cov[:1]).any():
            return None
        eigenvalues, basis = trusted(mean[0], cov[0], event=2).spectrum
        return _Frame(weights, mean @ basis, np.broadcast_to(eigenvalues, mean.shape), basis)

    @cached_property
    def differing(self) -> Array:
        """Coordinates along which the covariances differ."""
        return np.flatnonzero((self.variance != self.variance[:1]).any(0))

    @cached_property
    def size(self) -> float:
        """The largest length of a mean."""
        return float(_norms(self.mean).max())

    @cached_property
    def tolerance(self) -> float:
        """What is left of a vector, relative to its length, that counts as rounding."""
        rounding = ROUNDING * (1 if self.basis is None else self.mean.shape[-1])
        sd = float(np.sqrt(self.variance.min()))
        return min(rounding, INVISIBLE * sd / (self.size + sd))

    def turned(self, vectors: Array) -> Array:
        """Vectors (..., d) in these coordinates."""
        return vectors if self.basis is None else vectors @ self.basis

    def span(self, generators: Array, limits: Array) -> _Basis:
        """The smallest invariant subspace that holds the generators (n, d) up to remainders below their limits.

        Coordinates along which covariances differ are left to the caller.
        """
        kept, blocks = [np.empty(0, dtype=int)], []
        for at in self._eigenspaces():
            part = generators[:, at]
            if len(at) == 1:
                kept.append(at[(np.abs(part[:, 0]) > limits).any(keepdims=True)])
                continue
            rows = _orthonormal(part, limits)
            if len(rows):
                blocks.append((at, rows))
        return _Basis(np.concatenate(kept), tuple(blocks))

    def _eigenspaces(self) -> Iterator[Array]:
        """Indices of each eigenspace of what the covariances share."""
        common = np.setdiff1d(np.arange(self.mean.shape[-1]), self.differing)
        order = common[np.argsort(self.variance[0, common], kind="stable")]
        values = self.variance[0, order]
        start = 0
        while start < len(order):
            top = values[start] * (1 if self.basis is None else 1 + EQUAL)
            end = int(np.searchsorted(values, top, side="right"))
            yield order[start:end]
            start = end

    def agree_on(self, seen: _Basis) -> bool:
        """Whether all components have one mean there."""
        along = seen.along(self.mean)
        return bool((_norms(along - along[:1]) <= self.tolerance * self.size).all())


def _distinct(weights: Array, mean: Array, cov: Array, diagonal: bool) -> tuple[Array, Array, Array, bool]:
    """The mixture's parameters with equal components merged, in the order of their first occurrence."""
    firsts: list[int] = []
    merged: list[float] = []
    for k, weight in enumerate(weights.tolist()):
        same = (i for i, j in enumerate(firsts) if (mean[j] == mean[k]).all() and (cov[j] == cov[k]).all())
        i = next(same, len(firsts))
        if i == len(firsts):
            firsts.append(k)
            merged.append(weight)
        else:
            merged[i] += weight
    return np.array(merged), mean[firsts], cov[firsts], diagonal


def _orthonormal(vectors: Array, limits: Array) -> Array:
    """Orthonormal rows (k, d) that span ``vectors`` (n, d) up to remainders of at most ``limits``.

    Gram-Schmidt, the vector with the largest remainder over its limit first, every remainder orthogonalised twice. No
    vector is taken twice, so that k is at most n.
    """
    left, rows = vectors.astype(float), np.empty((0, vectors.shape[-1]))
    open_ = np.ones(len(vectors), dtype=bool)
    while True:
        norms = _norms(left)
        open_ &= norms > limits
        if not open_.any() or len(rows) == vectors.shape[-1]:
            return rows
        over = np.where(open_, norms / np.maximum(limits, np.finfo(float).tiny), -1.0)
        pick = int(over.argmax())
        open_[pick] = False
        row = left[pick] / norms[pick]
        row = row - (rows @ row) @ rows
        size = float(np.linalg.norm(row))
        if size == 0:
            continue
        row = row / size
        row = row - (rows @ row) @ rows
        row = row / np.linalg.norm(row)
        rows = np.vstack([rows, row])
        left = left - (left @ row)[:, None] * row


def _restricted(frame: _Frame, seen: _Basis, reward: Reward, single: bool) -> tuple[Law, Reward]:
    """The law along V, and the reward there."""
    mean, variance = seen.along(frame.mean), seen.constant(frame.variance)
    read = reward._along(lambda vectors: seen.along(frame.turned(vectors)))
    if single:
        return trusted(frame.weights @ mean, variance[0], event=1), read
    return mixed(frame.weights, trusted(mean, variance, event=1)), read


def _norms(vectors: Array) -> Array:
    """Lengths along the last axis, without overflow."""
    return np.hypot.reduce(vectors, axis=-1)
