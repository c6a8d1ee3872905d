"""What a figure is: a small program that computes numbers, draws them, and is written with them.

``compute`` returns plain data, which tests read and the JSON file keeps; ``draw`` only draws it. Whatever a figure
shows is in its JSON, with the seed and the versions that made it.
"""

from __future__ import annotations

import json
import math
import platform
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.files import atomically, write_text
from analysis.style import paper

DIGITS = 10  # significant digits in the JSON files
PACKAGES = ("numpy", "scipy", "torch", "matplotlib", "gapbound")

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Settings:
    """How the main job was called.

    Args:
        quick: a coarse run, for a first look and for tests.
        seed: of every simulation.
        device: torch device of every simulation.
    """

    quick: bool = False
    seed: int = 0
    device: str = "cpu"

    def seed_for(self, *labels: str | int | float) -> int:
        """A seed of its own for every simulation that must be independent of the others: one for each ``labels``."""
        key = zlib.crc32("/".join(map(str, labels)).encode())
        return int(np.random.SeedSequence([self.seed, key]).generate_state(1)[0])


@dataclass(frozen=True)
class Program:
    """One figure.

    Args:
        name: of its files.
        compute: ``(settings, progress) -> data``: the plotted numbers as a dict of numbers, strings, None, lists,
            arrays and dicts; ``progress`` takes the fraction done.
        draw: ``data -> Figure``; inside ``analysis.style.paper``.
    """

    name: str
    compute: Callable[[Settings, Progress], dict[str, Any]]
    draw: Callable[[dict[str, Any]], Figure]

    def write(self, out: Path, settings: Settings, progress: Progress = lambda fraction: None) -> dict[str, Any]:
        """Compute, draw and save; returns the data as saved (plain lists, rounded floats)."""
        data = plain(self.compute(settings, progress))
        with paper():
            save(self.draw(data), data, self.name, out, settings)
        return data


def save(figure: Figure, data: Mapping[str, Any], name: str, out: str | Path, settings: Settings) -> None:
    """Write ``NAME.png`` (200 dpi), ``NAME.pdf`` and ``NAME.json`` into ``out``, each whole or not at all.

    Nothing that is written depends on the time, the machine's name or a path: on one machine a second run writes the
    same bytes.

    Raises:
        ValueError: a number in ``data`` is not finite.
        TypeError: something in ``data`` is not plain.
    """
    out = Path(out)
    data = plain(data)  # what cannot be written is refused before anything is
    with paper():
        atomically(out / f"{name}.png", lambda path: figure.savefig(path, format="png"))
        figure.set_layout_engine("none")  # what the PNG was laid out as, the PDF is: once is half a second saved
        atomically(
            out / f"{name}.pdf", lambda path: figure.savefig(path, format="pdf", metadata={"CreationDate": None})
        )
    write_json(data, name, out, settings)


def write_json(data: Mapping[str, Any], name: str, out: Path, settings: Settings) -> None:
    """Write ``NAME.json``, whole or not at all: the numbers with the seed and the versions that made them.

    Raises:
        ValueError: a number in ``data`` is not finite.
        TypeError: something in ``data`` is not plain.
    """
    content = {"figure": name, "provenance": provenance(settings), "data": plain(data)}
    text = _readable(json.dumps(content, indent=1, allow_nan=False)) + "\n"
    write_text(out / f"{name}.json", text)


def provenance(settings: Settings) -> dict[str, Any]:
    """What made the numbers: the settings and the versions, nothing that changes from run to run."""
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    return {"seed": settings.seed, "quick": settings.quick, "device": settings.device, "versions": versions}


def plain(value: Any) -> Any:
    """``value`` as JSON holds it: arrays as lists, floats rounded to 10 significant digits.

    Raises:
        ValueError: a number is not finite (None stands for what is absent).
        TypeError: no such form exists.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a figure's data must be finite, got {value}; use None for what is absent")
        return float(f"{value:.{DIGITS}g}")
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"a figure's data must be numbers, strings, None, lists, arrays and dicts, got {value!r}")


def _readable(text: str) -> str:
    """Lists of numbers on one line each."""
    return re.sub(r'\[\s+([^\[\]{}"]*?)\s+\]', lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)
