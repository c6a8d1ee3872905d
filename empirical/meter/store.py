"""Where finished pairs are kept: lines of JSON that are only ever appended, so that nothing finished is lost.

A folder belongs to one configuration (``configuration.json``); another one is refused, whatever it would overwrite.
Each process appends to ``pairs-RANK.jsonl``; one line is one pair: an ODE run and its SDE runs. An interrupted write
leaves a last line without its end, which is cut off and measured again; a line that is damaged elsewhere is refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.files import append_text, write_text
from empirical.meter.plan import Cell

Key = tuple[Cell, int, int]  # cell, number of the prompt, number of the sample


@dataclass(frozen=True)
class PairRecord:
    """One finished pair.

    Attributes:
        role, guidance, steps: its cell.
        prompt, sample: which.
        ode: the rewards of the ODE run, in the order of the configuration.
        sde: those of the SDE runs, by eta and draw.
        cells: coarse colours of all these images, the ODE's first, as ``diversity`` writes them.
        sigmas: noise-to-signal ratios where the runs began (None: inf) and where they ended.
        last_std: standard deviation of the noise of the SDE runs' last step, by eta.
    """

    role: str
    guidance: float
    steps: int
    prompt: int
    sample: int
    ode: list[float]
    sde: list[list[list[float]]]
    cells: list[str]
    sigmas: list[float | None]
    last_std: list[float]

    @property
    def key(self) -> Key:
        """What the pair is recorded under."""
        return Cell(self.role, self.guidance, self.steps), self.prompt, self.sample


class Store:
    """The results of one configuration in one folder.

    Args:
        folder: made if it is not there.
        configuration: plain data that identifies the measurement.
        rank: of this process; each has a file of its own.

    Raises:
        ValueError: the folder holds another configuration (the first difference is named), damaged results, or
            cannot be written.
    """

    def __init__(self, folder: str | Path, configuration: dict[str, Any], rank: int = 0) -> None:
        """Make or recognise the folder; process 0 mends what an interrupt left."""
        self.folder, self.rank, self.dropped = Path(folder), rank, 0
        self._configuration = json.loads(json.dumps(configuration))  # as it will be read back
        if rank == 0:
            self._claim()
            self.dropped = sum(_mend(path) for path in self._files())

    def _claim(self) -> None:
        path = self.folder / "configuration.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(f"cannot write into {self.folder} ({error.strerror}); name another folder") from None
        if not path.exists():
            if self._files():
                raise ValueError(f"{self.folder} holds results without their configuration.json; name another folder")
            write_text(path, json.dumps(self._configuration, indent=1) + "\n")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path} is damaged; name another folder, or restore the file") from None
        difference = _difference(found, self._configuration)
        if difference:
            raise ValueError(
                f"{self.folder} holds another measurement: {difference}; name another folder to keep it, or delete it"
            )

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("pairs-*.jsonl"))

    def append(self, records: Iterable[PairRecord]) -> None:
        """Add finished pairs; they are on the disk when this returns."""
        text = "".join(json.dumps(asdict(record), allow_nan=False) + "\n" for record in records)
        append_text(self.folder / f"pairs-{self.rank}.jsonl", text)

    def records(self) -> Iterator[PairRecord]:
        """Every finished pair once, line by line: the first of two, should there be two.

        Raises:
            ValueError: a damaged line.
        """
        seen: set[Key] = set()
        for path in self._files():
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        record = PairRecord(**json.loads(line))
                    except (ValueError, TypeError):
                        raise ValueError(
                            f"line {number} of {path} is damaged; remove that line, and its pair is measured again"
                        ) from None
                    if record.key not in seen:
                        seen.add(record.key)
                        yield record

    def finished(self) -> set[Key]:
        """The pairs that need not be measured again."""
        return {record.key for record in self.records()}


def _mend(path: Path) -> int:
    """Cut off a last line without its end; 1 if there was one."""
    content = path.read_bytes()
    kept = content.rfind(b"\n") + 1
    if kept == len(content):
        return 0
    with path.open("r+b") as file:
        file.truncate(kept)
    return 1


def _difference(found: Any, wanted: Any, name: str = "") -> str | None:
    """The first place where two configurations differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = _difference(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
            if inner:
                return inner
        return None
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        return next(filter(None, (_difference(*pair, name) for pair in zip(found, wanted, strict=True))), None)
    return None if found == wanted else f"{name} is {_short(found)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
