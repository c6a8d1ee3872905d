"""Checkpoints that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from analysis.files import atomically


def keep(path: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a run, with the parameters that it belongs to."""
    atomically(path, lambda temporary: torch.save({"run": dict(run), **state}, temporary))


def resume(path: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that a run of the same parameters left; None where there is none.

    Raises:
        ValueError: the file cannot be read, or is of a run of other parameters, which are named.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
        left = state["run"]
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it to start again") from error
    different = [name for name in {**left, **run} if left.get(name) != run.get(name)]
    if different:
        told = ", ".join(f"{name} {left.get(name)} against {run.get(name)}" for name in different)
        raise ValueError(f"{path} is of another run ({told}); delete it or name another folder")
    return state
