r"""Noise levels to integrate over, and integrals over tau = sigma^2 on them.

Gauss-Legendre panels in u = asinh(sigma / length), which is sigma itself below the ``length`` and log sigma above: a
score error that is smooth in sigma is smooth in u, and so is the denoising loss, which grows as 1 / sigma. No node is
sigma = 0. Panels meet where eta jumps.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from gapbound._validate import Array
from gapbound.affine import collocation
from gapbound.eta import Windows, segments

NODES = 4  # of a panel
_, WEIGHTS, TO_NODE = collocation(NODES)


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """Panels of noise levels between sigma_0 and sigma_T.

    Args:
        edges: of the panels, rising, shape (panels + 1,).
        sigma: nodes, rising, shape (panels, NODES).
        clock: dtau per unit of a panel's own length at the nodes, so that ``clock * WEIGHTS`` integrates.
    """

    edges: Array
    sigma: Array
    clock: Array

    @property
    def weights(self) -> Array:
        """Of the nodes in an integral over tau, shape (panels, NODES)."""
        return self.clock * WEIGHTS

    def from_below(self, values: Array) -> tuple[Array, float]:
        """The integral of ``values`` over tau from sigma_0 up to every node, and up to sigma_T."""
        steps = (values * self.weights).sum(-1)
        below = np.cumsum(steps) - steps
        return below[:, None] + (values * self.clock) @ TO_NODE.T, float(steps.sum())


def noise_levels(sigma_0: float, sigma_T: float, eta: Array | Windows, length: float, panels: int) -> NoiseLevels:
    """About ``panels`` panels, at least one for each piece of ``eta``."""
    cuts = sorted({sigma_0, sigma_T, *(low for low, _, _ in segments(eta) if sigma_0 < low < sigma_T)})
    whole = _to_u(sigma_T, length) - _to_u(sigma_0, length)
    edges = [_to_u(sigma_0, length)]
    for low, high in itertools.pairwise(cuts):
        start, stop = _to_u(low, length), _to_u(high, length)
        count = max(1, round(panels * (stop - start) / whole))
        edges.extend(np.linspace(start, stop, count + 1)[1:])
    u = np.array(edges)
    x, _ = np.polynomial.legendre.leggauss(NODES)
    width = np.diff(u)[:, None]
    sigma = length * np.sinh(u[:-1, None] + width * (x + 1) / 2)
    return NoiseLevels(length * np.sinh(u), sigma, 2 * sigma * np.hypot(length, sigma) * width)


def _to_u(sigma: float, length: float) -> float:
    return math.asinh(sigma / length)
