"""Refutations: every claim's own checks, given a perturbed statement, must reject it.

``analysis.ledger.claim`` says what a perturbed statement is. A refutation has worked if the perturbed statement of a
claim that holds gets FAIL, or if the corrected statement of a claim that is known to be false gets another verdict. An
exception is neither: it is reported like a perturbed statement that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from analysis.ledger.claim import Check, Claim, Evidence, Perturbed, Verdict
from analysis.ledger.report import plain_check


@dataclass(frozen=True)
class Refutation:
    """A perturbed statement with what the claim's checks found, or the error that it raised."""

    claim: Claim
    perturbed: Perturbed
    found: Evidence | None
    error: str | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict of the perturbed statement."""
        return Verdict.ERROR if self.found is None else self.found.verdict

    @property
    def works(self) -> bool:
        """Whether the verdict shows that the claim can fail or, of a claim known to be false, that it can pass."""
        if self.claim.expected is Verdict.FAIL:
            return self.verdict in (Verdict.PASS, Verdict.QUALIFIED)
        return self.verdict is Verdict.FAIL

    @property
    def rejecting(self) -> tuple[Check, ...]:
        """The checks inside the condition that the perturbed statement misses."""
        return tuple(check for check in self.found.inside if not check.holds) if self.found else ()


def refute(claim: Claim) -> tuple[Refutation, ...]:
    """Evaluate every perturbed statement of a claim; exceptions become ERROR, so that the others are still seen."""
    return tuple(_refutation(claim, one) for one in claim.refuted_by)


def _refutation(claim: Claim, one: Perturbed) -> Refutation:
    try:
        return Refutation(claim, one, claim.evidence(**one.arguments))
    except Exception as error:
        return Refutation(claim, one, None, f"{type(error).__name__}: {error}")


def plain(refutation: Refutation) -> dict[str, Any]:
    """One refutation as JSON holds it."""
    return {
        "id": refutation.claim.id,
        "statement": refutation.claim.statement,
        "perturbed": refutation.perturbed.statement,
        "parameters": sorted(refutation.perturbed.arguments),
        "claim_expected": str(refutation.claim.expected),
        "verdict": str(refutation.verdict),
        "works": refutation.works,
        "checks": len(refutation.found.inside) if refutation.found else 0,
        "rejecting": [plain_check(check) for check in refutation.rejecting],
        "error": refutation.error,
    }


def summary(claims: Sequence[Claim], found: Sequence[Refutation]) -> str:
    """How many perturbed statements of how many claims were rejected, and how many checks rejected one."""
    judged = [one.found.inside for one in found if one.found and one.claim.expected is not Verdict.FAIL]
    rejected, checks = sum(not c.holds for inside in judged for c in inside), sum(map(len, judged))
    failing = sum(not one.works for one in found)
    return (
        f"{len(claims)} claims, {len(found)} perturbed statements: {failing or 'none'} not refuted; "
        f"{rejected} of {checks} checks reject"
    )


def table(found: Sequence[Refutation]) -> Table:
    """The perturbed statements that were not refuted."""
    shown = Table(title="Not refuted", title_justify="left", show_lines=True, expand=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("claim", ratio=5)
    shown.add_column("perturbed statement", ratio=5)
    for one in found:
        claim = Text(one.claim.statement)
        claim.append(f"\n{one.claim.id}", "dim")
        statement = Text(one.perturbed.statement)
        statement.append(f"\n{one.error or ''}", "bold red")
        shown.add_row(Text(str(one.verdict), "bold red"), claim, statement)
    return shown
