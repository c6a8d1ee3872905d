"""How the figures look: one colour, marker and line style per eta, sizes in print, and a few shared pieces.

Colours are steps of a sequence whose lightness rises with eta, so that they stay ordered for every kind of colour
vision and in grey; marker and line style repeat the distinction. The style itself is ``gapbound.mplstyle``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

PAGE = 7.0  # inches, both columns and the space between them
REFERENCE = "0.45"  # grey of reference lines


@dataclass(frozen=True)
class Look:
    """How one eta is drawn; unpack ``line`` into ``plot`` and ``points`` into ``errorbar``."""

    color: str
    marker: str
    linestyle: Any

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of a line without markers."""
        return {"color": self.color, "linestyle": self.linestyle}

    @property
    def points(self) -> dict[str, Any]:
        """Keywords of markers without a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": "none"}


LOOKS: dict[float, Look] = {
    0.0: Look("#000000", "X", (0, (1, 1))),
    0.5: Look("#2b0a7a", "o", "-"),
    1.0: Look("#7a1ea1", "s", (0, (5, 1.2))),
    1.2: Look("#bd3786", "^", (0, (3, 1, 1, 1))),
    1.5: Look("#e16462", "D", (0, (6, 1, 1, 1, 1, 1))),
    2.0: Look("#f2a022", "v", (0, (2, 1))),
}


def look(eta: float) -> Look:
    """The look of ``eta``.

    Raises:
        ValueError: ``eta`` has none; give it one in ``LOOKS``.
    """
    if eta not in LOOKS:
        raise ValueError(f"no look for eta={eta:g}; known: {', '.join(f'{known:g}' for known in LOOKS)}")
    return LOOKS[eta]


def paper() -> AbstractContextManager[None]:
    """The style file as a context: whatever is drawn or saved inside follows it."""
    return matplotlib.style.context(["default", Path(__file__).with_name("gapbound.mplstyle")])


def panels(
    rows: int = 1, columns: int = 1, width: float = PAGE, height: float = 2.4, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure ``width`` inches wide with ``rows`` x ``columns`` panels, each row ``height`` inches high.

    Further keywords go to ``Figure.subplots``; the axes come as an array (rows, columns).
    """
    figure = Figure(figsize=(width, rows * height))
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def title(axes: Axes, letter: str, text: str) -> None:
    """Title of a panel: a bold letter, then what it shows."""
    axes.set_title(rf"$\bf{{{letter}}}$  {text}")


def eta_handles(etas: Iterable[float], points: bool = True) -> list[Line2D]:
    """One legend entry per eta, with its marker if ``points``."""
    handles = []
    for eta in etas:
        eta_look = look(eta)
        marker = eta_look.marker if points else "none"
        label = rf"$\eta$ = {eta:g}"
        handles.append(Line2D([], [], color=eta_look.color, linestyle=eta_look.linestyle, marker=marker, label=label))
    return handles


def shared_legend(
    figure: Figure, handles: Iterable[Line2D], columns: int | None = None, loc: str = "outside upper center"
) -> Legend:
    """One legend for all panels, above them (or ``loc="outside lower center"``)."""
    handles = list(handles)
    return figure.legend(handles=handles, loc=loc, ncols=columns or len(handles))
