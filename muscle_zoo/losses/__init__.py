"""Losses: small modules, each usable alone in any training loop."""

from .consistency import PseudoLabelLoss
from .mutual_information import MutualInformationLoss, joint_distribution, mutual_information

__all__ = ["MutualInformationLoss", "PseudoLabelLoss", "joint_distribution", "mutual_information"]
