"""How good features are where there is no classifier: the accuracy of their nearest labeled neighbors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSetInfo, ImageSource, normalize
from ..data.splits import hash_order
from ..errors import InputError
from ..methods.base import evaluation_mode
from .build import Data

NEIGHBORS, TEMPERATURE = 20, 0.07  # as Wu et al. 2018 weight them; their 200 neighbors are for a million images
MAX_REFERENCES = 10_000
_PIXELS = 2**25  # numbers in one batch: 128 MiB
_NO_VOTE = 1e-12  # share of the votes, so that a class without any has a logarithm


class NearestNeighbors(nn.Module):
    """A network without a classifier as a classifier: labeled images vote for their class, the nearest ones most.

    The 20 labeled images (or all, where there are fewer) whose features have the highest cosine similarity s to an
    image's vote with the weight ``exp(s / 0.07)`` (Wu et al. 2018, arXiv 1805.01978, section 3.4). Nothing is trained.

    Args:
        network: Images ``(n, C, H, W)`` to features ``(n, F)``. Its mode stays as it is.
        references: The labeled images and their classes.
        info: Mean and standard deviation, and how many classes.

    Raises:
        InputError: There is no labeled image.
    """

    def __init__(self, network: nn.Module, references: ImageSource, info: DataSetInfo) -> None:
        super().__init__()
        if not len(references):
            raise InputError("there is no labeled image among which nearest neighbors could be looked for")
        self.network = network
        self.training = network.training  # whoever evaluates this puts the mode back that it had
        device = next(network.parameters()).device
        self.num_classes = info.num_classes
        self.labels = references.labels.to(device)
        self.references = _features(network, references, info, device)

    def forward(self, images: Tensor) -> Tensor:
        """The logarithm of each class's share of the votes, ``(n, C)``."""
        similarity = F.normalize(self.network(images).float(), dim=1) @ self.references.T
        nearest = similarity.topk(min(NEIGHBORS, len(self.labels)), dim=1)
        weights = (nearest.values / TEMPERATURE).softmax(dim=1)
        votes = weights.new_zeros(len(images), self.num_classes)
        return votes.scatter_add(1, self.labels[nearest.indices], weights).clamp_min(_NO_VOTE).log()


@torch.no_grad()
def _features(network: nn.Module, images: ImageSource, info: DataSetInfo, device: torch.device) -> Tensor:
    """Features of length 1, ``(n, F)``."""
    size = max(8, min(1024, _PIXELS // math.prod(info.input_size)))
    batches = images.batches(torch.arange(len(images)).split(size))
    with evaluation_mode(network):
        parts = [
            network(normalize(raw.to(device), info).contiguous(memory_format=torch.channels_last)) for raw in batches
        ]
    return F.normalize(torch.cat(parts).float(), dim=1)


def references_of(data: Data) -> ImageSource:
    """The labeled images of a run, which its nearest neighbors are among: at most 10,000, chosen by hash."""
    positions = data.split.labeled
    if len(positions) > MAX_REFERENCES:
        positions = tuple(sorted(hash_order("neighbors", positions)[:MAX_REFERENCES]))
    return data.dataset.train.subset(list(positions))
