"""The 13-layer network of Laine & Aila 2017 (arXiv 1610.02242) as Mean Teacher's "ConvLarge" has it.

Tarvainen & Valpola 2017 (arXiv 1703.01780), ``tower`` in ``tensorflow/mean_teacher/model.py`` of
github.com/CuriousAI/mean-teacher: three 3x3 convolutions of 128 channels, 2x2 max-pooling, dropout; three of 256,
max-pooling, dropout; one 3x3 of 512 without padding, a 1x1 of 256, a 1x1 of 128; the global average, a linear layer.
LeakyReLU of slope 0.1 after every convolution.

It differs from the original, where weights are normalized and the batch's mean alone is subtracted: here every
convolution is without a bias and followed by BatchNorm, and the linear layer is a plain one. The momentum is the
original's (0.999 in TensorFlow's sense) unless a recipe sets its own, as every training does. The first weights are
normal by fan-out, not scaled by data. The original's Gaussian noise on the input is not part of the network. Its
dropout of 0.5 after the two poolings is ``stage_drop_rate``, apart from timm's ``drop_rate`` before the linear layer,
which the original has not.
"""

from collections import OrderedDict
from typing import Any

import torch
from timm.layers import register_notrace_module
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from muscle_zoo.backbones._base import Backbone
from muscle_zoo.backbones._cfg import build, cfg, with_pretrained
from muscle_zoo.errors import InputError

__all__ = ["CNN13"]

SLOPE = 0.1
MIN_SIZE = 12  # two poolings leave 3x3, on which the convolution without padding still fits


class ConvNormAct(nn.Module):
    """A convolution without bias, BatchNorm, LeakyReLU of slope 0.1.

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        kernel_size: Side of the convolution, in pixels.
        padding: Zeros on each side, in pixels.
        bn_momentum: BatchNorm's momentum, in PyTorch's sense.
        device: Where the weights are made.
        dtype: Their type.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 3,
        padding: int = 1,
        bn_momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=padding, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, momentum=bn_momentum, **dd)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_chs, H, W) to (N, out_chs, h, w)."""
        return self.act(self.bn(self.conv(x)))


@register_notrace_module  # FX cannot trace a decision about a size
class MinSize(nn.Module):
    """Passes images on and refuses those that are too small for the network.

    Args:
        arch: The network's name, for the message.
        size: The smallest side, in pixels.
    """

    def __init__(self, arch: str, size: int) -> None:
        super().__init__()
        self.arch = arch
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x``, (N, C, H, W).

        Raises:
            InputError: If H or W is less than the smallest side.
        """
        # What FX hands through, unless it takes this module whole, has no size to decide by.
        if isinstance(x, Tensor) and not torch.jit.is_tracing() and min(x.shape[-2:]) < self.size:
            height, width = x.shape[-2:]
            raise InputError(
                f"image size: {height}x{width} is too small for {self.arch}; "
                f"the smallest supported size is {self.size}x{self.size}"
            )
        return x


class CNN13(Backbone):
    """ConvLarge with BatchNorm; the module's docstring says what that is.

    Feature levels: the three stages, each before the next pooling. Takes images of 12x12 and more; from 32x32 the
    last level is 6x6, less than its stride of 4 promises, since one convolution is without padding.

    Args:
        num_classes: Size of the logits; 0 leaves the classifier out.
        in_chans: Channels of the input.
        global_pool: timm's pooling: ``avg``, ``max``, ``avgmax``, ``catavgmax`` or ``""``.
        drop_rate: Dropout before the linear layer.
        stage_drop_rate: Dropout after the two poolings.
        bn_momentum: BatchNorm's momentum in PyTorch's sense, the share of the new batch in the running statistics.
            The original's 0.001 is slow: for some thousand steps a raw model's evaluation lags behind. PyTorch's own
            default is 0.1.
        device: Where the weights are made.
        dtype: Their type.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        stage_drop_rate: float = 0.5,
        bn_momentum: float = 0.001,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}

        def conv(in_chs: int, out_chs: int, kernel_size: int = 3, padding: int = 1) -> ConvNormAct:
            return ConvNormAct(in_chs, out_chs, kernel_size, padding, bn_momentum, **dd)

        def stage(before: dict[str, nn.Module], *convs: ConvNormAct) -> nn.Sequential:
            return nn.Sequential(OrderedDict(before | {f"conv{i + 1}": module for i, module in enumerate(convs)}))

        def shrink() -> dict[str, nn.Module]:
            return {"pool": nn.MaxPool2d(2), "drop": nn.Dropout(stage_drop_rate)}

        stage1 = stage({"check": MinSize("cnn13", MIN_SIZE)}, conv(in_chans, 128), conv(128, 128), conv(128, 128))
        stage2 = stage(shrink(), conv(128, 256), conv(256, 256), conv(256, 256))
        stage3 = stage(shrink(), conv(256, 512, 3, 0), conv(512, 256, 1, 0), conv(256, 128, 1, 0))
        super().__init__(
            [("stage1", stage1, 128, 1), ("stage2", stage2, 256, 2), ("stage3", stage3, 128, 4)],
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            drop_rate=drop_rate,
            **dd,
        )

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Says which parameters form a layer, for layer-wise learning rates: stages if coarse, else convolutions."""
        return {"blocks": r"^stage(\d+)" if coarse else r"^stage(\d+)\.conv(\d+)"}


BASE = cfg(first_conv="stage1.conv1.conv", pool_size=(6, 6), min_input_size=(3, MIN_SIZE, MIN_SIZE))
default_cfgs = generate_default_cfgs(with_pretrained({"cnn13": BASE}))


@register_model
def cnn13(pretrained: bool = False, **kwargs: Any) -> CNN13:
    """Mean Teacher's ConvLarge: 3.12 million parameters at 10 classes; ``kwargs`` are ``CNN13``'s and timm's."""
    return build(CNN13, "cnn13", pretrained, BASE, levels=3, **kwargs)
