"""Checkpoints that are whole or refused: a folder an epoch, moved into place when complete, with a hash of each file.

``weights.safetensors`` holds what is trained, ``state.pt`` everything else, readable by ``torch.load`` with
``weights_only=True``. Neither runs code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.files import to_disk

WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run was after ``epoch`` epochs.

    Attributes:
        epoch: how many were finished.
        weights: by name.
        state: everything else.
    """

    epoch: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, epoch: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint whole or not at all, then drop all but the last ``keep``."""
    final = _path(folder, epoch)
    temporary = folder / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary / WEIGHTS)
    torch.save(dict(state), temporary / STATE)
    hashes = {name: _sha256(temporary / name) for name in (WEIGHTS, STATE)}
    (temporary / MANIFEST).write_text(json.dumps({"epoch": epoch, "sha256": hashes}), encoding="utf-8")
    for name in (WEIGHTS, STATE, MANIFEST):
        to_disk(temporary / name)
    shutil.rmtree(final, ignore_errors=True)  # one that was refused
    os.replace(temporary, final)
    to_disk(folder)
    for old in _found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path, say: Callable[[str], Any]) -> Checkpoint | None:
    """The newest whole checkpoint, or None where there is no checkpoint at all.

    Damaged ones are refused, with a message to ``say``, and the one before is tried.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    found = _found(folder)
    for path in reversed(found):
        try:
            return _read(path)
        except Exception as error:  # readers of damaged files raise many kinds
            say(f"checkpoint {path.name} is refused: {error or type(error).__name__}; trying the one before")
    if found:
        raise ValueError(f"no checkpoint in {folder} is whole; delete the folder to start again")
    return None


def _read(path: Path) -> Checkpoint:
    if not (path / MANIFEST).is_file():
        raise ValueError(f"{MANIFEST} is missing")
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest["sha256"].items():
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if _sha256(path / name) != expected:
            raise ValueError(f"{name} is truncated or corrupted")
    state = torch.load(path / STATE, weights_only=True, map_location="cpu")
    return Checkpoint(manifest["epoch"], load_file(path / WEIGHTS), state)


def random_state() -> dict[str, Any]:
    """The global random number generators of this process; the run's own draws are keyed and have no state."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where they were."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """What is drawn from the global generators inside the block leaves no trace outside."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:06d}"


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
