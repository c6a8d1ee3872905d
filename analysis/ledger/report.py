"""The ledger as a table for the terminal, as plain data, and as LaTeX."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from analysis.ledger.claim import Check, Row, Verdict

LINES = 4  # of evidence shown for one claim; the JSON has all
STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.QUALIFIED: "yellow", Verdict.ERROR: "bold red"}


def summary(rows: Sequence[Row]) -> str:
    """How many verdicts of each kind, and how many of them were not expected."""
    counts = Counter(row.verdict for row in rows)
    kinds = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    unexpected = sum(not row.as_expected for row in rows)
    return f"{len(rows)} claims: {kinds}; {unexpected or 'none'} unexpected"


def evidence_lines(row: Row) -> list[str]:
    """The checks that decide, as in "exponent: -1.001 (-1 +- 0.01)"; those outside the condition are marked.

    Where there are cells outside, a line says whether they show that the condition is needed.
    """
    if row.found is None:
        return [row.error or "no evidence"]
    inside = len(row.found.inside)
    lines = []
    for check in row.found.telling:
        prefix = "outside: " if check in row.found.outside else ""
        lines.append(f"{prefix}{check.what}: {check.seen} ({check.wanted}{'' if check.holds else ', missed'})")
    more = len(lines) - LINES
    checks = f"{inside} checks" + (f", {len(row.found.outside)} outside" if row.found.outside else "")
    return [
        *lines[:LINES],
        *([f"and {more} more"] if more > 0 else []),
        *([f"condition {necessity(row)}"] if row.found.outside else []),
        *([f"[{checks}]"] if inside > 1 else []),
    ]


def necessity(row: Row) -> str | None:
    """What the cells outside say about the condition: whether every one of them fails."""
    if row.found is None or not row.found.outside:
        return None
    count = len(row.found.outside)
    fail = f": all {count} cells outside fail" if count > 1 else ": the one cell outside fails"
    return f"{row.found.necessity}{fail if row.found.necessity == 'needed' else ''}"


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows of one theme."""
    shown = Table(title=title, title_justify="left", show_lines=True, expand=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("claim", ratio=5)
    shown.add_column("source", no_wrap=True, min_width=10)
    shown.add_column("evidence: found (expected)", ratio=5)
    for row in rows:
        claim = row.claim
        verdict = Text(str(row.verdict), STYLES[row.verdict])
        if not row.as_expected:
            verdict.append(f"\nexpected\n{claim.expected}", "bold red")
        statement = Text(claim.statement)
        if claim.condition:
            statement.append(f"\nTrue if: {claim.condition}.", "yellow")
        statement.append(f"\n{claim.id}", "dim")
        shown.add_row(verdict, statement, f"{claim.source}\n{claim.method}", Text("\n".join(evidence_lines(row))))
    return shown


def plain(row: Row) -> dict[str, Any]:
    """One row as JSON holds it."""
    claim, found = row.claim, row.found
    return {
        "id": claim.id,
        "theme": claim.theme,
        "statement": claim.statement,
        "source": claim.source,
        "method": claim.method,
        "condition": claim.condition,
        "condition_shown": row.found.necessity if row.found else None,
        "refuted_by": [one.statement for one in claim.refuted_by],
        "verdict": str(row.verdict),
        "expected_verdict": str(claim.expected),
        "as_expected": row.as_expected,
        "inside": [plain_check(check) for check in found.inside] if found else [],
        "outside": [plain_check(check) for check in found.outside] if found else [],
        "error": row.error,
    }


def plain_check(check: Check) -> dict[str, Any]:
    """One check as JSON holds it."""
    return {
        "what": check.what,
        "found": float(f"{check.found:.10g}"),
        "relation": check.relation,
        "expected": check.expected,
        "tolerance": check.tolerance,
        "holds": check.holds,
    }


# --- LaTeX ------------------------------------------------------------------------------------------------------------

GREEK = {
    name: rf"\{name}"
    for name in ("eta", "sigma", "tau", "rho", "beta", "kappa", "chi", "Phi", "pi", "Theta", "Sigma", "lambda")
} | {"alpha_bar": r"\bar\alpha"}
SIGNS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", "->": r"\to", "-+": r"\mp", "+-": r"\pm", "<": "<", ">": ">"}
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "|": "$|$", "*": "$*$",
}  # fmt: skip
_NESTED = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_TOKEN = re.compile(
    r"``(?P<code>[^`]*)``"
    r"|(?P<base>alpha_bar|[A-Za-z]+|[|)])(?P<sub>_(?:tau|pi|[A-Za-z0-9]+))?(?P<more>(?:_[A-Za-z0-9]+)*)"
    rf"(?:\^(?P<power>-?(?:{_NESTED}|[A-Za-z0-9]+)))?"
    r"|(?P<sign><=|>=|!=|->|-\+|\+-|[<>])"
    r"|(?P<other>.)",
    re.DOTALL,
)
LONGEST_SYMBOL = 3  # letters of a symbol that is not Greek; what is longer and has underscores is code


