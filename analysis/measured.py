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
from gapbound.bounds.value import exp_above
from gapbound.monotone import sampler_errors

SHARE = 0.02  # of sd(r): a smaller gap says little about a ratio to it
ROUNDING = 1e-9  # relative, of a bound
FLOOR = 1e-12  # of sd(r) and of the expectations that are subtracted: what double precision leaves of an exact 0
LEAST_SD = 1e-200  # unit of gaps and bounds where sd(r) underflows
CLOSE = 1.01  # a bound as close as this to the exact number asks for more digits of it
RTOL = (1e-4, 1e-6)  # of the exact numbers: at first, and then
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
        slack = self.error + FLOOR * self.sd
        return [
            f"{name}.{part}"
            for part, bound in self._parts(name).items()
            if abs(getattr(self, part)) > bound * (1 + ROUNDING) + slack
        ]

    def undefined(self, name: str) -> list[str]:
        """Which of the bound's parts, or of the exact numbers it is compared with, are NaN."""
        both = {part: (bound, getattr(self, part), self.error) for part, bound in self._parts(name).items()}
        return [f"{name}.{part}" for part, numbers in both.items() if any(map(math.isnan, numbers))]

    @property
    def replaced(self) -> dict[str, str]:
        """The bounds that had to be replaced by the trivial one, with the reasons."""
        return {name: bound.reason for name, bound in self.found.bounds.items() if bound.reason}

    def close(self) -> bool:
        """Whether a bound is so near its exact number that the error of that number matters.

        The bound of ``residual`` on the ODE's error is that number itself.
        """
        return any(
            bound <= CLOSE * abs(getattr(self, part)) + self.error
            for name in self.limits
            for part, bound in self._parts(name).items()
            if not (part == "ode" and name in ("residual", "best"))
        )

    def _parts(self, name: str) -> dict[str, float]:
        given = {part: getattr(self.limits[name], part) for part in PARTS}
        return {part: bound for part, bound in given.items() if bound is not None}


def measure(case: Case) -> Measured:
    """Exact numbers and bounds of a case."""
    question = case.target, case.process, case.reward
    found = gb.bounds.best(*question, case.eta)
    reduced = problem(*question, case.eta)
    spread = variance(reduced.reward, reduced.target)
    sd = exp_above(spread.logarithm / 2)
    if isinstance(case.target, gb.Gaussian):
        ode, sde = (float(gb.sampler_error(case.target, *question[1:], eta)) for eta in (0.0, case.eta))
        return Measured(case, ode, sde, float(gb.reward_gap(*question, case.eta)), _rounding(case), sd, found)
    for rtol in RTOL:
        first, second = sampler_errors(*question, [0.0, case.eta], rtol=rtol)
        ode, sde, error = float(first.value), float(second.value), 2 * float(first.error + second.error)
        result = Measured(case, ode, sde, ode - sde, error, sd, found)
        if not result.close():
            break
    return result


def _rounding(case: Case) -> float:
    """What double precision leaves of the difference of two closed expectations of one Gaussian."""
    assert isinstance(case.target, gb.Gaussian)
    if isinstance(case.reward, gb.Linear | gb.Quadratic):
        return 0.0  # rearranged, so that nothing cancels
    laws = [gb.terminal_law(case.target, case.process, eta) for eta in (0.0, case.eta)]
    return FLOOR * sum(abs(float(case.reward.expectation(law))) for law in (case.target, *laws))
