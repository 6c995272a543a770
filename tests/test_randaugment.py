"""RandAugment in batches against Pillow, one operation and one image at a time."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from muscle_zoo.data.randaugment import FILL, OPERATIONS, RandAugment, apply_sorted

SIZES = ((32, 32), (28, 28), (17, 23))
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def make_images(channels, height, width):
    """Photo-like pictures (smooth waves, edges, noise), one value only, few levels, and noise within a few levels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    pictures = []
    for contrast in (30, 100, 160):
        waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(channels)]
        picture = 120 + contrast * np.stack(waves) + rng.normal(0, 5, (channels, height, width))
        picture[:, height // 3 : height // 2, width // 4 :] += rng.uniform(-90, 90, (channels, 1, 1))
        pictures.append(picture)
    pictures += [np.full((channels, height, width), value) for value in (0, 97, 255)]
    pictures += [rng.choice([12, 200], (channels, height, width)), rng.integers(0, 5, (channels, height, width)) * 60]
    pictures += [rng.integers(100, 110, (channels, height, width)), rng.integers(0, 256, (channels, height, width))]
    rare = np.full((channels, height, width), 40)
    rare[:, 0, :3] = 41
    pictures.append(rare)
    return torch.from_numpy(np.stack(pictures).clip(0, 255).astype(np.uint8))


def with_pillow(name, image, size):
    """What Pillow makes of one image, uint8 ``(C, H, W)``."""
    array = image.numpy()
    picture = Image.fromarray(array[0]) if len(array) == 1 else Image.fromarray(array.transpose(1, 2, 0).copy())
    fill = FILL if len(array) == 1 else (FILL,) * 3

    def affine(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor=fill)

    out = {
        "identity": lambda: picture,
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(picture, min(8, int(size))),
        "solarize": lambda: ImageOps.solarize(picture, 256 * size),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(size),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(size),
        "color": lambda: ImageEnhance.Color(picture).enhance(size),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(size),
        "rotate": lambda: picture.rotate(size, fillcolor=fill),
        "shear_x": lambda: affine(1, size, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, size, 1, 0),
        "translate_x": lambda: affine(1, 0, size * picture.width, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, size * picture.height),
    }[name]()
    return torch.from_numpy(np.array(out).reshape(*array.shape[1:], -1).transpose(2, 0, 1).copy())


def apply(name, images, size):
    """One operation at one magnitude on every image."""
    counts = [len(images) * (name == other) for other in OPERATIONS]
    return apply_sorted(images, torch.full((len(images),), size), counts)


def magnitudes(name):
    """A range of magnitudes with both ends; numbers in between fall on no round one."""
    low, high, signed = OPERATIONS[name]
    return [1.0 if low == high else size for size in np.linspace(-high if signed else low, high, 12).tolist()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_pillows(name, channels):
    for height, width in SIZES:
        images = make_images(channels, height, width)
        before = images.clone()
        for size in magnitudes(name):
            ours = apply(name, images, size)
            pillows = torch.stack([with_pillow(name, image, size) for image in images])
            assert ours.dtype == torch.uint8 and ours.shape == images.shape and torch.equal(images, before)
            if name in GEOMETRIC:
                same = (ours == pillows).flatten(1).float().mean(dim=1).min()
                assert same >= 0.98, (height, width, size, same)
            else:
                apart = (ours.int() - pillows.int()).abs().max()
                assert apart <= 1, (height, width, size, apart)


def test_nearly_every_value_is_exactly_pillows():
    apart = total = 0
    for name in OPERATIONS:
        images = make_images(3, 32, 32)
        for size in magnitudes(name):
            pillows = torch.stack([with_pillow(name, image, size) for image in images])
            apart += (apply(name, images, size) != pillows).sum().item()
            total += pillows.numel()
    assert apart / total < 1e-4


def test_operations_and_ranges_are_fixmatchs():
    assert len(OPERATIONS) == 14
    for name in ("brightness", "color", "contrast", "sharpness"):
        assert OPERATIONS[name] == (0.05, 0.95, False)
    assert OPERATIONS["rotate"] == (0.0, 30.0, True) and OPERATIONS["solarize"] == (0.0, 1.0, False)
    for name in GEOMETRIC[1:]:
        assert OPERATIONS[name] == (0.0, 0.3, True)
    bits = [
        apply("posterize", torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), b)[0, 0, 0, 0] for b in (4.0, 8.9, 9.0)
    ]
    assert bits == [240, 255, 255]


def batch(n=64, channels=3, height=32, width=32, ops=2):
    generator = torch.Generator().manual_seed(1)
    pictures = make_images(channels, height, width)
    images = pictures[torch.arange(n) % len(pictures)].float() / 255.0
    return images, torch.rand(n, 3 * ops, generator=generator)


@pytest.mark.parametrize("ops", [1, 2, 3])
def test_images_do_not_influence_each_other_and_nothing_is_kept(ops):
    images, u = batch(ops=ops)
    before = images.clone(), u.clone()
    augment = RandAugment(ops)
    assert augment.num_random == u.shape[1]
    out = augment(images, u)
    assert torch.equal(images, before[0]) and torch.equal(u, before[1])
    assert torch.equal(out, augment(images, u))
    single = [augment(image, numbers) for image, numbers in zip(images.split(1), u.split(1), strict=True)]
    assert torch.equal(out, torch.cat(single))
    assert not torch.equal(out, images)


def test_operations_follow_each_other():
    images, u = batch(ops=3)
    out = images
    for slot in u.split(3, dim=1):
        out = RandAugment(1)(out, slot)
    assert torch.equal(RandAugment(3)(images, u), out)


def test_posterize_keeps_4_to_8_bits_equally_often():
    place = list(OPERATIONS).index("posterize")
    every_level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(500, -1, -1, -1)
    u = torch.tensor([[(place + 0.5) / 14, (i + 0.5) / 500, 0.5] for i in range(500)])
    kept = [len(image.unique()) for image in RandAugment(1)(every_level, u)]
    assert kept == [2**bits for bits in (4, 5, 6, 7, 8) for _ in range(100)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_numbers_choose_operation_magnitude_and_sign(name):
    place = list(OPERATIONS).index(name)
    low, high, signed = OPERATIONS[name]
    images = make_images(3, 32, 32)
    for side in (0.0, 0.49, 0.5, 1.0):
        u = torch.tensor([[(place + 0.5) / 14, 0.7319, side]]).expand(len(images), -1)
        size = (low + 0.7319 * (high - low)) * (-1 if signed and side < 0.5 else 1)
        # A magnitude that takes no level to a whole one: float32 may put it one bit beside `size`.
        expected = apply(name, images, size)
        assert torch.equal(RandAugment(1)(images, u), expected)
        assert torch.equal(RandAugment(1)(images / 255.0, u), expected)  # floats are rounded to levels


def test_every_operation_is_drawn_about_equally_often(monkeypatch):
    seen = []

    def watch(images, magnitude, counts):
        seen.append((counts, magnitude))
        return apply_sorted(images, magnitude, counts)

    monkeypatch.setattr("muscle_zoo.data.randaugment.apply_sorted", watch)
    n = 14_000
    u = torch.rand(n, 6, generator=torch.Generator().manual_seed(2))
    RandAugment(2)(torch.zeros(n, 1, 8, 8), u)
    RandAugment(2, 0.5)(torch.zeros(n, 1, 8, 8), u)
    for half, (counts, magnitude) in enumerate(seen):
        expected = 500 if half >= 2 else 1000  # of each; what is not applied is an identity
        left_out = n // 2 if half >= 2 else 0
        each = [*counts[:-1], counts[-1] - left_out]
        assert sum(counts) == n and min(each) > expected - 150 and max(each) < expected + 150
        for (low, high, signed), sizes in zip(OPERATIONS.values(), magnitude.split(counts), strict=True):
            assert low <= sizes.abs().min() and sizes.abs().max() <= high
            assert sizes.mean().item() == pytest.approx(0 if signed else (low + high) / 2, abs=high / 10 + 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 16), (64, 64), (64, 40)])
