from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muscle_zoo import InputError
from muscle_zoo.data.augment import Affine, Contrast, Crop, Cutout, Flip, Shift, parse_policy
from muscle_zoo.data.randaugment import RandAugment


def naive_affine(image: Tensor, degrees: float, shift_x: float, shift_y: float, scale: float) -> Tensor:
    """One gray image, pixel by pixel: where in the input does each output pixel come from?"""
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


@pytest.mark.parametrize("shape", [(8, 16), (16, 8)])
def test_cutout_is_a_square_in_any_picture(shape: tuple[int, int]) -> None:
    hidden = Cutout(0.5)(torch.ones(1, 1, *shape), torch.tensor([[0.5, 0.5]]))[0, 0] == 0
    side = shape[0] // 2
    assert hidden.any(dim=1).sum() == hidden.any(dim=0).sum() == side and hidden.sum() == side**2


def test_cutout_fills_bytes_and_floats_alike() -> None:
    u = torch.tensor([[0.5, 0.5]])
    gray = Cutout(0.5, 0.5)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), u)
    assert gray.dtype == torch.uint8 and gray[0, :, 2:6, 2:6].unique().tolist() == [128]
    assert gray.int().sum() == 128 * 3 * 16
    assert Cutout(0.5, 0.5)(torch.zeros(1, 3, 8, 8), u)[0, 0, 3, 3] == 0.5


@pytest.fixture(params=[torch.uint8, torch.float32])
def pictures(request: pytest.FixtureRequest) -> Tensor:
    values = torch.randint(0, 256, (6, 3, 9, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return values if request.param == torch.uint8 else values / 255.0


def test_flip_mirrors_below_one_half(pictures: Tensor) -> None:
    u = torch.tensor([0.0, 0.49, 0.5, 0.51, 0.99, 0.2])[:, None]
    out = Flip()(pictures, u)
    for image, made, mirrored in zip(pictures, out, (True, True, False, False, False, True), strict=True):
        assert made.equal(image.flip(2) if mirrored else image)


def test_shift_against_padding_by_reflection(pictures: Tensor) -> None:
    u = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
    u[0], u[1] = torch.tensor([0.0, 0.999999]), torch.tensor([0.5, 0.5])
    out = Shift(0.25)(pictures, u)  # up to 2 of 9 rows, 3 of 12 columns
    padded = F.pad(pictures.float(), (3, 3, 2, 2), mode="reflect").to(pictures.dtype)
    for image, made, (a, b) in zip(padded, out, u.tolist(), strict=True):
        top, left = int(a * 5), int(b * 7)
        assert made.equal(image[:, top : top + 9, left : left + 12])
    assert out.dtype == pictures.dtype and out[1].equal(pictures[1])
    assert Shift(0.0)(pictures, u).equal(pictures)


def test_shift_reaches_every_offset_equally_often() -> None:
    images = torch.arange(8, dtype=torch.uint8).expand(7000, 1, 8, 8)
    u = torch.rand(7000, 2, generator=torch.Generator().manual_seed(2))
    moved = Shift(0.4)(images, u)[:, 0, 4, 4]  # 3 of 8
    counts = moved.bincount(minlength=8).tolist()
    assert counts[0] == 0 and all(abs(count - 1000) < 120 for count in counts[1:])


def test_crop_against_torchvision() -> None:
    from torchvision.transforms import functional

    images = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    u = torch.rand(5, 4, generator=torch.Generator().manual_seed(3))
    out = Crop(0.3)(images, u)
    for image, made, (a, r, x, y) in zip(images, out, u.tolist(), strict=True):
        area, ratio = 0.3 + 0.7 * a, (4 / 3) ** (2 * r - 1)
        width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
        left, top = (1 - width) * x * 40, (1 - height) * y * 40
        for row in range(0, 40, 7):
            for column in range(0, 40, 7):
                v = min(max(top + (row + 0.5) * height - 0.5, 0), 39)
                h = min(max(left + (column + 0.5) * width - 0.5, 0), 39)
                i, j = min(int(v), 38), min(int(h), 38)
                square = image[:, i : i + 2, j : j + 2]
                weights = torch.tensor([[1 - (v - i)], [v - i]]) @ torch.tensor([[1 - (h - j), h - j]])
                assert made[:, row, column].allclose((square * weights).sum(dim=(1, 2)), atol=1e-4)
    whole = Crop(1.0)(images, torch.tensor([[1.0, 0.5, 0.5, 0.5]]).expand(5, -1))
    assert whole.allclose(images, atol=1e-5)
    # a crop of whole pixels is what torchvision makes of it
    quarter = Crop(0.25)(images, torch.tensor([[0.0, 0.5, 0.5, 0.5]]).expand(5, -1))
    resized = functional.resized_crop(images, 10, 10, 20, 20, [40, 40], antialias=False)
    assert quarter[..., 1:-1, 1:-1].allclose(resized[..., 1:-1, 1:-1], atol=1e-4)


def test_bytes_stay_bytes_as_long_as_they_can() -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    strong = parse_policy("strong", "flip+shift(0.125)+randaugment(2)+cutout(0.5,0.5)")
    assert strong(images, torch.rand(4, strong.num_random)).dtype == torch.uint8
    mixed = parse_policy("strong", "flip+contrast(0.0)+cutout(0.0)")
    u = torch.full((4, mixed.num_random), 0.9)
    assert mixed(images, u).allclose(images / 255.0)
    assert parse_policy("weak", "none")(images, torch.empty(4, 0)).equal(images)


def test_randaugment_is_an_operation_like_the_others() -> None:
    policy = parse_policy("strong", "randaugment(2)+cutout(0.5)")
    images, u = torch.rand(9, 3, 16, 16), torch.rand(9, policy.num_random)
    assert policy.num_random == 3 * 2 + 2
    assert policy(images, u).shape == images.shape
    assert policy(images, u).equal(Cutout(0.5)(RandAugment(2)(images, u[:, :6]), u[:, 6:]))


def test_policies_apply_their_operations_in_order_with_their_own_numbers() -> None:
    policy = parse_policy("strong", "contrast(0.5)+cutout(0.5)")
    u = torch.tensor([[1.0, 0.5, 0.5]])
    images = torch.full((1, 1, 8, 8), 0.4)
    assert policy.num_random == 3
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
        "shift(1)",
        "crop(0)",
        "cutout(0.5,2)",
        "flip(1)",
        "",
        "cutout(0.4)+",
        "none+cutout",
    ],
)
def test_wrong_policies(text: str) -> None:
    with pytest.raises(InputError, match="strong="):
        parse_policy("strong", text)
