"""Diversity is the spread of coarse colours over the samples of a prompt."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from empirical.meter.diversity import CELLS, describe, diversity, read


def test_an_image_is_described_by_the_mean_colours_of_its_cells():
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    blocks = images.numpy().reshape(3, 3, CELLS, 4, CELLS, 6).mean((3, 5))
    for text, block in zip(describe(images), blocks, strict=True):
        assert read(text) == pytest.approx(block, abs=0.5 / 255 + 1e-6)


def test_diversity_is_the_root_mean_square_distance_of_two_samples_over_root_two():
    cells = np.random.default_rng(0).random((4, 6, 3, CELLS, CELLS))
    squares = [np.mean(pdist(samples.reshape(6, -1)) ** 2) / (3 * CELLS**2) for samples in cells]
    assert diversity(cells) == pytest.approx(np.sqrt(np.array(squares) / 2), rel=1e-10)


def test_it_is_0_for_repeated_images_and_29_percent_for_random_colours():
    one = np.random.default_rng(1).random((1, 1, 3, CELLS, CELLS))
    assert diversity(np.repeat(one, 5, axis=1)) == pytest.approx([0.0])
    assert diversity(np.random.default_rng(2).random((1, 400, 3, CELLS, CELLS))) == pytest.approx([12**-0.5], rel=0.01)
