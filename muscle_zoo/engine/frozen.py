"""`tune=head`: a run whose images are embeddings of a frozen backbone, and whose network is a classifier on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSet, DataSetInfo, ImageSource, Split
from ..data.embedded import EmbeddedImages
from ..methods import create_method, takes_steps
from ..methods.logistic import linear_layer
from ..recipes import Recipe
from .backbone import Backbone, split_network
from .build import Data, build_model, known_classes
from .collectives import shared_errors
from .embeddings import PLAIN, CachedView, Pictures, embed_pictures
from .evaluate import Metrics, count, summarize
from .head import Head, first_classifier, standardization


def backbone_of(recipe: Recipe, dataset: DataSet, device: torch.device | str = "cpu") -> Backbone:
    """The recipe's frozen backbone, with the weights of ``init`` or of the seed.

    Raises:
        InputError: The architecture does not fit, or has no linear classifier.
    """
    network = build_model(recipe, dataset).to(device)
    return split_network(network, dataset.info.input_size)


def embed_data(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
    sharing: Sequence[Recipe] = (),
) -> Data:
    """A recipe's data as embeddings, with the classifier that is trained on them.

    Args:
        recipe: With ``tune=head``.
        data: Its images.
        device: Where the backbone runs.
        progress: Say how long it takes.
        stop: Whether to stop; asked after each batch of pictures.
        sharing: Recipes of other methods that use the same embeddings: the views that they look at are embedded, too.

    Returns:
        The same split of embeddings, standardized as :mod:`.head` says; ``head`` is the network to train.

    Raises:
        InputError: The backbone does not fit the data, or the embeddings cannot be kept.
        StoppedError: It was to stop; the same call goes on after what is embedded.
    """
    backbone, plain, by_policy = embed_views(recipe, data, device, progress, stop, sharing)
    pool = torch.tensor(data.split.unlabeled or data.split.labeled)
    mean, std = (value.float() for value in standardization(plain, pool))
    dataset = data.dataset
    embedded = EmbeddedImages(plain, dataset.train.labels, mean, std, by_policy, names=dataset.train.names)
    evaluation: ImageSource = known_classes(embedded, data.split.held_out)
    if recipe.fold == "test" or data.evaluation is dataset.validation:
        (tested,) = _embed_others(backbone, data.evaluation, dataset.info, progress, stop)
        evaluation = EmbeddedImages(tested, data.evaluation.labels, mean, std, names=data.evaluation.names)
    head = Head(_classifier(recipe, data.split, embedded, dataset.info.num_classes), mean, std, backbone.sha256)
    # Handed out standardized, as what comes out of `normalize` would be.
    info = replace(dataset.info, input_size=(backbone.width, 1, 1), mean=(0.0,), std=(1.0,))
    return replace(data, dataset=DataSet(info, embedded, dataset.test), evaluation=evaluation, head=head)


def on_split(recipe: Recipe, data: Data, split: Split) -> Data:
    """Embedded data with other labeled images and another pool, and the classifier that is trained on these.

    The embeddings stay standardized as they are: by all that were embedded, whichever of them is held out.

    Args:
        recipe: What is trained; its method may be another than the one the images were embedded for.
        data: What :func:`embed_data` gave.
        split: Of the same images.

    Raises:
        InputError: An option of the method is out of its range.
    """
    embedded = data.dataset.train
    assert isinstance(embedded, EmbeddedImages) and isinstance(data.head, Head)
    classifier = _classifier(recipe, split, embedded, data.dataset.info.num_classes)
    head = Head(classifier, embedded.mean, embedded.std, data.head.sha256)
    return replace(data, split=split, head=head, evaluation=known_classes(embedded, split.held_out))


def embed_views(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
    sharing: Sequence[Recipe] = (),
) -> tuple[Backbone, Tensor, dict[str, tuple[Tensor, ...]]]:
    """A recipe's backbone, the training images' plain embeddings, and those of each draw by policy."""
    with shared_errors():
        backbone = backbone_of(recipe, data.dataset, device)
        train = Pictures.of(data.dataset.train, data.dataset.info)
    draws = draws_of(recipe, sharing)
    asked = list(dict.fromkeys([PLAIN, *(view for drawn in draws.values() for view in drawn)]))
    found = dict(zip(asked, embed_pictures(backbone, train, asked, progress, stop=stop), strict=True))
    return backbone, found[PLAIN], {name: tuple(found[view] for view in drawn) for name, drawn in draws.items()}


def draws_of(recipe: Recipe, sharing: Sequence[Recipe] = ()) -> dict[str, list[CachedView]]:
    """The draws that are embedded of each image, by policy.

    Of the policies that the recipe's method, or one that shares them, has views of, and of the weak one, of which two
    draws tell the temperature.

    Args:
        recipe: With ``tune=head``.
        sharing: Recipes of other methods that use the same embeddings.

    Example:
        >>> from muscle_zoo import get_recipe
        >>> {name: len(draws) for name, draws in draws_of(get_recipe("test_resnet.uda_digits_10_frozen")).items()}
        {'weak': 4, 'strong': 4}
    """
    views = [view for r in (recipe, *sharing) for view in create_method(r.method, r.options).views.values()]
    count = recipe.embedding_views if views else min(recipe.embedding_views, 2)
    return {
        name: [CachedView(policy, draw) for draw in range(count)]
        for name, policy in (("weak", recipe.weak), ("strong", recipe.strong))
        if name == "weak" or name in {view.policy for view in views}
    }


@torch.inference_mode()
def evaluate_embedded(network: nn.Module, data: Data) -> Metrics:
    """Evaluates a whole network whose backbone was frozen: its own backbone's embeddings are kept for the next one.

    Runs of one backbone differ in their classifiers only, so that most of an evaluation is done once for all of them.
    """
    backbone = split_network(network, data.dataset.info.input_size)
    (plain,) = _embed_others(backbone, data.evaluation, data.dataset.info, False)
    return summarize(count(logits_of(backbone, plain), data.evaluation.labels))


@torch.inference_mode()
def logits_by_view(network: nn.Module, recipe: Recipe, data: Data, positions: Tensor) -> dict[str, Tensor]:
    """Logits ``(n, C)`` of cached views of some training images, by what :func:`calibrate_logits` calls them."""
    device = next(network.parameters()).device
    _, plain, draws = embed_views(recipe, data, device)
    views = {"clean": plain, "weak": draws["weak"][0], "weak again": draws["weak"][1]}
    backbone = split_network(network, data.dataset.info.input_size)
    return {view: logits_of(backbone, embeddings[positions]) for view, embeddings in views.items()}


def logits_of(backbone: Backbone, embeddings: Tensor) -> Tensor:
    """Logits ``(n, C)`` of embeddings, float32, on the CPU."""
    layer = backbone.classifier
    assert layer is not None
    weight, bias = layer.weight.flatten(1).cpu(), None if layer.bias is None else layer.bias.cpu()
    return F.linear(embeddings.float(), weight, bias)


def _classifier(recipe: Recipe, split: Split, embedded: EmbeddedImages, classes: int) -> nn.Module:
    """The classifier before the first step; of a method that takes none, the one it makes."""
    labeled, pool = torch.tensor(split.labeled), torch.tensor(split.unlabeled or split.labeled)
    (features,) = (part.flatten(1) for part in embedded.batches([labeled]))
    labels = embedded.labels[labeled]
    torch.manual_seed(recipe.seed)  # for what a classifier draws
    if takes_steps(recipe.method):
        return first_classifier(recipe.classifier, features, labels, classes)
    (unlabeled,) = (part.flatten(1) for part in embedded.batches([pool]))
    classifier = create_method(recipe.method, recipe.options).fit(features, labels, unlabeled, classes)
    assert classifier is not None, f"{recipe.method} takes no steps and makes no classifier"
    return classifier


def _embed_others(
    backbone: Backbone,
    images: ImageSource,
    info: DataSetInfo,
    progress: bool,
    stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """The plain embeddings of images other than the training images."""
    with shared_errors():
        pictures = Pictures.of(images, info)
    return embed_pictures(backbone, pictures, (PLAIN,), progress, stop=stop)


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
    classifier = linear_layer(weights["classifier.weight"], weights["classifier.bias"])
    head = Head(classifier, weights["mean"], weights["std"], backbone.sha256)
    head.load_state_dict(weights)
    assert backbone.classifier is not None
    head.fold_into(backbone.classifier)
    return backbone.network
