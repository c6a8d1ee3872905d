"""What a certificate of a learned score is: an estimate of bound B3, the parts of its mass, and its ingredients."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from gapbound._validate import Array
from gapbound.bounds.value import Constant

EXACT_ERROR = "score error"
DENOISING = "upper bound by the denoising loss"
DIFFERENCE = "difference of two scores"
WIDTH = 110  # of the printed lines


@dataclass(frozen=True)
class Estimated:
    """A number that enters a certificate and is no proof: Monte Carlo, or a supremum over samples.

    Args:
        name: what it is.
        value: on the safe side: the standard errors that ``source`` names are already added.
        error: one standard error, or what the last doubling of the samples changed.
        source: how it was found.
    """

    name: str
    value: float
    error: float
    source: str

    @property
    def kind(self) -> str:
        """Always "estimate", the fourth kind beside those of a ``Constant``."""
        return "estimate"

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.6g} (estimate, error {self.error:.1g}): {self.source}"


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    r"""Size of a difference of scores at several noise levels, in L^2(q_tau), by Monte Carlo.

    Args:
        sigma: the noise levels, shape (levels,).
        value: root mean square over q_tau, shape (levels,); in units of a score, 1 / length.
        error: its standard error.
        kind: "score error" (the true score is known), "upper bound by the denoising loss" (it is not: the loss exceeds
            the squared error by the conditional variance of the score, which is unknown), or "difference of two
            scores" (exact up to Monte Carlo, and says nothing about the truth).
        n: draws.
    """

    sigma: Array
    value: Array
    error: Array
    kind: str
    n: int


@dataclass(frozen=True, eq=False)
class Part:
    """What one range of noise levels, or the start, adds to the two bounds on W2.

    Args:
        name: "start, W2(prior, q_T)", or the range of sigma.
        sigma: that range, (low, high); None for the start.
        ode: share of the ODE's bound on W2, in units of the data.
        sde: likewise the SDE's.
    """

    name: str
    sigma: tuple[float, float] | None
    ode: float
    sde: float


@dataclass(frozen=True, eq=False)
class Certificate:
    r"""Estimate of bound B3 for a learned score. It proves nothing: kappa and the score error are found from samples.

    Args:
        ode: bound on ``|E r(Y^ODE) - E_p* r|``, the noise left at the stop included.
        sde: bound on ``|E r(Y^eta) - E_p* r|``, likewise.
        gap: bound on ``|E r(Y^ODE) - E r(Y^eta)|``; both stop at one noise level, so what is left there cancels.
        w2: bounds on W2 between the sampler's end and p* noised as it is where the sampler stops: (ODE, SDE).
        parts: where the mass of ``w2`` comes from, before the errors of quadrature and Monte Carlo are added.
        sigma: noise levels, rising, shape (levels,).
        score: e at these levels.
        kappa: -kappa is the largest growth rate of the learned score over samples, at these levels.
        kappa_rise: by how much half of the samples had kappa too large; already taken off ``kappa``.
        ingredients: what went in: constants with their kind, and estimates.
        assumptions: what the theorem uses, and what is only estimated.
        trivial: sup r - inf r; inf for an unbounded reward.
    """

    ode: float
    sde: float
    gap: float
    w2: tuple[float, float]
    parts: tuple[Part, ...]
    sigma: Array
    score: ScoreCurve
    kappa: Array
    kappa_rise: Array
    ingredients: tuple[Constant | Estimated, ...]
    assumptions: tuple[str, ...]
    trivial: float

    @property
    def vacuous(self) -> bool:
        """Whether the bound on the gap says no more than the reward's range does, or nothing at all."""
        return self.gap > self.trivial or math.isinf(self.gap)

    def __str__(self) -> str:
        first = f"certificate: |gap| <= {self.gap:.4g} (ODE {self.ode:.4g}, SDE {self.sde:.4g}), an estimate"
        if self.vacuous:
            first += f", vacuous: the reward's range is {self.trivial:.4g}"
        lines = [first, *self._table(), *self._profile()]
        for text in (*map(str, self.ingredients), *(f"assumes {one}" for one in self.assumptions)):
            lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="      ")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Parts of the two W2, the larger one's shares in percent."""
        width = max(len(part.name) for part in self.parts)
        rows = [f"  {'part of W2 <=':<{width}}  {self.w2[0]:>9.3g} ODE  {self.w2[1]:>9.3g} SDE"]
        for part in self.parts:
            shares = "  ".join(
                f"{value:>9.3g}{f'{value / whole:>5.0%}' if 0 < whole < math.inf else '':>4}"
                for value, whole in zip((part.ode, part.sde), self.w2, strict=True)
            )
            rows.append(f"  {part.name:<{width}}  {shares}")
        return rows

    def _profile(self) -> list[str]:
        """The score's error and kappa at a few levels."""
        picked = sorted({round(k * (len(self.sigma) - 1) / 5) for k in range(6)})
        rows = [("sigma", self.sigma), (f"e, {self.score.kind}", self.score.value), ("kappa (sampled)", self.kappa)]
        width = max(len(name) for name, _ in rows)
        return [f"  {name:<{width}}" + "".join(f"{values[k]:>11.3g}" for k in picked) for name, values in rows]
