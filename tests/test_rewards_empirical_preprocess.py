"""Preprocessing in torch against transformers' PIL processor."""

import pytest
import torch
import torch.nn.functional as F
from reward_models import images
from transformers import CLIPImageProcessorPil

from empirical.rewards import to_pil
from empirical.rewards.preprocess import Preprocess

SHAPES = [(224, 224), (512, 512), (32, 32), (300, 417), (417, 301), (225, 224)]


def levels(pixels, preprocess):
    """Back to byte levels."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (preprocess.mean, preprocess.std))
    return (pixels * std + mean) * 255


def difference(ours, theirs, preprocess):
    return (levels(ours, preprocess) - levels(theirs, preprocess)).abs()


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pixels_are_those_of_the_pil_processor(height, width):
    batch, preprocess = images(2, height, width), Preprocess.square(224)
    theirs = CLIPImageProcessorPil()(to_pil(batch), return_tensors="pt").pixel_values
    off = difference(preprocess(batch), theirs, preprocess)
    assert off.max() < 1.001
    assert (off > 0.5).double().mean() < 1e-3


def test_one_pass_without_rounding_between_is_rejected():
    batch, preprocess = images(2, 32, 32), Preprocess.square(224)
    theirs = CLIPImageProcessorPil()(to_pil(batch), return_tensors="pt").pixel_values
    once = F.interpolate((batch * 255).round(), (224, 224), mode="bicubic", antialias=True).round().clamp(0, 255)
    mean, std = (torch.tensor(value)[:, None, None] for value in (preprocess.mean, preprocess.std))
    assert difference((once / 255 - mean) / std, theirs, preprocess).max() > 2


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 24, "width": 30}, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.2] * 3},
    ],
)
def test_a_saved_configuration_is_followed(options):
    processor = CLIPImageProcessorPil(**options)
    preprocess = Preprocess.from_dict(processor.to_dict())
    batch = images(2, 50, 61)
    theirs = processor(to_pil(batch), return_tensors="pt").pixel_values
    ours = preprocess(batch)
    assert ours.shape == theirs.shape
    assert difference(ours, theirs, preprocess).max() < 1.001


def test_the_first_releases_wrote_sizes_as_numbers():
    config = {"size": 224, "crop_size": 224, "image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 1.0, 1.0], "resample": 3}
    assert Preprocess.from_dict(config) == Preprocess(224, (224, 224), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("key", "value"), [("resample", 2), ("do_resize", False), ("do_normalize", False)])
def test_another_preprocessing_is_refused(key, value):
    with pytest.raises(ValueError, match=f"has {key}={value}"):
        Preprocess.from_dict(CLIPImageProcessorPil(**{key: value}).to_dict())


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"cannot crop \(64, 64\) from a resized image of \(32, 32\)"):
        Preprocess(32, (64, 64))(images())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixels_are_float32_whatever_the_images(dtype):
    batch = images().to(dtype)
    assert torch.equal(Preprocess.square(48)(batch), Preprocess.square(48)(batch.float()))
    assert Preprocess.square(48)(batch).dtype == torch.float32
