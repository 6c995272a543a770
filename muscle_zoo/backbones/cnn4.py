"""A network of our own for small gray images, 8x8 digits and 28x28 MNIST, that trains in seconds on a CPU.

Four 3x3 convolutions of w, w, 2w, 2w channels, each followed by BatchNorm and LeakyReLU of slope 0.1, with 2x2
max-pooling before the third and before the fourth; the global average, a linear layer. Convolutions have no bias.
"""

from collections import OrderedDict
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from muscle_zoo.backbones._base import Backbone
from muscle_zoo.backbones._cfg import build, cfg, with_pretrained
from muscle_zoo.backbones.cnn13 import ConvNormAct

__all__ = ["CNN4"]


class CNN4(Backbone):
    """Four convolutions for images of 4x4 and more.

    Feature levels: the four layers; the first two have the size of the image, the third half of it and the fourth a
    quarter, rounded down.

    Args:
        width: Channels of the first two layers; the other two have twice as many.
        num_classes: Size of the logits; 0 leaves the classifier out.
        in_chans: Channels of the input.
        global_pool: timm's pooling: ``avg``, ``max``, ``avgmax``, ``catavgmax`` or ``""``.
        drop_rate: Dropout before the linear layer.
        bn_momentum: BatchNorm's momentum in PyTorch's sense, the share of the new batch in the running statistics.
            PyTorch's own 0.1, unlike our other backbones: this one is trained for few steps.
        device: Where the weights are made.
        dtype: Their type.
    """

    def __init__(
        self,
        width: int = 32,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}

        def conv(in_chs: int, out_chs: int) -> ConvNormAct:
            return ConvNormAct(in_chs, out_chs, bn_momentum=bn_momentum, **dd)

        def pooled(in_chs: int, out_chs: int) -> nn.Sequential:
            return nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2), conv=conv(in_chs, out_chs)))

        super().__init__(
            [
                ("layer1", conv(in_chans, width), width, 1),
                ("layer2", conv(width, width), width, 1),
                ("layer3", pooled(width, 2 * width), 2 * width, 2),
                ("layer4", pooled(2 * width, 2 * width), 2 * width, 4),
            ],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            drop_rate=drop_rate,
            **dd,
        )

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Says which parameters form a layer, for layer-wise learning rates; coarse or not, they are the four."""
        return {"blocks": r"^layer(\d+)"}


BASE = cfg(first_conv="layer1.conv", input_size=(1, 8, 8), pool_size=(2, 2), min_input_size=(1, 4, 4))
default_cfgs = generate_default_cfgs(with_pretrained({"cnn4": BASE}))


@register_model
def cnn4(pretrained: bool = False, **kwargs: Any) -> CNN4:
    """Four convolutions: 66 thousand parameters at width 32 and 10 classes; ``kwargs`` are ``CNN4``'s and timm's."""
    return build(CNN4, "cnn4", pretrained, BASE, levels=4, **kwargs)
