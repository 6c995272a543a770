"""The networks of our own. Importing this package registers them with timm."""

from .cnn4 import CNN4, cnn4
from .cnn7 import CNN7, cnn7
from .cnn13 import CNN13, cnn13
from .wide_resnet import WideResNet, wrn_16_2, wrn_28_2, wrn_28_8

__all__ = ["CNN4", "CNN7", "CNN13", "WideResNet", "cnn4", "cnn7", "cnn13", "wrn_16_2", "wrn_28_2", "wrn_28_8"]
