r"""What a claim is: a statement, how it is checked, the numbers found, and the verdict that follows from them.

A claim is a function whose docstring is the exact statement and whose name is the claim's id. It computes numbers with
the library and returns ``Evidence``: checks *inside* the claim's condition and, where there is one, checks of the same
statement *outside* it. The verdict follows from the numbers alone:

| inside | outside | verdict |
|---|---|---|
| all hold | none, or all hold | PASS |
| all hold | at least one fails | QUALIFIED: true under the stated condition, not without one |
| one fails | | FAIL |

The checks outside are the cells of a grid, all of them. If every cell fails, the condition was shown to be *needed* on
that grid; if some hold, it is *sufficient* only, and the row says how many.

An exception yields ERROR, which is never an expected verdict, and no number may be NaN: a claim cannot fail by
accident. Nothing else is written down about a claim but the verdict that the theory expects, and its refutations.

**Refutations.** The function's keyword parameters are parts of the statement: a constant, an exponent, a sign, a
formula, the condition. Their defaults are what is claimed. ``refuted_by`` names at least one ``perturbed`` statement,
that is other values of these parameters, near enough to be mistaken for the claim. The same function with the same
tolerances must then find that a check inside fails (``analysis.ledger.refutation``, ``python -m analysis.claims
--refute``): this shows that the row can fail. A claim that is known to be false, whose verdict is FAIL, is shown to be
able to pass instead: its perturbed statement is a correction, and every check inside must hold for it. A parameter may
never choose the outcome itself; it goes through what is compared.

To add a row, write such a function in the module of its theme::

    @THEME.claim(
        "theory 2", "numerical", Verdict.QUALIFIED, condition="sigma_T = T",
        refuted_by=perturbed("The VE gap is O(T^-1.1).", exponent=-1.1),
    )
    def ve_gap_vanishes_like_1_over_t(exponent: float = -1) -> Evidence:
        '''The VE gap is O(1/T).'''
        return evidence(
            near("slope", slope(lambda T: T), exponent, 0.02), outside=near("slope", slope(np.sqrt), exponent, 0.02)
        )
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SOURCE = re.compile(r"paper|theory \d+(\.\d)?|project")
METHODS = ("symbolic", "numerical", "simulation", "property")
RELATIONS = ("=", "<=", ">=", "is")
ROUNDING = 1e-8  # what is smaller is mostly rounding: one digit of it is printed
Z = 4.0  # standard errors allowed to a simulated number: 6e-5 of the correct ones miss it


class Verdict(StrEnum):
    """What the numbers say about a claim."""

    PASS = "PASS"
    FAIL = "FAIL"
    QUALIFIED = "QUALIFIED"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Check:
    """One number, what it should be, and how far off it may be.

    Args:
        what: which number.
        found: as computed.
        expected: as the claim says.
        tolerance: of the difference, 0 or more.
        relation: "=", "<=" and ">=" for a one-sided claim, or "is" where 1 stands for yes and 0 for no.

    Raises:
        ValueError: a number is not finite, the tolerance is negative, or the relation is unknown.
    """

    what: str
    found: float
    expected: float
    tolerance: float
    relation: str = "="

    def __post_init__(self) -> None:
        """Validate the numbers, so that no comparison is ever decided by NaN."""
        numbers = (self.found, self.expected, self.tolerance)
        if not all(map(math.isfinite, numbers)) or self.tolerance < 0:
            raise ValueError(f"a check needs finite numbers and a tolerance of 0 or more, got {numbers} ({self.what})")
        if self.relation not in RELATIONS:
            raise ValueError(f"a check's relation is one of {RELATIONS}, got {self.relation!r}")

    @property
    def miss(self) -> float:
        """By how much the number is on the wrong side of what is expected, tolerance not counted; 0 or less is fine."""
        difference = self.found - self.expected
        return {"<=": difference, ">=": -difference}.get(self.relation, abs(difference))

    @property
    def holds(self) -> bool:
        """Whether the number is what the claim says."""
        return self.miss <= self.tolerance

    @property
    def seen(self) -> str:
        """The number as text; of rounding errors, which differ from machine to machine, one digit."""
        if self.relation == "is":
            return "yes" if self.found else "no"
        return f"{self.found:.1g}" if abs(self.found) < ROUNDING else f"{self.found:.4g}"

    @property
    def wanted(self) -> str:
        """The expectation as text, as in "-1 +- 0.02"."""
        if self.relation == "is":
            return "yes" if self.expected else "no"
        sign = "" if self.relation == "=" else f"{self.relation} "
        return f"{sign}{self.expected:.4g}" + (f" +- {self.tolerance:.1g}" if self.tolerance else "")


def near(what: str, found: Any, expected: Any, tolerance: float) -> Check:
    """``found`` is ``expected`` to within ``tolerance``."""
    return Check(what, float(found), float(expected), float(tolerance))


def close(what: str, found: Any, expected: Any, relative: float) -> Check:
    """``found`` is ``expected`` to within the share ``relative`` of it."""
    return near(what, found, expected, relative * abs(float(expected)))


def as_printed(what: str, found: Any, printed: str) -> Check:
    """``found`` is the decimal number ``printed``: half a unit of its last digit, and a little for rounding twice."""
    digits = len(printed.partition(".")[2])
    return near(what, found, float(printed), 0.51 * 10.0**-digits)


def at_most(what: str, found: Any, limit: Any, tolerance: float = 0.0) -> Check:
    """``found`` is at most ``limit``."""
    return Check(what, float(found), float(limit), float(tolerance), "<=")


def at_least(what: str, found: Any, limit: Any, tolerance: float = 0.0) -> Check:
    """``found`` is at least ``limit``."""
    return Check(what, float(found), float(limit), float(tolerance), ">=")


def sampled(what: str, found: Any, expected: Any, standard_error: Any) -> Check:
    """A simulated ``found`` is ``expected`` to within ``Z`` standard errors."""
    return near(what, found, expected, Z * float(standard_error))


def true(what: str, found: Any) -> Check:
    """``found`` is so."""
    return Check(what, float(bool(found)), 1.0, 0.0, "is")


def none_of(what: str, failures: Any) -> Check:
    """Nothing of what was counted, or the largest of the errors, is above 0."""
    return near(what, failures, 0.0, 0.0)


def refused(what: str, call: Callable[[], Any], message: str) -> Check:
    """Whether ``call`` raises a ValueError that matches ``message``, as it should."""
    try:
        call()
    except ValueError as error:
        return true(f"{what} is refused", re.search(message, str(error)))
    return true(f"{what} is refused", False)


@dataclass(frozen=True)
class Evidence:
    """The numbers behind a verdict.

    Args:
        inside: the statement, under its condition if it has one; at least one check.
        outside: the same statement where the condition does not hold.

    Raises:
        ValueError: no check inside.
    """

    inside: tuple[Check, ...]
    outside: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a verdict without evidence."""
        if not self.inside:
            raise ValueError("evidence needs at least one check of the statement itself, got none")

    @property
    def verdict(self) -> Verdict:
        """See the module."""
        if not all(check.holds for check in self.inside):
            return Verdict.FAIL
        return Verdict.PASS if all(check.holds for check in self.outside) else Verdict.QUALIFIED

    @property
    def necessity(self) -> str | None:
        """What the cells outside say about the condition, or None without any."""
        if not self.outside:
            return None
        holding = sum(check.holds for check in self.outside)
        return f"sufficient; {holding} of {len(self.outside)} cells outside hold too" if holding else "needed"

    @property
    def telling(self) -> tuple[Check, ...]:
        """The checks that decide: those that fail, or for a claim that holds the one nearest to failing.

        Outside the condition they are the failing cell nearest to holding and, where some hold, the one nearest to
        failing.
        """
        failed = tuple(check for check in self.inside if not check.holds)
        if failed:
            return failed
        broken = [check for check in self.outside if not check.holds]
        holding = [check for check in self.outside if check.holds]
        nearest = [min(broken, key=_strain)] if broken else []
        return (max(self.inside, key=_strain), *nearest, *([max(holding, key=_strain)] if holding else []))


