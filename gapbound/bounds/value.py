"""What a bound returns: numbers, the constants behind them with their sources, and what was assumed."""

from __future__ import annotations

from dataclasses import dataclass

from gapbound._validate import choice

KINDS = ("closed form", "numerical", "cited upper bound")


@dataclass(frozen=True)
class Constant:
    """A number that enters a bound.

    Args:
        name: what it is, as "chi^2(prior || q_T)".
        value: the number itself, on the safe side: an upper bound wherever it is not exact.
        kind: "closed form" (exact to rounding), "numerical" (converged, ``error`` already added to ``value``), or
            "cited upper bound" (proved, by the ``source``, to be at least the constant).
        source: formula, method or reference.
        error: last correction of a numerical value; 0 otherwise.
    """

    name: str
    value: float
    kind: str
    source: str
    error: float = 0.0

    def __post_init__(self) -> None:
        """Validate the kind."""
        choice("kind", self.kind, KINDS)

    def __str__(self) -> str:
        error = f" (numerical, error {self.error:.1g})" if self.kind == "numerical" else f" ({self.kind})"
        return f"{self.name} = {self.value:.6g}{error}: {self.source}"


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
    """

    name: str
    ode: float | None
    sde: float | None
    gap: float
    constants: tuple[Constant, ...]
    assumptions: tuple[str, ...]
    trivial: float

    @property
    def vacuous(self) -> bool:
        """Whether the bound on the gap is larger than the trivial one."""
        return self.gap > self.trivial

    def __str__(self) -> str:
        sides = [f"{side} {value:.6g}" for side, value in (("ODE", self.ode), ("SDE", self.sde)) if value is not None]
        lines = [f"{self.name}: |gap| <= {self.gap:.6g}" + (f" ({', '.join(sides)})" if sides else "")]
        if self.vacuous:
            lines[0] += f", vacuous: the reward's range is {self.trivial:.6g}"
        lines += [f"  {constant}" for constant in self.constants]
        return "\n".join(lines + [f"  assumes {assumption}" for assumption in self.assumptions])


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
