r"""How different the images of one prompt are: the spread of their coarse layout and colour over samples.

An image is shrunk to CELLS x CELLS mean colours; with S samples of a prompt, whose cells are c_s,

.. math:: D = \sqrt{\mathrm{mean}_{\text{cells}} \, \frac{1}{S-1} \sum_s (c_s - \bar c)^2}

0 where all samples look alike; uniform random colours give .29. A sampler that earns its reward by making one image
over and over loses it here.
"""

from __future__ import annotations

import base64

import numpy as np
from torch import Tensor, nn

from gapbound._validate import Array

CELLS = 8


def describe(images: Tensor) -> list[str]:
    """Each image's mean colours as text: base64 of 3 x CELLS x CELLS bytes."""
    small = (nn.functional.adaptive_avg_pool2d(images, CELLS) * 255).round().byte().cpu().numpy()
    return [base64.b64encode(cells.tobytes()).decode() for cells in small]


def read(text: str) -> Array:
    """The mean colours in [0, 1], shape (3, CELLS, CELLS)."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(3, CELLS, CELLS) / 255


def diversity(cells: Array) -> Array:
    """D of each prompt; ``cells`` of shape (prompts, samples, 3, CELLS, CELLS), at least two samples."""
    return np.sqrt(cells.var(1, ddof=1).mean((1, 2, 3)))
