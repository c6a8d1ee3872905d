r"""What a symbolic check is, and the symbols that all of them share.

A check states one identity or closed form of a proof in paper/ and returns its residuals, which sympy simplifies to
exactly 0. Its ``slip`` multiplies one constant that the proof claims: 1 is the theorem, and any other value must leave
a residual. Symbols: target N(m, v), clock tau from S = sigma_T^2 down to 0, c = (1 + eta^2)/2, rho = v/(v + S).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

Expr = Any  # sympy ships no types
Residuals = tuple[Expr, ...]

tau, v, S, eta, t = sp.symbols("tau v S eta t", positive=True)
m, m_pi, z, y = sp.symbols("m m_pi z y", real=True)
HALF_POWER = (1 + eta**2) / 2  # c

CHECKS: dict[str, Callable[..., Residuals]] = {}


def check(function: Callable[..., Residuals]) -> Callable[..., Residuals]:
    """Enter a check into ``CHECKS`` under its name."""
    CHECKS[function.__name__] = function
    return function
