r"""One step of diffusion between cells that move with the quantiles of q_tau, stable at any rate of exchange.

In Q = F_tau(z) an expectation u(Q, tau) obeys du/dtau = eta^2/2 d/dQ(q^2 du/dQ) (see ``gapbound.monotone``). In finite
volumes each cell exchanges with its neighbours at rates that span hundreds of decades; nothing here subtracts them.
"""

from __future__ import annotations

import math

import numpy as np

from gapbound._validate import Array
from gapbound.quantiles import Points

STEP = 0.25  # coarsest steps in log(v + tau)


def stiffness(square: float) -> float:
    """How many more steps an eta beyond sqrt(2) takes."""
    return max(1.0, min(square / 2, 1.5 * math.sqrt(square)))


def steps_of(span: float, square: float, step: float) -> int:
    """Steps of the coarsest resolution through ``span`` in log(v + tau), for eta^2 = ``square``."""
    return max(4, math.ceil(span * stiffness(square) / step))


def exchange_rates(points: Points, log_mass: Array, quarter: float) -> tuple[Array, Array]:
    """Rates of exchange of every cell with the one below and the one above, times ``quarter``; 0 at the ends."""
    z, log_q = points.z, points.log_q
    width = np.diff(z)
    with np.errstate(divide="ignore"):
        rounding = (log_mass[1:-1] < np.log(1e-9 * points.tail[1:])) | (width < 1e-9 * (z[-1] - z[0]))
    by_mass = np.exp(np.minimum(log_mass[1:-1] - np.logaddexp(log_q[1:], log_q[:-1]) + math.log(2), 300.0).clip(-600.0))
    width = np.where(rounding, by_mass, width)
    width = np.concatenate([width[:1], width, width[-1:]])
    log_conductance = log_q - np.log((width[1:] + width[:-1]) / 2) + math.log(quarter)
    # above e^300 a cell only copies its neighbour
    down, up = (np.exp(np.minimum(log_conductance - m, 300.0)) for m in (log_mass[1:], log_mass[:-1]))
    return np.concatenate([[0.0], down]), np.concatenate([up, [0.0]])


def implicit_step(excess: Array, down: Array, up: Array, right: Array) -> Array:
    """Solve (excess + down + up) x - down x[below] - up x[above] = right, by cyclic reduction along the last axis.

    All is positive and the diagonal is never formed, hence nothing is subtracted: every unknown is a mean of the right
    side to full accuracy, even between cells that exchange at 1e100 times the rate of their neighbours.
    """
    n = right.shape[-1]
    if n == 1:
        return right / excess
    odd, even = slice(1, None, 2), slice(0, None, 2)
    inverse = 1 / (excess[..., odd] + down[..., odd] + up[..., odd])
    pairs = (n - 1) // 2  # of an odd cell with the even one above it
    from_below = down[..., 2::2] * inverse[..., :pairs]
    from_above = up[..., even][..., : n // 2] * inverse
    reduced = []
    for part in (excess, right):
        kept = part[..., even].copy()
        kept[..., 1:] += from_below * part[..., odd][..., :pairs]
        kept[..., : n // 2] += from_above * part[..., odd]
        reduced.append(kept)
    coarse_down, coarse_up = np.zeros_like(reduced[0]), np.zeros_like(reduced[0])
    coarse_down[..., 1:] = from_below * down[..., odd][..., :pairs]
    coarse_up[..., : n // 2] = from_above * up[..., odd]
    x = np.empty_like(right)
    x[..., even] = implicit_step(reduced[0], coarse_down, coarse_up, reduced[1])
    inner = right[..., odd] + down[..., odd] * x[..., even][..., : n // 2]
    inner[..., :pairs] += up[..., odd][..., :pairs] * x[..., 2::2]
    x[..., odd] = inner * inverse
    return x
