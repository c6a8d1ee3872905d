"""One case measured: the exact errors and gap, every bound on them, and which bound is violated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import gapbound as gb
from analysis.cases import Case
from gapbound.bounds.best import combined
from gapbound.bounds.problem import problem
from gapbound.bounds.spread import variance
from gapbound.monotone import sampler_errors

SHARE = 0.02  # of sd(r): a smaller gap says little about a ratio to it
ROUNDING = 1e-9  # relative, of a bound
FLOOR = 1e-12  # of 1 + sd(r): what double precision leaves of an exact 0
GENERAL = ("chi_square", "total_variation", "wasserstein", "duhamel")  # B1 to B4: no closed value function needed
PARTS = ("ode", "sde", "gap")


@dataclass(frozen=True)
class Measured:
    """A case with its exact numbers.

    Args:
        case: the question.
        ode: E r(Y^ODE) - E_p* r.
        sde: E r(Y^eta) - E_p* r.
        gap: their difference.
        error: what is not known of these.
        sd: standard deviation of r under p*.
        found: all bounds.
    """

    case: Case
    ode: float
    sde: float
    gap: float
    error: float
    sd: float
    found: gb.bounds.Best

    @property
    def visible(self) -> bool:
        """Whether the gap is large enough for a ratio to mean something."""
        return abs(self.gap) > SHARE * self.sd

    @cached_property
    def limits(self) -> dict[str, gb.bounds.Bound | gb.bounds.Best]:
        """Every bound, the smallest of all, and the smallest of B1 to B4."""
        general = {name: bound for name, bound in self.found.bounds.items() if name in GENERAL}
        together = combined(general, {}, self.found.trivial)
        return {"best": self.found, "best of B1 to B4": together, **self.found.bounds}

    def ratio(self, name: str = "best") -> float:
        """Bound over |gap|."""
        return self.limits[name].gap / abs(self.gap)

    def violated(self, name: str) -> list[str]:
        """Which of the bound's parts are below the exact number."""
        limit, slack = self.limits[name], self.error + FLOOR * (1 + self.sd)
        given = {part: getattr(limit, part) for part in PARTS}
        return [
            f"{name}.{part}"
            for part, bound in given.items()
            if bound is not None and abs(getattr(self, part)) > bound * (1 + ROUNDING) + slack
        ]


def measure(case: Case) -> Measured:
    """Exact numbers and bounds of a case."""
    question = case.target, case.process, case.reward
    found = gb.bounds.best(*question, case.eta)
    sd = math.sqrt(variance(problem(*question, case.eta).reward, case.target).value)
    if isinstance(case.target, gb.Gaussian):
        ode, sde = (float(gb.sampler_error(case.target, *question[1:], eta)) for eta in (0.0, case.eta))
        return Measured(case, ode, sde, float(gb.reward_gap(*question, case.eta)), 0.0, sd, found)
    first, second = sampler_errors(*question, [0.0, case.eta])
    ode, sde, error = float(first.value), float(second.value), 2 * float(first.error + second.error)
    return Measured(case, ode, sde, ode - sde, error, sd, found)
