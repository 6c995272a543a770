"""Mutual information alone: two views of an image should be put into the same cluster, and clusters be of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses import MutualInformationLoss
from .base import Batch, Method, Outputs, RunContext, View, check_at_least

_LOGITS = 2.0  # standard deviation of a new head's logits
_CLUSTERS, _OVER_CLUSTERS = "clusters", "over_clusters"


class MIOnly(Method):
    """Invariant information clustering (Ji et al. 2019, arXiv 1807.06653): pre-training by MUSCLE's term alone.

    The loss is minus the mutual information between the clusters of the weak and the strong view of the unlabeled
    images, a mean over several heads of as many clusters as there are classes, plus the same of heads with more
    clusters (over-clustering), which find finer differences. No label is used. The paper trains the two kinds of heads
    in turn, and here they are trained together, on features that are normalized over the batch. All heads are left out
    of what is exported. Logs ``mi`` and ``mi_over_clusters``, the mean mutual information of either kind in nats.

    Args:
        sub_heads: Heads of each kind, at least 1.
        over_clustering: Clusters of the second kind, as a multiple of the classes; at least 1.
        lambda_: Weight of the marginal entropies, above 0; 1 is mutual information.
        context: Classes.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("mi_only", {"mi_only": {"sub_heads": 2}}, RunContext(num_classes=10))
        >>> [head[-1] for head in method.parts(RunContext(features=64)).values()]
        [Linear(in_features=64, out_features=20, bias=True), Linear(in_features=64, out_features=100, bias=True)]
    """

    views: Mapping[str, View] = {"u_weak": View("unlabeled", "weak"), "u_strong": View("unlabeled", "strong")}
    needs: Mapping[str, Sequence[str]] = dict.fromkeys(views, (_CLUSTERS, _OVER_CLUSTERS))
    classifier: ClassVar[bool] = False

    def __init__(
        self, sub_heads: int = 5, over_clustering: int = 5, lambda_: float = 1.0, context: RunContext | None = None
    ) -> None:
        super().__init__()
        check_at_least("mi_only.sub_heads", sub_heads, 1)
        check_at_least("mi_only.over_clustering", over_clustering, 1)
        check_at_least("mi_only.lambda_", lambda_, 1e-3)
        classes = (context or RunContext()).num_classes
        self.sub_heads = sub_heads
        self.clusters = {_CLUSTERS: classes, _OVER_CLUSTERS: over_clustering * classes}
        self.mutual_information = MutualInformationLoss(lambda_)

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The heads of either kind, side by side in one layer."""
        return {kind: self._heads(context.features, clusters) for kind, clusters in self.clusters.items()}

    def _heads(self, features: int, clusters: int) -> nn.Module:
        # Plain features of a new network hardly differ from image to image, so all clusters would begin as good as
        # equal: a saddle of the mutual information, which SGD did not leave in 600 steps on digits. Normalized ones
        # times such weights give logits with a standard deviation of 2.
        layer = nn.Linear(features, self.sub_heads * clusters)
        nn.init.normal_(layer.weight, std=_LOGITS / features**0.5)
        return nn.Sequential(nn.BatchNorm1d(features, affine=False), layer)

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Minus the mutual information of both kinds of heads."""
        losses = {kind: self._mean_loss(*(outputs[view, kind] for view in self.views)) for kind in self.clusters}
        terms = {"mi": -losses[_CLUSTERS].detach(), "mi_over_clusters": -losses[_OVER_CLUSTERS].detach()}
        return {"loss": losses[_CLUSTERS] + losses[_OVER_CLUSTERS], **terms}

    def _mean_loss(self, logits_a: Tensor, logits_b: Tensor) -> Tensor:
        heads = zip(logits_a.chunk(self.sub_heads, dim=1), logits_b.chunk(self.sub_heads, dim=1), strict=True)
        return torch.stack([self.mutual_information(a, b) for a, b in heads]).mean()
