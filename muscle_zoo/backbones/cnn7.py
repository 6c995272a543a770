"""A network of our own for small colored pictures, 32x32 as CIFAR's, that is quick on a CPU and on a GPU.

Its shape is that of the networks that train on CIFAR-10 in seconds (Jordan 2024, arXiv 2404.00498, and Page's
ResNet-9 before it): a whitening layer, then three stages that each shrink early, so that most of the arithmetic is in
few large convolutions on small maps, and little memory is moved for BatchNorm and activations.

- Stem: a 2x2 convolution without padding, BatchNorm, both signs of what comes out, GELU.
- Each stage: a 3x3 convolution, 2x2 max-pooling, BatchNorm, GELU, a 3x3 convolution, BatchNorm, GELU.
- The global average, a linear layer. Convolutions have no bias.

The original computes the whitening from the data. Here the first filters are fixed: all products of a cosine basis of
the channels (of three: brightness, red less blue, green less both) and Hadamard's of 2x2 pixels. Patches of
photographs are nearly uncorrelated in that basis, and BatchNorm then brings each filter to variance 1: whitened,
whatever the data set is and without looking at it. Unlike the original's, the filters are trained on.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from muscle_zoo.backbones._base import Backbone
from muscle_zoo.backbones._cfg import build, cfg, with_pretrained
from muscle_zoo.backbones.cnn13 import MinSize

__all__ = ["CNN7"]

MIN_SIZE = 9  # the stem takes a pixel away, and three poolings halve 8
FILTERS = 12  # of the stem: all that there are of three channels; the same for others, so that weights fit these too


class Whitening(nn.Module):
    """A 2x2 convolution to twelve filters, normalized, and both signs of each through GELU.

    Args:
        in_chans: Channels of the input.
        bn_momentum: BatchNorm's momentum, in PyTorch's sense.
        device: Where the weights are made.
        dtype: Their type.
    """

    def __init__(
        self,
        in_chans: int,
        bn_momentum: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, FILTERS, 2, bias=False, device=device, dtype=dtype)
        self.bn = nn.BatchNorm2d(FILTERS, momentum=bn_momentum, device=device, dtype=dtype)

    @torch.no_grad()
    def init_weights(self) -> None:
        """The products of the two bases, each filter of norm 1."""
        self.conv.weight.copy_(whitening_filters(self.conv.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_chans, H, W) to (N, 24, H - 1, W - 1)."""
        x = self.bn(self.conv(x))
        return F.gelu(torch.cat([x, -x], dim=1))


def whitening_filters(in_chans: int) -> Tensor:
    """The first filters of the stem, ``(12, in_chans, 2, 2)``: orthonormal, but repeated where there are too few.

    Example:
        >>> whitening_filters(1)[:4].flatten(1)
        tensor([[ 0.5000,  0.5000,  0.5000,  0.5000],
                [ 0.5000, -0.5000,  0.5000, -0.5000],
                [ 0.5000,  0.5000, -0.5000, -0.5000],
                [ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    place = torch.arange(in_chans, dtype=torch.float64)
    channels = torch.cos(math.pi / in_chans * place[:, None] * (place + 0.5))  # DCT-II
    channels = channels / channels.norm(dim=1, keepdim=True)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    filters = torch.einsum("ic,ay,bx->iabcyx", channels, pair, pair)
    filters = filters.reshape(4 * in_chans, in_chans, 2, 2).float()
    return filters[torch.arange(FILTERS) % len(filters)]


class CNN7(Backbone):
    """A whitening layer and three stages of two convolutions, for images of 9x9 and more.

    Feature levels: the stem, which is a pixel smaller than the image, and the stages, each half of what comes before,
    rounded down: 31, 15, 7 and 3 for 32.

    Args:
        widths: Channels of the three stages.
        num_classes: Size of the logits; 0 leaves the classifier out.
        in_chans: Channels of the input.
        global_pool: timm's pooling: ``avg``, ``max``, ``avgmax``, ``catavgmax`` or ``""``.
        drop_rate: Dropout before the linear layer.
        bn_momentum: BatchNorm's momentum in PyTorch's sense, the share of the new batch in the running statistics.
        device: Where the weights are made.
        dtype: Their type.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check, whiten = MinSize("cnn7", MIN_SIZE), Whitening(in_chans, bn_momentum, **dd)
        stages: list[tuple[str, nn.Module, int, int]] = [
            ("stem", nn.Sequential(OrderedDict(check=check, whiten=whiten)), 2 * FILTERS, 1)
        ]
        for number, width in enumerate(widths, start=1):
            before = stages[-1][2]
            stages.append((f"stage{number}", _stage(before, width, bn_momentum, dd), width, 2**number))
        super().__init__(
            stages, num_classes=num_classes, in_chans=in_chans, global_pool=global_pool, drop_rate=drop_rate, **dd
        )

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draws all weights as the other backbones do, but for the stem's, which are given."""
        super().init_weights()
        stem = self.get_submodule("stem.whiten")
        assert isinstance(stem, Whitening)
        stem.init_weights()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Says which parameters form a layer, for layer-wise learning rates: stages if coarse, else convolutions."""
        return {"stem": r"^stem", "blocks": r"^stage(\d+)" if coarse else r"^stage(\d+)\.conv(\d+)"}


def _stage(in_chs: int, out_chs: int, bn_momentum: float, dd: dict[str, Any]) -> nn.Sequential:
    """Two convolutions; the first is pooled before its norm, which then sees a quarter of the pixels."""

    def block(in_chs: int, pool: nn.Module) -> nn.Sequential:
        conv = nn.Conv2d(in_chs, out_chs, 3, padding=1, bias=False, **dd)
        norm = BatchNormAct2d(out_chs, momentum=bn_momentum, act_layer=nn.GELU, **dd)
        return nn.Sequential(OrderedDict(conv=conv, pool=pool, norm=norm))

    return nn.Sequential(OrderedDict(conv1=block(in_chs, nn.MaxPool2d(2)), conv2=block(out_chs, nn.Identity())))


BASE = cfg(first_conv="stem.whiten.conv", pool_size=(3, 3), min_input_size=(3, MIN_SIZE, MIN_SIZE))
default_cfgs = generate_default_cfgs(with_pretrained({"cnn7": BASE}))


@register_model
def cnn7(pretrained: bool = False, **kwargs: Any) -> CNN7:
    """Whitening and six convolutions: 1.16 million parameters at 10 classes; ``kwargs`` are ``CNN7``'s and timm's."""
    return build(CNN7, "cnn7", pretrained, BASE, levels=4, **kwargs)
