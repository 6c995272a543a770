"""Wide residual networks for 32x32 images, in the variant of FixMatch.

Zagoruyko & Komodakis 2016 (arXiv 1605.07146) as FixMatch (Sohn et al. 2020, arXiv 2001.07685) builds it, class
``ResNet`` of ``libml/models.py`` in github.com/google-research/fixmatch:

- pre-activation blocks of two 3x3 convolutions, LeakyReLU of slope 0.1, no dropout inside a block;
- a 3x3 stem to 16 channels without pooling; 3 groups of (depth - 4) / 6 blocks, of 16k, 32k, 64k channels, with
  strides 1, 2, 2;
- a shortcut is the identity, or a 1x1 convolution without a norm where the shape changes. The first block of the
  first group hands its shortcut the activated input, all other blocks the raw one;
- BatchNorm with eps 0.001 and momentum 0.001 (which TensorFlow calls 0.999); one more norm and activation after the
  last group, the global average, a linear layer;
- convolutions start normal with standard deviation sqrt(2 / (k * k * out)), the linear layer Xavier normal with zero
  bias.

It differs from that code as PyTorch versions commonly do: convolutions have no bias (that code leaves TensorFlow's
default on); a convolution of stride 2 pads one pixel on every side (TensorFlow's SAME pads even sizes below and to the
right alone); Xavier's normal is not truncated. Dropout before the linear layer is timm's ``drop_rate``, 0 by default.
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from muscle_zoo.backbones._base import Backbone
from muscle_zoo.backbones._cfg import build, cfg, with_pretrained
from muscle_zoo.errors import InputError

__all__ = ["WideResNet"]

SLOPE = 0.1


class PreActBlock(nn.Module):
    """Norm, activation, 3x3 convolution, twice, beside a shortcut.

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        activate_first: The shortcut, too, sees the activated input.
        bn_eps: BatchNorm's eps.
        bn_momentum: BatchNorm's momentum, in PyTorch's sense.
        device: Where the weights are made.
        dtype: Their type.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int,
        activate_first: bool,
        bn_eps: float,
        bn_momentum: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.activate_first = activate_first
        self.bn1 = nn.BatchNorm2d(in_chs, eps=bn_eps, momentum=bn_momentum, **dd)
        self.act1 = nn.LeakyReLU(SLOPE, inplace=True)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, eps=bn_eps, momentum=bn_momentum, **dd)
        self.act2 = nn.LeakyReLU(SLOPE, inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_chs != out_chs:
            self.shortcut = nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_chs, H, W) to (N, out_chs, ceil(H / stride), ceil(W / stride))."""
        y = self.act1(self.bn1(x))
        if self.activate_first:
            x = y
        y = self.conv2(self.act2(self.bn2(self.conv1(y))))
        return self.shortcut(x) + y


class WideResNet(Backbone):
    """WRN-depth-width in FixMatch's variant; the module's docstring says what that is.

    Feature levels: the stem, then the three groups, each before the next norm and activation. Takes images of any size.

    Args:
        depth: Number of convolutions that the name counts: 6n + 4.
        width: The factor k on the channels 16, 32, 64.
        num_classes: Size of the logits; 0 leaves the classifier out.
        in_chans: Channels of the input.
        global_pool: timm's pooling: ``avg``, ``max``, ``avgmax``, ``catavgmax`` or ``""``.
        drop_rate: Dropout before the linear layer.
        bn_momentum: BatchNorm's momentum in PyTorch's sense, the share of the new batch in the running statistics.
            FixMatch's 0.001 is slow: for some thousand steps the running statistics, hence a raw model's evaluation,
            lag behind. PyTorch's own default is 0.1, and a recipe sets its own (``Recipe.bn_momentum``).
        bn_eps: BatchNorm's eps; PyTorch's own default is 1e-5.
        device: Where the weights are made.
        dtype: Their type.

    Raises:
        InputError: If ``depth`` is not 6n + 4 with n >= 1.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = 0.001,
        bn_eps: float = 0.001,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise InputError(f"depth={depth} is not 6n + 4 with n >= 1; give 10, 16, 22, 28, 34 or 40")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        stem = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False, **dd)
        stages: list[tuple[str, nn.Module, int, int]] = [("conv1", stem, 16, 1)]
        channels = 16
        for group, stride in enumerate((1, 2, 2)):
            out_chs = (16 << group) * width
            blocks = []
            for i in range((depth - 4) // 6):
                activate_first = group == 0 and i == 0
                blocks.append(PreActBlock(channels, out_chs, 1 if i else stride, activate_first, **bn, **dd))
                channels = out_chs
            stages.append((f"layer{group + 1}", nn.Sequential(*blocks), channels, 1 << group))
        super().__init__(
            stages,
            nn.Sequential(
                nn.BatchNorm2d(channels, eps=bn_eps, momentum=bn_momentum, **dd), nn.LeakyReLU(SLOPE, inplace=True)
            ),
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            drop_rate=drop_rate,
            **dd,
        )

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Says which parameters form a layer, for layer-wise learning rates: groups if coarse, else blocks."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(blocks, None), (r"^norm", (99999,))]}


BASE = {arch: cfg(first_conv="conv1") for arch in ("wrn_16_2", "wrn_28_2", "wrn_28_8")}
default_cfgs = generate_default_cfgs(with_pretrained(BASE))


def _create(arch: str, pretrained: bool, **kwargs: Any) -> WideResNet:
    return build(WideResNet, arch, pretrained, BASE[arch], levels=4, **kwargs)


@register_model
def wrn_16_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-16-2: 0.69 million parameters at 10 classes; ``kwargs`` are ``WideResNet``'s and timm's."""
    return _create("wrn_16_2", pretrained, **{"depth": 16, "width": 2, **kwargs})


@register_model
def wrn_28_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-2: 1.47 million parameters at 10 classes; ``kwargs`` are ``WideResNet``'s and timm's."""
    return _create("wrn_28_2", pretrained, **{"depth": 28, "width": 2, **kwargs})


@register_model
def wrn_28_8(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-8: 23.4 million parameters at 100 classes; ``kwargs`` are ``WideResNet``'s and timm's."""
    return _create("wrn_28_8", pretrained, **{"depth": 28, "width": 8, **kwargs})