def evidence(*inside: Check, outside: Check | Sequence[Check] = ()) -> Evidence:
    """The checks ``inside`` the condition and those ``outside`` of it, one or several."""
    return Evidence(inside, (outside,) if isinstance(outside, Check) else tuple(outside))


def _strain(check: Check) -> float:
    """How near a check is to failing, or by how much it failed."""
    if check.miss > 0:
        return check.miss / (check.tolerance or abs(check.expected) or math.ulp(0.0))
    return check.miss / max(abs(check.expected), check.tolerance, math.ulp(0.0))


@dataclass(frozen=True)
class Perturbed:
    """A statement near the claimed one, which the claim's own checks must reject: other values of its parameters.

    Args:
        statement: what is stated instead, in words.
        arguments: the parameters of the claim's function that differ, by name.

    Raises:
        ValueError: no statement, or no argument.
    """

    statement: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse an empty perturbation."""
        if not self.statement or not self.arguments:
            raise ValueError(f"a perturbed statement needs words and arguments, got {self.statement!r}")


def perturbed(statement: str, **arguments: Any) -> Perturbed:
    """The claim with these parameters in place of its defaults."""
    return Perturbed(statement, arguments)


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    Args:
        id: unique; words joined by hyphens.
        theme: the group it is printed in.
        statement: what is claimed, exactly.
        source: "paper" (arXiv 2510.10767), "theory N" (a section of the project's theory page) or "project".
        method: "symbolic", "numerical", "simulation" or "property".
        expected: the verdict that the ledger expects.
        evidence: computes the numbers.
        condition: under which a QUALIFIED claim is true.
        slow: takes seconds.
        refuted_by: the perturbed statements, see the module.

    Raises:
        ValueError: an unknown source or method, an empty statement, a condition without QUALIFIED or the other way, no
            refutation, a parameter without a default, or a perturbation of no parameter of the claim's or to what is
            claimed.
    """

    id: str
    theme: str
    statement: str
    source: str
    method: str
    expected: Verdict
    evidence: Callable[..., Evidence]
    condition: str | None = None
    slow: bool = False
    refuted_by: tuple[Perturbed, ...] = ()

    def __post_init__(self) -> None:
        """Validate the row."""
        if not SOURCE.fullmatch(self.source):
            raise ValueError(f"{self.id}: source must be 'paper', 'theory N' or 'project', got {self.source!r}")
        if self.method not in METHODS:
            raise ValueError(f"{self.id}: method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not self.statement:
            raise ValueError(f"{self.id}: a claim needs a statement; write it as the function's docstring")
        if (self.condition is not None) != (self.expected is Verdict.QUALIFIED):
            raise ValueError(f"{self.id}: a condition and the verdict QUALIFIED go together, got {self.condition!r}")
        if not self.refuted_by:
            raise ValueError(f"{self.id}: a claim needs a perturbed statement that its checks reject; give refuted_by")
        claimed = {name: p.default for name, p in inspect.signature(self.evidence).parameters.items()}
        if inspect.Parameter.empty in claimed.values():
            raise ValueError(f"{self.id}: every parameter needs what is claimed as its default, got {list(claimed)}")
        for one in self.refuted_by:
            for name, value in one.arguments.items():
                if name not in claimed:
                    raise ValueError(f"{self.id}: perturbs {name!r}, which is no parameter; there are {list(claimed)}")
                if value is claimed[name] or repr(value) == repr(claimed[name]):
                    raise ValueError(f"{self.id}: the perturbed {name} is what is claimed, {value!r}")


@dataclass(frozen=True)
class Row:
    """A claim with what was found: the evidence, or the error that it raised."""

    claim: Claim
    found: Evidence | None
    error: str | None = None

    @property
    def verdict(self) -> Verdict:
        """PASS, FAIL or QUALIFIED by the numbers; ERROR without any."""
        return Verdict.ERROR if self.found is None else self.found.verdict

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the one that the ledger expects."""
        return self.verdict is self.claim.expected


def run(claim: Claim) -> Row:
    """Compute the evidence of a claim; whatever it raises becomes an ERROR, so that the other rows are still seen."""
    try:
        return Row(claim, claim.evidence())
    except Exception as error:
        return Row(claim, None, f"{type(error).__name__}: {error}")


@dataclass
class Theme:
    """A group of claims, one module of the ledger."""

    title: str
    claims: list[Claim] = field(default_factory=list)

    def claim(
        self,
        source: str,
        method: str,
        expected: Verdict,
        condition: str | None = None,
        slow: bool = False,
        refuted_by: Perturbed | Sequence[Perturbed] = (),
    ) -> Callable[[Callable[..., Evidence]], Callable[..., Evidence]]:
        """Enter the decorated function as a claim: its name is the id, its docstring the statement."""
        perturbations = (refuted_by,) if isinstance(refuted_by, Perturbed) else tuple(refuted_by)

        def enter(function: Callable[..., Evidence]) -> Callable[..., Evidence]:
            name = function.__name__.replace("_", "-")
            statement = " ".join((function.__doc__ or "").split())
            row = name, self.title, statement, source, method, expected, function, condition, slow, perturbations
            self.claims.append(Claim(*row))
            return function

        return enter
