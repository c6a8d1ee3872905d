"""What every reward is: a function of the sample, with an exact expectation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, dimension, finite, shown
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture


class Reward(ABC):
    r"""A function r of the sample, from (\*shape, d) to (\*shape,).

    Arrays of any real dtype are rewarded in float64. Tensors keep their device; float32 and float64 keep their dtype,
    float16 and bfloat16 are rewarded in float32, integers (images of uint8) in float64.
    """

    _vectors: ClassVar[tuple[str, ...]] = ()  # the fields that are a number or an array (d,)
    _normal: ClassVar[str | None] = None  # the field w of a reward that reads w'x alone

    @abstractmethod
    def __call__(self, x: Any) -> Any:
        """r(x) for an array or a tensor of shape (..., d): shape (...); the class says which dtype."""

    @property
    @abstractmethod
    def lipschitz(self) -> float:
        """Smallest L with ``|r(x) - r(y)| <= L |x - y|`` in the Euclidean norm; inf if there is none."""

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """``(inf r, sup r)``, possibly infinite."""

    @abstractmethod
    def _gaussian(self, law: Gaussian) -> Array:
        r"""E r under ``law``, shape \*batch."""

    @property
    def dim(self) -> int | None:
        """The dimension, where an array among the parameters fixes it."""
        sizes = [value.shape[-1] for value in self._arrays().values()]
        return sizes[0] if sizes else None

    @door(infinite=True, dim=dimension)
    def in_dim(self, dim: int) -> Reward:
        """The same reward with every number written out as a vector of ``dim`` entries.

        Raises:
            ValueError: the reward has another dimension.
        """
        vectors = {name: self._vector(name, dim) for name in self._vectors}
        return replace(self, **vectors) if vectors else self  # type: ignore[type-var]

    @door()
    def expectation(self, law: Gaussian | GaussianMixture) -> Any:
        r"""E r under a Gaussian or a mixture: an array of its batch shape (an ``Estimate`` for a callable).

        Raises:
            ValueError: the law has another dimension than the reward.
            TypeError: ``law`` is neither.
        """
        if isinstance(law, GaussianMixture):
            return (law.weights * self._gaussian(law.components)).sum(-1)
        if isinstance(law, Gaussian):
            return self._gaussian(law)
        raise TypeError(f"expectation needs a Gaussian or a GaussianMixture, got {shown(law)}")

    def _rows(self, dim: int) -> Array | None:
        """Rows (n, dim) whose products with x are all that the reward reads; None where that may be all of x."""
        if self._normal is None:
            return None
        w = self._vector(self._normal, dim)[None]
        return w[w.any(-1)]

    def _along(self, coordinates: Callable[[Array], Array]) -> Reward:
        """The reward as a function of ``coordinates(x)``, those of an orthonormal basis whose span holds ``_rows``."""
        vectors = {name: coordinates(getattr(self, name)) for name in self._vectors}
        return replace(self, **vectors)  # type: ignore[type-var]

    def _arrays(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in self._vectors if np.ndim(getattr(self, name))}

    def _vector(self, name: str, dim: int) -> Array:
        """A field as an array (dim,)."""
        value: Array = getattr(self, name)
        if value.ndim and value.shape[-1] != dim:
            raise ValueError(f"{name} has shape {value.shape}, which does not fit the dimension {dim}")
        return value if value.ndim else np.full(dim, value)

    def _validate_vectors(self) -> None:
        for name in self._vectors:
            value = finite(name, getattr(self, name))
            if value.ndim > 1 or not value.size:
                raise ValueError(f"{name} must be a number or an array of shape (d,), got shape {value.shape}")
            object.__setattr__(self, name, value)
        self._validate_dims()

    def _validate_dims(self) -> None:
        arrays = self._arrays()
        if len({value.shape[-1] for value in arrays.values()}) > 1:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
            raise ValueError(f"the parameters must have one dimension, got shapes {shapes}")

    def _validate_numbers(self, *names: str) -> None:
        for name in names:
            value = finite(name, getattr(self, name))
            if value.ndim:
                raise ValueError(f"{name} must be one number, got shape {value.shape}")
            object.__setattr__(self, name, float(value))