def test_sizes_and_output(height, width, channels):
    images, u = batch(56, channels, height, width, ops=3)
    out = RandAugment(3)(images, u)
    assert out.shape == images.shape and out.dtype == torch.uint8


def test_numbers_at_the_ends_and_no_images():
    images, _ = batch(4)
    for end in (0.0, 1.0):
        assert RandAugment(2)(images, torch.full((4, 6), end)).shape == images.shape
    assert RandAugment(2)(images[:0], torch.rand(0, 6)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("ops", [0, -1, 1.5, math.nan, math.inf])
def test_wrong_number_of_operations(ops):
    with pytest.raises(ValueError, match="whole number"):
        RandAugment(ops)


@pytest.mark.parametrize("probability", [0, -0.1, 1.1, math.nan])
def test_wrong_probability(probability):
    with pytest.raises(ValueError, match="probability"):
        RandAugment(2, probability)


def test_probability_leaves_out_operations_and_changes_no_other():
    images, u = batch(200, ops=1)
    images = images.mul(255).round().to(torch.uint8)
    half = u.clone()
    half[:, 0] /= 2  # below one half: each is applied, and the same one
    assert RandAugment(1, 0.5)(images, half).equal(RandAugment(1)(images, u))
    half[:, 0] += 0.5
    assert RandAugment(1, 0.5)(images, half).equal(images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_makes_the_same_images():
    images, u = batch(256)
    ours, gpus = RandAugment(2)(images, u), RandAugment(2)(images.cuda(), u).cpu()
    assert (ours == gpus).float().mean() > 0.999
