"""`tune=head`: a run whose images are the embeddings of a frozen backbone, and whose network is a classifier on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..data import DataSet, DataSetInfo, ImageSource, normalize
from ..data.embedded import EmbeddedImages
from ..recipes import Recipe
from .backbone import Backbone, split_network
from .build import Data, build_model, known_classes
from .collectives import shared_errors
from .embeddings import PLAIN, CachedView, Pictures, embed_pictures, faster_compute
from .head import Head, build_head, standardization


def backbone_of(recipe: Recipe, dataset: DataSet, device: torch.device | str = "cpu") -> Backbone:
    """The recipe's frozen backbone, with the weights of ``init`` or of the seed.

    Raises:
        InputError: The architecture does not fit, or has no linear classifier.
    """
    network = build_model(recipe, dataset).to(device)
    return split_network(network, dataset.info.input_size)


def embed_data(recipe: Recipe, data: Data, device: torch.device, progress: bool = False) -> Data:
    """A recipe's data as embeddings, with the classifier that is trained on them.

    Args:
        recipe: With ``tune=head``.
        data: Its images.
        device: Where the backbone runs.
        progress: Say how long it takes.

    Returns:
        The same split of embeddings, standardized as :mod:`.head` says; ``head`` is the network to train.

    Raises:
        InputError: The backbone does not fit the data, or the embeddings cannot be kept.
    """
    with shared_errors():
        backbone = backbone_of(recipe, data.dataset, device)
        train = Pictures.of(data.dataset.train, data.dataset.info)
    draws = {
        name: [CachedView(policy, draw) for draw in range(recipe.embedding_views)]
        for name, policy in (("weak", recipe.weak), ("strong", recipe.strong))
    }
    compute = faster_compute(backbone, train.info)
    found = _embed(backbone, train, [view for views in draws.values() for view in views], compute, progress)
    dataset = data.dataset
    embedded = EmbeddedImages(
        found[PLAIN],
        dataset.train.labels,
        {name: tuple(found[view] for view in views) for name, views in draws.items()},
        dataset.train.names,
    )
    evaluation: ImageSource = known_classes(embedded, data.split.held_out)
    if recipe.fold == "test":
        evaluation = embed_images(backbone, data.evaluation, dataset.info, progress)
    return _standardized(recipe, data, embedded, evaluation, backbone)


def embed_images(backbone: Backbone, images: ImageSource, info: DataSetInfo, progress: bool = False) -> EmbeddedImages:
    """The plain embeddings of images."""
    with shared_errors():
        pictures = Pictures.of(images, info)
    (plain,) = embed_pictures(backbone, pictures, (PLAIN,), progress)
    return EmbeddedImages(plain, images.labels, {}, images.names)


def _embed(
    backbone: Backbone, pictures: Pictures, views: list[CachedView], compute: str, progress: bool
) -> Mapping[CachedView, Tensor]:
    """Plain embeddings and views; in one pass over the pictures where both are computed alike."""
    asked = list(dict.fromkeys([PLAIN, *views]))
    if compute == "float32":
        return dict(zip(asked, embed_pictures(backbone, pictures, asked, progress), strict=True))
    (plain,) = embed_pictures(backbone, pictures, (PLAIN,), progress)
    others = [view for view in asked if view != PLAIN]
    return {PLAIN: plain, **dict(zip(others, embed_pictures(backbone, pictures, others, progress, compute), strict=True))}


def _standardized(
    recipe: Recipe, data: Data, train: EmbeddedImages, evaluation: ImageSource, backbone: Backbone
) -> Data:
    """The data of a run on embeddings."""
    pool = torch.tensor(data.split.unlabeled or data.split.labeled)
    mean, std = (value.float() for value in standardization(train.plain, pool))
    width = (backbone.width, 1, 1)
    info = replace(data.dataset.info, input_size=width, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    labeled = torch.tensor(data.split.labeled)
    features = normalize(next(train.batches([labeled])), info).flatten(1)
    torch.manual_seed(recipe.seed)  # for what a classifier draws
    labels = train.labels[labeled]
    head = build_head(recipe.classifier, features, labels, info.num_classes, (mean, std, backbone.sha256))
    return replace(data, dataset=DataSet(info, train, data.dataset.test), evaluation=evaluation, head=head)


@torch.no_grad()
def whole_network(recipe: Recipe, dataset: DataSet, weights: Mapping[str, Tensor]) -> nn.Module:
    """The recipe's network with a trained classifier in it.

    Args:
        recipe: With ``tune=head``.
        dataset: Its images.
        weights: Of the classifier, as a :class:`Head` has them.

    Raises:
        InputError: ``init`` is not what the classifier was trained on, or the classifier is not linear.
    """
    backbone = backbone_of(recipe, dataset)
    weight = weights["classifier.weight"]
    head = Head(nn.Linear(weight.shape[1], weight.shape[0]), weights["mean"], weights["std"], backbone.sha256)
    head.load_state_dict(weights)
    head.fold_into(backbone.classifier)
    return backbone.network
