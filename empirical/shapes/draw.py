"""Scenes as pictures: flat shapes with antialiased edges, many scenes at once.

A shape is the set where its signed distance d is negative; a pixel at distance d from the edge is covered by the share
clamp(1/2 - d, 0, 1), which is exact along a straight edge parallel to the axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from empirical.shapes.scene import BACKGROUNDS, COLORS, SHAPES, SIZE, Scene

ARM = 0.36  # half the width of a cross's arm, in radii
SIDE = 0.9  # half the side of a square
LEAN = 2.0  # height over half the width of a triangle


def palette(names: dict[str, tuple[int, int, int]]) -> Tensor:
    """The colours as rows in [0, 1], shape (len(names), 3)."""
    return torch.tensor(list(names.values()), dtype=torch.float32) / 255


def distance(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance from the edge, in pixels, at (x, y) from the middle of the bounding box.

    Args:
        shape: indices into ``SHAPES``; broadcasts with the others.
        x: to the right.
        y: downwards.
        radius: half the height.
    """
    circle = torch.hypot(x, y) - radius
    square = torch.maximum(x.abs(), y.abs()) - SIDE * radius
    slope = (LEAN * x.abs() - y - radius) / math.hypot(LEAN, 1)
    triangle = torch.maximum(y - radius, slope)
    upright = torch.maximum(x.abs() - ARM * radius, y.abs() - radius)
    lying = torch.maximum(x.abs() - radius, y.abs() - ARM * radius)
    cross = torch.minimum(upright, lying)
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, torch.where(shape == 2, triangle, cross)))


def coverage(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The share of every pixel that the shape covers, shape (..., 32, 32); the arguments have shape (...)."""
    grid = torch.arange(SIZE, device=x.device) + 0.5
    right = grid - x[..., None, None]
    down = grid[:, None] - y[..., None, None]
    return (0.5 - distance(shape[..., None, None], right, down, radius[..., None, None])).clamp(0, 1)


def draw(scenes: Sequence[Scene]) -> Tensor:
    """The pictures in [0, 1], shape (len(scenes), 3, 32, 32); later objects lie over earlier ones."""
    colors, grounds = palette(COLORS), palette(BACKGROUNDS)
    names = list(COLORS), list(BACKGROUNDS)
    ground = grounds[[names[1].index(scene.background) for scene in scenes]]
    pictures = ground[:, :, None, None].expand(-1, -1, SIZE, SIZE).clone()
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        rows = [row for row, scene in enumerate(scenes) if len(scene.things) > layer]
        things = [scenes[row].things[layer] for row in rows]
        shape = torch.tensor([SHAPES.index(thing.shape) for thing in things])
        x, y, radius = torch.tensor([(thing.x, thing.y, thing.radius) for thing in things]).unbind(-1)
        paint = colors[[names[0].index(thing.color) for thing in things]][:, :, None, None]
        covered = coverage(shape, x, y, radius)[:, None]
        pictures[rows] = pictures[rows] * (1 - covered) + paint * covered
    return pictures
