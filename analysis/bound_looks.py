"""How each bound is drawn, in every figure about bounds."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.lines import Line2D

from analysis.style import Look

LOOKS: dict[str, Look] = {
    "chi_square": Look("#2b0a7a", "o", (0, (5, 1.2))),
    "total_variation": Look("#bd3786", "s", (0, (2, 1))),
    "wasserstein": Look("#f2a022", "^", (0, (3, 1, 1, 1))),
    "duhamel": Look("#11788a", "D", (0, (6, 1, 1, 1, 1, 1))),
    "residual": Look("#6aa84f", "v", "-"),
}
LABELS = {
    "chi_square": "B1 chi-square",
    "total_variation": "B2 total variation",
    "wasserstein": "B3 Wasserstein",
    "duhamel": "B4 Duhamel",
    "residual": "B5 residual",
}
EXACT = {"color": "black", "linewidth": 1.8}


def handles(names: Iterable[str] = LOOKS, exact: bool = True) -> list[Line2D]:
    """Entries of a legend, the exact gap first."""
    first = [Line2D([], [], **EXACT, label="exact")] if exact else []  # type: ignore[arg-type]
    return first + [Line2D([], [], **LOOKS[name].line, label=LABELS[name]) for name in names]
