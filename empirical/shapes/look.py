"""What can be seen in a picture, from its pixels alone: background, objects, their colours, shapes and places.

Every pixel is explained as a blend (1 - alpha) background + alpha color with the nearest such line; pixels with alpha
above 1/2 form connected components, and a component is compared with every shape that has its area and its centroid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from empirical.shapes.draw import ARM, LEAN, SIDE, coverage, palette
from empirical.shapes.scene import BACKGROUNDS, COLORS, SHAPES, SIZE

MOST = 4  # objects that are looked at, largest first
SMALLEST = 10.0  # area in pixels below which something is a speck, no object
INNER = 0.85  # opacity from which a pixel counts as the inside of an object
NEAR = 0.25  # distance in RGB, each channel in [0, 1], within which a pixel has a colour

#: By shape: area over radius^2, and how far the centroid lies below the middle of the bounding box, in radii.
AREAS = (math.pi, (2 * SIDE) ** 2, 4 / LEAN, 8 * ARM - (2 * ARM) ** 2)
SINKS = (0.0, 0.0, 1 / 3, 0.0)
#: Which pixels touch: those of one picture that share a side.
CROSS = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))])


@dataclass(frozen=True)
class Seen:
    """One object as found.

    Args:
        colors: name -> share of its inside that has the colour.
        overlaps: shape -> intersection over union with that shape, of equal area and centroid.
        x: of the middle of the bounding box of the best shape.
        y: likewise.
        radius: of the best shape.
    """

    colors: dict[str, float]
    overlaps: dict[str, float]
    x: float
    y: float
    radius: float

    @property
    def color(self) -> str:
        """The most frequent colour."""
        return max(self.colors, key=self.colors.__getitem__)

    @property
    def shape(self) -> str:
        """The shape with the largest overlap."""
        return max(self.overlaps, key=self.overlaps.__getitem__)


@dataclass(frozen=True)
class View:
    """One picture as found: its background, the share of the rest of the picture that has that colour, its objects."""

    background: str
    clean: float
    things: tuple[Seen, ...]


def look(images: Tensor) -> list[View]:
    """What is seen in each picture.

    Args:
        images: RGB in [0, 1], shape (batch, 3, 32, 32).

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    images = checked(images)
    ground, alpha, nearest = blend(images)
    regions, areas = components(alpha > 0.5)
    around = max_pool2d(regions, 3, 1, 1)  # with the antialiased edge
    weight = around * alpha[:, None]  # (batch, MOST, 32, 32)
    inner = regions * (alpha > INNER)[:, None]  # edges have the colours of blends
    colors = torch.stack([(inner * (nearest == k)[:, None]).sum((-2, -1)) for k in range(len(COLORS))], -1)
    colors = colors / inner.sum((-2, -1)).clamp(min=1)[..., None]
    overlap, x, y, radius = fit(weight)
    best = overlap.argmax(-1, keepdim=True)
    x, y, radius = (part.gather(-1, best)[..., 0] for part in (x, y, radius))
    near = length(images - palette(BACKGROUNDS).to(images)[ground][:, :, None, None], 1) < NEAR
    outside = 1 - around.amax(1)
    clean = (near * outside).sum((-2, -1)) / outside.sum((-2, -1)).clamp(min=1)
    places = torch.stack([x, y, radius], -1)
    rows = zip(ground.tolist(), clean.tolist(), (areas >= SMALLEST).tolist(), strict=True)
    parts = list(zip(colors.tolist(), overlap.tolist(), places.tolist(), strict=True))
    return [
        View(list(BACKGROUNDS)[back], tidy, _things(found, *part))
        for (back, tidy, found), part in zip(rows, parts, strict=True)
    ]


def checked(images: Tensor) -> Tensor:
    """The images as float32, if they are pictures."""
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(f"images must have the shape (batch, 3, {SIZE}, {SIZE}), got {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("images must be finite, got NaN or infinity")
    return images.detach().float()


def blend(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The background (batch,), the opacity of what lies on it (batch, 32, 32), and the nearest colour; -1 for none."""
    grounds, colors = (palette(one).to(images)[..., None, None] for one in (BACKGROUNDS, COLORS))
    pixels = images[:, None]  # (batch, 1, 3, 32, 32) beside (colors, 3, 1, 1)
    near = length(pixels - grounds, 2) < NEAR
    ground = near.sum((-2, -1)).argmax(-1)
    base = grounds[ground][:, None]
    line = colors - base  # (batch, colors, 3, 1, 1)
    offset = pixels - base
    share = ((offset * line).sum(2) / line.square().sum(2)).clamp(0, 1)
    rest = length(offset - share[:, :, None] * line, 2)
    alpha = share.gather(1, rest.argmin(1, keepdim=True))[:, 0]
    far, nearest = length(pixels - colors, 2).min(1)
    # pixels of no palette line at all still cover the background
    stray = rest.amin(1) > NEAR
    return ground, torch.where(stray, 1.0, alpha), torch.where((far < 2 * NEAR), nearest, -1)


def length(x: Tensor, dim: int) -> Tensor:
    """Euclidean; torch's norm is slow over three entries."""
    return x.square().sum(dim).sqrt()


def components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The largest 4-connected regions of every mask, shape (batch, MOST, 32, 32), and their areas (batch, MOST)."""
    found, _ = label(mask.cpu().numpy(), CROSS)
    number = torch.from_numpy(found).to(mask.device).long()  # goes on from picture to picture
    before = pad(number.amax((1, 2)).cummax(0).values[:-1], (1, 0))
    number = (number - before[:, None, None]) * mask
    flat = number.flatten(1)
    counts = torch.zeros(len(mask), SIZE * SIZE + 1, device=mask.device).scatter_add_(
        1, flat, torch.ones(1, device=mask.device).expand(flat.shape)
    )
    counts[:, 0] = 0
    areas, numbers = counts.topk(MOST, 1)
    regions = (number[:, None] == numbers[:, :, None, None]) & (areas > 0)[:, :, None, None]
    return regions.float(), areas


def fit(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every shape at the area and centroid of weight (..., 32, 32): overlap, x, y and radius, each (..., shapes)."""
    grid = torch.arange(SIZE, device=weight.device) + 0.5
    area = weight.sum((-2, -1)).clamp(min=1e-6)
    x = (weight.sum(-2) * grid).sum(-1) / area
    y = (weight.sum(-1) * grid).sum(-1) / area
    radius = (area[..., None] / torch.tensor(AREAS, device=weight.device)).sqrt()
    x = x[..., None].expand_as(radius)
    y = y[..., None] - radius * torch.tensor(SINKS, device=weight.device)
    drawn = coverage(torch.arange(len(SHAPES), device=weight.device).expand(radius.shape), x, y, radius)
    weight = weight[..., None, :, :]
    union = torch.maximum(weight, drawn).sum((-2, -1)).clamp(min=1e-6)
    return torch.minimum(weight, drawn).sum((-2, -1)) / union, x, y, radius


def _things(found: list[bool], colors: list, overlaps: list, places: list) -> tuple[Seen, ...]:
    return tuple(
        Seen(dict(zip(COLORS, colors[k], strict=True)), dict(zip(SHAPES, overlaps[k], strict=True)), *places[k])
        for k in range(MOST)
        if found[k]
    )
