"""The log of a run: one line of JSON for each epoch and each evaluation; trackers get the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.files import append_text, write_text

EPOCH, EVALUATION = "epoch", "evaluation"


class Log:
    """Lines of JSON in ``path``, written by one process; ``seconds`` alone differs between repetitions of a run.

    Args:
        path: of the file.
        active: whether this process writes.
        track: is given every line's numbers, and its epoch.
    """

    def __init__(
        self, path: Path, active: bool = True, track: Callable[[dict[str, float], int], Any] | None = None
    ) -> None:
        """Nothing is written yet."""
        self.path, self._active, self._track = path, active, track

    def add(self, kind: str, epoch: int, values: Mapping[str, Any], seconds: float) -> None:
        """Append a line."""
        if not self._active:
            return
        line = {"kind": kind, "epoch": epoch, **values, "seconds": seconds}
        append_text(self.path, json.dumps(line, allow_nan=False) + "\n")
        if self._track is not None:
            numbers = {key: float(v) for key, v in line.items() if isinstance(v, int | float)}
            self._track({f"{kind}/{key}": v for key, v in numbers.items() if key != "epoch"}, epoch)

    def lines(self) -> list[dict[str, Any]]:
        """What was written; a last line without its end is left out."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def rewind(self, epoch: int) -> None:
        """Forget what a checkpoint of ``epoch`` finished epochs does not know: it will be done again."""
        if not self._active or not self.path.is_file():
            return
        kept = [line for line in self.lines() if line["epoch"] < epoch + (line["kind"] == EVALUATION)]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def has(self, kind: str, epoch: int) -> bool:
        """Whether there is such a line."""
        return any(line["kind"] == kind and line["epoch"] == epoch for line in self.lines())
