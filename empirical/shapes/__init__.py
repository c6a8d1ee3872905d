"""The embedded text-to-image model: procedural pictures of captioned shapes, and a small model trained on them."""

from empirical.shapes.model import load_pipeline

__all__ = ["load_pipeline"]