def latex(text: str) -> str:
    """``text`` as LaTeX: symbols such as sigma_T^2 in mathematics, everything else escaped."""
    return "".join(_latex_token(match) for match in _TOKEN.finditer(text))


def escaped(text: str) -> str:
    """``text`` with every character that LaTeX reads as a command escaped."""
    return "".join(ESCAPES.get(character, character) for character in text)


def _latex_token(match: re.Match[str]) -> str:
    if match["code"] is not None:
        return rf"\texttt{{{escaped(match['code'])}}}"
    if match["sign"]:
        return f"${SIGNS[match['sign']]}$"
    if match["other"]:
        return escaped(match["other"])
    base, sub, power = match["base"], match["sub"], match["power"]
    if base in "|)" and power:
        return f"{escaped(base)}$^{{{_power(power)}}}$"
    known = base in GREEK or len(base) <= LONGEST_SYMBOL
    if match["more"] or (sub and not known):
        return rf"\texttt{{{escaped(match[0])}}}"
    if base not in GREEK and not sub and not power:
        return escaped(base)
    symbol = GREEK.get(base, base if len(base) == 1 else rf"\mathrm{{{base}}}")
    below = f"_{{{GREEK.get(sub[1:], sub[1:])}}}" if sub else ""
    return f"${symbol}{below}{f'^{{{_power(power)}}}' if power else ''}$"


def _power(power: str) -> str:
    """An exponent, its outer parentheses dropped, in mathematics throughout."""
    sign, inner = ("-", power[1:]) if power.startswith("-") else ("", power)
    if inner.startswith("(") and not sign:
        inner = inner[1:-1]
    return sign + latex(inner).replace("$", "")


def latex_table(rows: Sequence[Row]) -> str:
    """A longtable of all rows, grouped by theme, with verdict and deciding numbers (needs longtable)."""
    lines = [
        "% printed by python -m analysis.claims --tex",
        r"\footnotesize",
        r"\begin{longtable}{p{0.42\linewidth}p{0.13\linewidth}p{0.34\linewidth}}",
        rf"\caption{{The ledger of claims. {latex(summary(rows))}.}}\label{{tab:claims}}\\",
        r"claim & verdict & evidence: found (expected) \\ \hline",
        r"\endfirsthead",
        r"claim & verdict & evidence: found (expected) \\ \hline",
        r"\endhead",
    ]
    for theme, group in itertools.groupby(rows, key=lambda row: row.claim.theme):
        lines.append(rf"\multicolumn{{3}}{{l}}{{\textbf{{{latex(theme)}}}}} \\")
        lines += [_latex_row(row) for row in group]
    return "\n".join([*lines, r"\end{longtable}"]) + "\n"


def _latex_row(row: Row) -> str:
    claim = row.claim
    condition = rf" \emph{{True if: {latex(claim.condition)}.}}" if claim.condition else ""
    numbers = r"\newline ".join(latex(line) for line in evidence_lines(row) if not line.startswith("["))
    source = f"{claim.source}, {claim.method}"
    return rf"{latex(claim.statement)}{condition} ({source}) & {row.verdict} & {numbers} \\"
