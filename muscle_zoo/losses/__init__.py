"""Losses: small modules, each usable alone in any training loop."""

from .consistency import Divergence, Entropy, PseudoLabelLoss, SoftCrossEntropy, SquaredDifference, sharpen
from .distillation import DistillationLoss
from .mutual_information import MutualInformationLoss, joint_distribution, mutual_information
from .nt_xent import NTXentLoss
from .vicreg import VICRegLoss

__all__ = [
    "DistillationLoss",
    "Divergence",
    "Entropy",
    "MutualInformationLoss",
    "NTXentLoss",
    "PseudoLabelLoss",
    "SoftCrossEntropy",
    "SquaredDifference",
    "VICRegLoss",
    "joint_distribution",
    "mutual_information",
    "sharpen",
]
