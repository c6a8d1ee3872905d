"""The embedded text-to-image model: procedural pictures of captioned shapes, and a small model trained on them."""

from __future__ import annotations

from typing import Any

__all__ = ["load_pipeline"]


def __getattr__(name: str) -> Any:
    """Load the model's code when it is asked for: captions and their families need no network."""
    if name == "load_pipeline":
        from empirical.shapes.model import load_pipeline

        return load_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
