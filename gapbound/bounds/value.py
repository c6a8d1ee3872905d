"""What a bound returns: numbers, the constants behind them with their sources, and what was assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gapbound._validate import choice, real, shown

KINDS = ("closed form", "numerical", "cited upper bound")
ROUNDING = 1e-15  # of a logarithm, relative
SMALLEST = 5e-324  # the smallest positive number: what is above 0 does not become 0
TOO_LARGE = "its constants exceed the largest number, 1.8e308"
PURE_NOISE = "sigma_T = inf is the limit of finite sigma_T, along which chi^2(prior || q_T) and with it B1 tend to 0"


@dataclass(frozen=True)
class Constant:
    """A number that enters a bound.

    Args:
        name: what it is, as "chi^2(prior || q_T)".
        value: the number itself, on the safe side: an upper bound wherever it is not exact.
        kind: how it is known: "closed form" (a formula, evaluated to rounding), "numerical" (numerically evaluated with
            the stated ``error``, which is already added to ``value``; no enclosure), or "cited upper bound" (a formula
            that the ``source`` proves to be at least the constant).
        source: formula, method or reference.
        error: estimated error of a numerical value, by its last correction; 0 otherwise.
        log: natural logarithm of the constant, where the constant itself may underflow or overflow.
    """

    name: str
    value: float
    kind: str
    source: str
    error: float = 0.0
    log: float | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        choice("kind", self.kind, KINDS)
        for name, text in (("name", self.name), ("source", self.source)):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be a text, got {shown(text)}")
        for name, number in (("value", self.value), ("error", self.error), ("log", self.log)):
            if number is not None:
                _one_number(name, number)

    @classmethod
    def from_log(cls, name: str, log: float, kind: str, source: str, error: float = 0.0) -> Constant:
        """The constant exp(log), whose value is infinite where that overflows."""
        _one_number("log", log)
        return cls(name, exp_above(log), kind, source, error, float(log))

    @property
    def logarithm(self) -> float:
        """Natural logarithm of the constant; -inf for 0."""
        if self.log is not None:
            return self.log
        return math.log(self.value) if self.value > 0 else -math.inf

    def __str__(self) -> str:
        error = f" (numerically evaluated, error {self.error:.1g})" if self.kind == "numerical" else f" ({self.kind})"
        lost = self.log is not None and math.isfinite(self.log) and not 1e-300 < self.value < math.inf
        return f"{self.name} = {f'exp({self.log:.6g})' if lost else f'{self.value:.6g}'}{error}: {self.source}"


def exp_above(log: float) -> float:
    """exp(log) that is 0 for -inf alone, and inf where it overflows."""
    if log == -math.inf:
        return 0.0
    return max(math.exp(log), SMALLEST) if log < 709.0 else math.inf


def product(*logs: float) -> float:
    """The product of factors given by their logarithms, their rounding added; 0 if one of them is, whatever the others.

    Factors of exp(-1e10) and exp(1e10) are known to 1e-6: every logarithm brings its own rounding.
    """
    return 0.0 if -math.inf in logs else exp_above(sum(logs) + ROUNDING * sum(map(abs, logs)))


@dataclass(frozen=True)
class Bound:
    """Upper bounds on two samplers' errors and on the gap between them.

    Args:
        name: of the bound.
        ode: bound on ``|E r(Y^ODE) - E_p* r|``; None where the bound speaks of the gap alone.
        sde: bound on ``|E r(Y^eta) - E_p* r|``; None likewise.
        gap: bound on ``|E r(Y^ODE) - E r(Y^eta)|``.
        constants: what went in.
        assumptions: what the proof uses.
        trivial: sup r - inf r, which no gap exceeds; inf for an unbounded reward.
        reason: why numbers of this bound are ``trivial`` although the theorem applies; "" where none is.
    """

    name: str
    ode: float | None
    sde: float | None
    gap: float
    constants: tuple[Constant, ...]
    assumptions: tuple[str, ...]
    trivial: float
    reason: str = ""

    @property
    def vacuous(self) -> bool:
        """Whether the bound on the gap says no more than the trivial one."""
        return self.gap > 0 and self.gap >= self.trivial

    def __str__(self) -> str:
        sides = [f"{side} {value:.6g}" for side, value in (("ODE", self.ode), ("SDE", self.sde)) if value is not None]
        lines = [f"{self.name}: |gap| <= {self.gap:.6g}" + (f" ({', '.join(sides)})" if sides else "")]
        if self.vacuous:
            lines[0] += f", vacuous: the reward's range is {self.trivial:.6g}"
        if self.reason:
            lines.append(f"  replaced by the trivial bound: {self.reason}")
        lines += [f"  {constant}" for constant in self.constants]
        return "\n".join(lines + [f"  assumes {assumption}" for assumption in self.assumptions])


def settled(
    name: str,
    ode: float | None,
    sde: float | None,
    gap: float,
    constants: tuple[Constant, ...],
    assumptions: tuple[str, ...],
    trivial: float,
    reason: str = TOO_LARGE,
) -> Bound:
    """The bound, with ``trivial`` for every part that is no number or infinite, and then with the reason."""
    parts = [part if part is None or math.isfinite(part) else trivial for part in (ode, sde, gap)]
    lost = any(part is not None and not math.isfinite(part) for part in (ode, sde, gap))
    assert parts[2] is not None
    return Bound(name, parts[0], parts[1], parts[2], constants, assumptions, trivial, reason if lost else "")


def nothing_left(name: str, assumptions: tuple[str, ...], trivial: float, sides: bool = True) -> Bound:
    """The bound at sigma_T = inf, where both errors are 0.

    The samplers are there the limits of those started at finite sigma_T. Along the limit chi^2(prior || q_T) tends to 0
    for every mixture and every process, so that B1 makes both errors 0 for every reward of finite variance.
    """
    side = 0.0 if sides else None
    return Bound(name, side, side, 0.0, (), (*assumptions, PURE_NOISE), trivial)


@dataclass(frozen=True)
class Best:
    """The smallest of several bounds, with all of them.

    Args:
        ode: smallest bound on the ODE's error.
        sde: smallest bound on the SDE's error.
        gap: smallest bound on the gap, ``ode + sde`` and the trivial bound included.
        winner: which one gave ``gap``.
        bounds: all that apply, by name.
        refused: why the others do not, by name.
        trivial: sup r - inf r.
    """

    ode: float
    sde: float
    gap: float
    winner: str
    bounds: dict[str, Bound]
    refused: dict[str, str]
    trivial: float

    @property
    def vacuous(self) -> bool:
        """Whether nothing beats the trivial bound."""
        return self.gap >= self.trivial

    def __str__(self) -> str:
        lines = [f"best: |gap| <= {self.gap:.6g} (ODE {self.ode:.6g}, SDE {self.sde:.6g}), by {self.winner}"]
        lines += [str(bound) for bound in self.bounds.values()]
        return "\n".join(lines + [f"{name}: does not apply, because {why}" for name, why in self.refused.items()])


def _one_number(name: str, value: object) -> None:
    """One real number, perhaps infinite."""
    number = real(name, value)
    if number.ndim or math.isnan(float(number)):
        raise ValueError(f"{name} must be one number and not NaN, got {shown(value)}")
