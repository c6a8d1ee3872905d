r"""Rewards with exact expectations under Gaussians and Gaussian mixtures; any Python callable is one too.

A number in place of a vector (c, b, w, omega) is that number on every coordinate, in any dimension. ``lipschitz`` and
``range`` are then those in d = 1; ``reward.in_dim(d)`` writes the numbers out and gives those in d dimensions.

Accuracy: ``expectation`` sums positive terms or terms of the size of the answer's ingredients, so its relative error is
a few units of rounding times the sum of the absolute terms of the formula. Where a formula starts with a difference
or a phase (m - c, w'm - threshold, omega'm + phase) the rounding of that is inherited: it is 1e-16 times the sum of the
absolute terms of the difference, divided by the length over which the reward varies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import erf, ndtr

from gapbound._arrays import finite_points, like, namespace, points
from gapbound._door import door
from gapbound._reward import Reward
from gapbound._validate import Array, dimension, finite, positive, shown
from gapbound.expectation import CallableReward
from gapbound.gaussian import Gaussian, rotate, transposed

__all__ = [
    "AbsoluteDeviation",
    "Bump",
    "CallableReward",
    "Cosine",
    "HalfSpace",
    "Linear",
    "Quadratic",
    "Reward",
    "as_reward",
]


@dataclass(frozen=True, eq=False)
class Quadratic(Reward):
    r"""``r(x) = -(x - c)' A (x - c) + b'x + const``.

    .. math:: E r = -(m - c)' A (m - c) - \mathrm{tr}(A S) + b'm + \text{const}

    Args:
        A: a number (times the identity) or a symmetric matrix (d, d); of any sign.
        c: centre, number or (d,).
        b: slope, number or (d,).
        const: number.

    Raises:
        ValueError: A is not symmetric, shapes do not fit each other, entries are not finite.
    """

    A: Any
    c: Any
    b: Any = 0.0
    const: Any = 0.0
    _vectors: ClassVar[tuple[str, ...]] = ("c", "b")
    _normal: ClassVar[str | None] = "b"  # where A = 0

    @door()
    def __post_init__(self) -> None:
        """Validate the parameters."""
        self._validate_numbers("const")
        A = finite("A", self.A)
        if A.ndim not in (0, 2) or (A.ndim == 2 and (A.shape[0] != A.shape[1] or not A.size)):
            raise ValueError(f"A must be a number or a matrix (d, d), got shape {A.shape}; write a diagonal as np.diag")
        if A.ndim:
            asymmetry = np.abs(A - A.T).max()
            if asymmetry > 1e-10 * np.abs(A).max():
                raise ValueError(f"A must be symmetric, but A and A' differ by {asymmetry:g}; use (A + A') / 2")
            A = (A + A.T) / 2
        object.__setattr__(self, "A", A)
        self._validate_vectors()

    @door(x=finite_points)
    def __call__(self, x: Any) -> Any:
        """See the class."""
        x = points("x", x, self.dim)
        from_c, A = x - like(x, self.c), like(x, self.A)
        curved = A * from_c if self.A.ndim == 0 else from_c @ A
        return (like(x, self.b) * x - curved * from_c).sum(-1) + self.const

    @door(dim=dimension)
    def quadratic_form(self, dim: int) -> tuple[Any, Array, Array, float]:
        """``(A, c, b, const)`` in ``dim`` dimensions: A a float or an array (d, d), c and b arrays (d,).

        Raises:
            ValueError: a parameter has another dimension.
        """
        if self.A.ndim and self.A.shape != (dim, dim):
            raise ValueError(f"A has shape {self.A.shape}, which does not fit the dimension {dim}")
        A = self.A if self.A.ndim else float(self.A)
        return A, self._vector("c", dim), self._vector("b", dim), self.const

    def _gaussian(self, law: Gaussian) -> Array:
        return _quadratic_expectation(law, *self.quadratic_form(law.dim))

    @property
    @door(infinite=True)
    def lipschitz(self) -> float:
        """Inf, unless A = 0: then |b|."""
        return math.inf if self.A.any() else _norm(self._vector("b", self.dim or 1))

    @property
    @door(infinite=True)
    def range(self) -> tuple[float, float]:
        r"""From the vertex: sup r = b'c + const + b' A^-1 b / 4 if A is positive definite; inf r if negative definite.

        Eigenvalues of A within d rounding units of 0 count as 0; a b that they carry makes r unbounded both ways.
        """
        A, c, b, const = self.quadratic_form(self.dim or 1)
        curvature, basis = (np.full(c.shape, A), None) if np.ndim(A) == 0 else np.linalg.eigh(A)
        slope = rotate(transposed(basis), b)
        tiny = c.size * np.finfo(float).eps
        curvature = np.where(np.abs(curvature) <= tiny * np.abs(curvature).max(), 0.0, curvature)
        slope = np.where(np.abs(slope) <= tiny * np.abs(slope).max(), 0.0, slope)
        free, flat = (curvature == 0) & (slope != 0), (curvature == 0) & (slope == 0)
        gain = slope**2 / (4 * np.where(curvature == 0, 1.0, curvature))
        vertex = float(b @ c + const + np.where(flat, 0.0, gain).sum())
        low = -math.inf if (free | (curvature > 0)).any() else vertex
        high = math.inf if (free | (curvature < 0)).any() else vertex
        return low, high

    def _rows(self, dim: int) -> Array | None:
        if self.A.ndim == 0:
            return None if self.A else super()._rows(dim)
        curvature, basis = np.linalg.eigh(self.A)
        seen = basis.T[np.abs(curvature) > dim * np.finfo(float).eps * np.abs(curvature).max()]
        return None if len(seen) == dim else np.vstack([seen, self._vector("b", dim)])

    def _along(self, coordinates: Callable[[Array], Array]) -> Reward:
        A = coordinates(coordinates(self.A).T) if self.A.ndim else self.A
        return Quadratic((A + A.T) / 2, coordinates(self.c), coordinates(self.b), self.const)

    def _arrays(self) -> dict[str, Array]:
        return ({"A": self.A} if np.ndim(self.A) else {}) | super()._arrays()


@dataclass(frozen=True, eq=False)
class Linear(Reward):
    """``r(x) = b'x + const``, E r = b'm + const.

    Args:
        b: slope, number or (d,).
        const: number.
    """

    b: Any
    const: Any = 0.0
    _vectors: ClassVar[tuple[str, ...]] = ("b",)
    _normal: ClassVar[str | None] = "b"

    @door()
    def __post_init__(self) -> None:
        """Validate the parameters."""
        self._validate_numbers("const")
        self._validate_vectors()

    @door(x=finite_points)
    def __call__(self, x: Any) -> Any:
        """See the class."""
        return _dot(self.b, points("x", x, self.dim)) + self.const

    @door(dim=dimension)
    def quadratic_form(self, dim: int) -> tuple[Any, Array, Array, float]:
        """``(0.0, zeros, b, const)``: see ``Quadratic.quadratic_form``."""
        return 0.0, np.zeros(dim), self._vector("b", dim), self.const

    def _gaussian(self, law: Gaussian) -> Array:
        return (self._vector("b", law.dim) * law.mean).sum(-1) + self.const

    @property
    @door(infinite=True)
    def lipschitz(self) -> float:
        """|b|."""
        return _norm(self._vector("b", self.dim or 1))

    @property
    @door(infinite=True)
    def range(self) -> tuple[float, float]:
        """Everything, unless b = 0."""
        return (-math.inf, math.inf) if self.b.any() else (self.const, self.const)


@dataclass(frozen=True, eq=False)
class HalfSpace(Reward):
    r"""``r(x) = 1{w'x > threshold}``, :math:`E r = \Phi((w'm - \text{threshold}) / \sqrt{w'Sw})`.

    Args:
        w: normal vector, number or (d,), not zero.
        threshold: number.

    Raises:
        ValueError: w is zero.
    """

    w: Any
    threshold: Any = 0.0
    _vectors: ClassVar[tuple[str, ...]] = ("w",)
    _normal: ClassVar[str | None] = "w"

    @door()
    def __post_init__(self) -> None:
        """Validate the parameters."""
        self._validate_numbers("threshold")
        self._validate_vectors()
        if not self.w.any():
            raise ValueError("w must not be zero: 1{0 > threshold} is a constant; use Linear(0, const)")

    @door(x=finite_points)
    def __call__(self, x: Any) -> Any:
        """See the class."""
        x = points("x", x, self.dim)
        level, xp = _dot(self.w, x), namespace(x)
        return xp.where(level > self.threshold, xp.ones_like(level), xp.zeros_like(level))

    def _gaussian(self, law: Gaussian) -> Array:
        w = self._vector("w", law.dim)
        size = np.abs(w).max()  # the half-space does not depend on the length of w, whose square may leave the floats
        return ndtr((((w / size) * law.mean).sum(-1) - self.threshold / size) / np.sqrt(_variance_along(law, w / size)))

    @property
    @door(infinite=True)
    def lipschitz(self) -> float:
        """Inf: r jumps."""
        return math.inf

    @property
    @door(infinite=True)
    def range(self) -> tuple[float, float]:
        """(0, 1)."""
        return 0.0, 1.0


@dataclass(frozen=True, eq=False)
class AbsoluteDeviation(Reward):
    r"""``r(x) = weight * sum_i |x_i - c_i|``: folded normals, two positive terms a coordinate.

    .. math:: E|x_i - c_i| = s \sqrt{2/\pi} \, e^{-u^2/2} + |m_i - c_i| \, \mathrm{erf}(u / \sqrt2),
        \qquad u = |m_i - c_i| / s, \quad s^2 = S_{ii}

    Args:
        c: centre, number or (d,).
        weight: number of any sign.
    """

    c: Any
    weight: Any = 1.0
    _vectors: ClassVar[tuple[str, ...]] = ("c",)

    @door()
    def __post_init__(self) -> None:
        """Validate the parameters."""
        self._validate_numbers("weight")
        self._validate_vectors()

    @door(x=finite_points)
    def __call__(self, x: Any) -> Any:
        """See the class."""
        x = points("x", x, self.dim)
        return self.weight * abs(x - like(x, self.c)).sum(-1)

    def _gaussian(self, law: Gaussian) -> Array:
        distance, sd = np.abs(law.mean - self._vector("c", law.dim)), np.sqrt(law.variances)
        u = distance / sd
        folded = math.sqrt(2 / math.pi) * sd * np.exp(-(u**2) / 2) + distance * erf(u / math.sqrt(2))
        return self.weight * folded.sum(-1)

    @property
    @door(infinite=True)
    def lipschitz(self) -> float:
        """|weight| sqrt(d), as everything in the Euclidean norm."""
        return abs(self.weight) * math.sqrt(self.dim or 1)

    @property
    @door(infinite=True)
    def range(self) -> tuple[float, float]:
        """From 0 to weight times inf."""
        return (-math.inf if self.weight < 0 else 0.0), (math.inf if self.weight > 0 else 0.0)


@dataclass(frozen=True, eq=False)
class Bump(Reward):
    r"""``r(x) = exp(-|x - c|^2 / (2 h^2))``.

    .. math:: E r = \det(I + S/h^2)^{-1/2} \exp\big(-\tfrac12 (m - c)' (S + h^2 I)^{-1} (m - c)\big)

    Args:
        c: centre, number or (d,).
        h: width, positive, in units of the data.

    Raises:
        ValueError: h is not positive.
    """

    c: Any
    h: Any
    _vectors: ClassVar[tuple[str, ...]] = ("c",)

    @door()
    def __post_init__(self) -> None:
        """Validate the parameters."""
        self._validate_numbers("h")
        positive("h", self.h)
        self._validate_vectors()

    @door(x=finite_points)
    def __call__(self, x: Any) -> Any:
        """See the class."""
        x = points("x", x, self.dim)
        return namespace(x).exp(-(((x - like(x, self.c)) / self.h) ** 2).sum(-1) / 2)

    def _gaussian(self, law: Gaussian) -> Array:
        eigenvalues, basis = law.spectrum
        offset = rotate(transposed(basis), law.mean - self._vector("c", law.dim))
        sd = np.sqrt(eigenvalues)
        return np.exp(-(_log_hypot(sd / self.h) + (offset / np.hypot(sd, self.h)) ** 2 / 2).sum(-1))

    @property
    @door(infinite=True)
    def lipschitz(self) -> float:
        """1 / (h sqrt(e)): the slope at distance h."""
        return math.exp(-0.5) / self.h

    @property
    @door(infinite=True)
    def range(self) -> tuple[float, float]:
        """(0, 1)."""
        return 0.0, 1.0


@dataclass(frozen=True, eq=False)
class Cosine(Reward):
    r"""``r(x) = cos(omega'x + phase)``, :math:`E r = \cos(\omega'm + \text{phase}) \, e^{-\omega'S\omega/2}`.

    Args:
        omega: frequency, number or (d,); in radians per unit of the data.
        phase: number, in radians.
    """

    omega: Any
    phase: Any = 0.0
    _vectors: ClassVar[tuple[str, ...]] = ("omega",)
    _normal: ClassVar[str | None] = "omega"

    @door()
    def __post_init__(self) -> None:
        """Validate the parameters."""
        self._validate_numbers("phase")
        self._validate_vectors()

    @door(x=finite_points)
    def __call__(self, x: Any) -> Any:
        """See the class."""
        x = points("x", x, self.dim)
        return namespace(x).cos(_dot(self.omega, x) + self.phase)

    def _gaussian(self, law: Gaussian) -> Array:
        omega = self._vector("omega", law.dim)
        return np.cos((omega * law.mean).sum(-1) + self.phase) * np.exp(-_variance_along(law, omega) / 2)

    @property
    @door(infinite=True)
    def lipschitz(self) -> float:
        """|omega|."""
        return _norm(self._vector("omega", self.dim or 1))

    @property
    @door(infinite=True)
    def range(self) -> tuple[float, float]:
        """(-1, 1), unless omega = 0."""
        return (-1.0, 1.0) if self.omega.any() else (math.cos(self.phase), math.cos(self.phase))


def as_reward(reward: Reward | Callable[[Any], Any]) -> Reward:
    """``reward`` itself, or a callable wrapped as ``CallableReward``.

    Raises:
        TypeError: neither.
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, type) or not callable(reward):
        raise TypeError(f"a reward is an object such as Quadratic(1.0, 0.0) or a function of x, got {shown(reward)}")
    return CallableReward(reward)


def _dot(vector: Array, x: Any) -> Any:
    return (like(x, vector) * x).sum(-1)


def _norm(vector: Array) -> float:
    return float(np.hypot.reduce(vector))


def _variance_along(law: Gaussian, w: Array) -> Array:
    """w' S w."""
    return (w**2 * law.cov).sum(-1) if law.is_diagonal else (w * rotate(law.cov, w)).sum(-1)


def _log_hypot(u: Array) -> Array:
    """log sqrt(1 + u^2) for u >= 0, where u^2 itself may leave the range of floats."""
    small, large = np.minimum(u, 1.0), np.maximum(u, 1.0)
    return np.log(large) + np.log1p((small / large) ** 2) / 2


def _quadratic_expectation(law: Gaussian, A: Any, c: Array, b: Array, const: float) -> Array:
    from_c = law.mean - c
    if np.ndim(A) == 0:
        curved = A * (from_c**2 + law.variances).sum(-1)
    else:
        spread = (np.diagonal(A) * law.cov).sum(-1) if law.is_diagonal else (A * law.cov).sum((-2, -1))
        curved = ((from_c @ A) * from_c).sum(-1) + spread
    return (b * law.mean).sum(-1) - curved + const
