"""Losses: small modules, each usable alone in any training loop."""

from .consistency import Divergence, Entropy, PseudoLabelLoss, SoftCrossEntropy, SquaredDifference, sharpen
from .mutual_information import MutualInformationLoss, joint_distribution, mutual_information

__all__ = [
    "Divergence",
    "Entropy",
    "MutualInformationLoss",
    "PseudoLabelLoss",
    "SoftCrossEntropy",
    "SquaredDifference",
    "joint_distribution",
    "mutual_information",
    "sharpen",
]
