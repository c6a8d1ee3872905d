"""What an image is, and JPEG sizes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from reward_models import PROMPTS, images

from empirical.rewards import from_pil, load, score, to_pil
from empirical.rewards.images import checked


def test_pil_images_come_back_byte_by_byte():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]
    batch = from_pil(pictures)
    assert batch.shape == (3, 3, 20, 30)
    assert batch.dtype == torch.float32
    assert float(batch[1, 2, 5, 7]) == np.float32(pictures[1].getpixel((7, 5))[2]) / np.float32(255)
    for before, after in zip(pictures, to_pil(batch), strict=True):
        assert np.array_equal(np.array(before), np.array(after))


def test_grey_and_transparent_images_become_rgb():
    assert from_pil([Image.new("L", (4, 5), 51), Image.new("RGBA", (4, 5), (51, 51, 51, 0))]).unique().tolist() == [
        pytest.approx(0.2)
    ]


def test_images_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="one size, got 4x5 and 6x5"):
        from_pil([Image.new("RGB", (6, 5)), Image.new("RGB", (4, 5))])
    with pytest.raises(ValueError, match="got none"):
        from_pil([])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.zeros((1, 3, 8, 8)), TypeError, "floating tensor in .*got a ndarray; from_pil"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "got a torch.uint8 tensor"),
        (torch.zeros(3, 8, 8), ValueError, r"shape \(batch, 3, H, W\).*got \(3, 8, 8\)"),
        (torch.zeros(1, 4, 8, 8), ValueError, r"got \(1, 4, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), ValueError, "not be empty"),
        (torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), -0.5)]), ValueError, "image 1 holds -0.5.*clamp"),
        (torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), torch.nan)]), ValueError, "image 1 holds nan"),
    ],
)
def test_images_no_reward_takes_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        checked(wrong)


def test_jpeg_size_is_that_of_the_file_pil_writes(tmp_path):
    batch = images(3, 40, 56)
    expected = []
    for i, array in enumerate((batch * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(array).save(tmp_path / f"{i}.jpg", quality=95)
        expected.append((tmp_path / f"{i}.jpg").stat().st_size / 1000)
    large = score(load("jpeg_incompressibility"), batch, PROMPTS[:3])
    assert large.tolist() == pytest.approx(expected)
    assert torch.equal(score(load("jpeg_compressibility"), batch, PROMPTS[:3]), -large)


def test_flat_images_compress_better_than_noise_and_quality_matters():
    flat, noise = torch.full((1, 3, 64, 64), 0.4), images(1, 64, 64)
    value = score(load("jpeg_compressibility"), torch.cat([flat, noise]), PROMPTS[:2])
    assert value[0] > value[1] + 1
    buffer = io.BytesIO()
    to_pil(noise)[0].save(buffer, format="JPEG", quality=75)  # negative control: PIL's default quality
    assert buffer.tell() / 1000 < -float(value[1]) - 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_images_changes_jpeg_sizes_by_no_more_than_its_rounding(dtype):
    batch = images().to(dtype)
    value = score(load("jpeg_compressibility"), batch, PROMPTS)
    assert value.dtype == torch.float32
    assert torch.equal(value, score(load("jpeg_compressibility"), batch.float(), PROMPTS))
