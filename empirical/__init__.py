"""Measurements of reward gaps on text-to-image models: not begun yet, so there is nothing to import."""
