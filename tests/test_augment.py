from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muscle_zoo import InputError
from muscle_zoo.data.augment import Affine, Contrast, Cutout, parse_policy
from muscle_zoo.data.randaugment import RandAugment


def naive_affine(image: Tensor, degrees: float, shift_x: float, shift_y: float, scale: float) -> Tensor:
    """One grey image, pixel by pixel: where in the input does each output pixel come from?"""
    height, width = image.shape
    out = torch.zeros_like(image)
    angle = math.radians(degrees)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            u = (x * math.cos(angle) + y * math.sin(angle)) / scale + shift_x * width + width / 2 - 0.5
            v = (-x * math.sin(angle) + y * math.cos(angle)) / scale + shift_y * height + height / 2 - 0.5
            for r in (math.floor(v), math.floor(v) + 1):
                for c in (math.floor(u), math.floor(u) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        out[row, column] += image[r, c] * (1 - abs(v - r)) * (1 - abs(u - c))
    return out


@pytest.mark.parametrize("shape", [(8, 8), (7, 12)])
def test_affine_against_loops(shape: tuple[int, int]) -> None:
    images = torch.rand(6, 1, *shape, generator=torch.Generator().manual_seed(0))
    u = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    out = Affine(30, 0.2, 0.25)(images, u)
    for image, (a, s, x, y), made in zip(images[:, 0], (2 * u - 1).tolist(), out[:, 0], strict=True):
        assert made.allclose(naive_affine(image, 30 * a, 0.2 * x, 0.2 * y, 1 + 0.25 * s), atol=1e-5)


def test_affine_in_the_middle_of_its_range_changes_nothing() -> None:
    images = torch.rand(3, 2, 9, 6)
    assert Affine(30, 0.2, 0.25)(images, torch.full((3, 4), 0.5)).allclose(images, atol=1e-5)


def test_contrast_scales_and_clips() -> None:
    images = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2).repeat(2, 1, 1, 1)
    out = Contrast(0.5)(images, torch.tensor([[0.0], [1.0]]))
    assert out[:, 0, 0].allclose(torch.tensor([[0.1, 0.45], [0.3, 1.0]]))


def test_cutout_blacks_out_one_square() -> None:
    out = Cutout(0.5)(torch.ones(2, 3, 8, 8), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    expected = torch.ones(2, 3, 8, 8)
    expected[0, :, 2:6, 2:6] = 0
    expected[1, :, :2, 6:] = 0
    assert out.equal(expected)


def test_randaugment_is_an_operation_like_the_others() -> None:
    policy = parse_policy("strong", "randaugment(2)+cutout(0.5)")
    images, u = torch.rand(9, 3, 16, 16), torch.rand(9, policy.draws)
    assert policy.draws == 3 * 2 + 2
    assert policy(images, u).shape == images.shape
    assert policy(images, u).equal(Cutout(0.5)(RandAugment(2)(images, u[:, :6]), u[:, 6:]))


def test_policies_apply_their_operations_in_order_with_their_own_numbers() -> None:
    policy = parse_policy("strong", "contrast(0.5)+cutout(0.5)")
    u = torch.tensor([[1.0, 0.5, 0.5]])
    images = torch.full((1, 1, 8, 8), 0.4)
    assert policy.draws == 3
    assert policy(images, u).equal(Cutout(0.5)(Contrast(0.5)(images, u[:, :1]), u[:, 1:]))
    assert parse_policy("weak", "none")(images, torch.empty(1, 0)).equal(images)
    assert F.mse_loss(policy(images, u), images) > 0


@pytest.mark.parametrize(
    "text",
    [
        "afine(1,2,3)",
        "affine(a,b,c)",
        "affine(1,2,3,4,5)",
        "affine(30,,0.25)",
        "cutout(nan)",
        "randaugment(1.5)",
        "affine(1",
        "",
        "cutout(0.4)+",
        "none+cutout",
    ],
)
def test_wrong_policies(text: str) -> None:
    with pytest.raises(InputError, match="strong="):
        parse_policy("strong", text)
