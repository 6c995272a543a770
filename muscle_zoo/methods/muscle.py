"""MUSCLE: the mutual information term, added to any other method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError, suggest
from ..losses import MutualInformationLoss
from .base import LOGITS, Batch, Method, Nets, Outputs, PseudoLabels, RunContext, View, check_at_least, check_share

# Where the base has weak views of unlabeled images, and no strong one, MUSCLE's strong view goes through the network by
# itself. Normalized together with the base's views it would change the statistics that those are normalized with, and
# a base that compares outputs of different forwards (a teacher's, an adversarial image's) would learn the difference.
_BY_ITSELF = View("unlabeled", "strong", group=-1, still=True)
PAIRS = {"weak_strong": ("u_weak", "u_strong"), "weak_weak": ("u_weak", "u_weak_2")}
MARGINALS = ("uniform", "labels")


class Muscle(Method):
    """MUSCLE around any method (arXiv 2012.00150, reconstructed from its abstract).

    The loss is ``L_base + w(t) * L_MI``: ``L_MI`` is minus the mutual information between the predictions for two views
    of the unlabeled images, by default the weak and the strong one, in nats. Around ``Supervised`` it is MUSCLE as a
    stand-alone scheme. The hyper-parameters are this project's. With weight 0 the gradients equal the base's bit for
    bit on the same views.

    The mutual information is at its best with as many images of each class. With ``marginal=labels`` the term is at its
    best where the classes have the shares that they have among the labeled images: the marginal's entropy gives way to
    minus its divergence from these, see :func:`muscle_zoo.losses.mutual_information`. That is for labeled images which
    were drawn as the unlabeled ones were; where as many of each class were picked it changes no gradient. Each class
    counts one label more than it has (Laplace's rule), for few labels say little of the shares: with none the shares
    are equal, and a class without a label has a share that is small and not 0, which would forbid it.

    Logs what the base logs, ``mi``, the mutual information in nats, and ``mi_weight``, w(t); with ``marginal=labels``
    also ``marginal``, which the term adds to minus ``mi``: the cross-entropy between the marginal and these shares.

    Args:
        base: Any method.
        weight: Weight of the term, at least 0.
        lambda_: Weight of the marginal entropies inside the term, above 0; 1 is mutual information.
        start: Share of the steps before which w(t) is 0, 0 to 1: begun at once, the term makes clusters before the
            labels have named them.
        ramp: Share of the steps over which w(t) then rises linearly, 0 to 1; 0 for at once.
        end: Share of the steps after which w(t) is 0 again, above ``start``; 1 for never. In long runs a network that
            the term has made sure of its clusters no longer learns anew.
        temperature: Divides the logits inside the term, at least 0.001: below 1 it is content with less sure networks.
        views: Which pair of views it compares: ``weak_strong``, or ``weak_weak``, two draws of the weak one.
        marginal: Which shares of the classes the term favors: ``uniform``, or ``labels``, those of the labeled images,
            for which ``lambda_`` must be above 1/2.
        context: Steps of the run, and labels of each class.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("muscle_fixmatch", {"muscle": {"weight": 0.5}, "fixmatch": {"threshold": 0.9}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_strong']
    """

    def __init__(
        self,
        base: Method,
        weight: float = 1.0,
        lambda_: float = 1.0,
        start: float = 0.0,
        ramp: float = 0.0,
        end: float = 1.0,
        temperature: float = 1.0,
        views: str = "weak_strong",
        marginal: str = "uniform",
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("muscle.weight", weight)
        check_share("muscle.start", start, zero=True)
        check_share("muscle.ramp", ramp, zero=True)
        check_share("muscle.end", end)
        if end <= start < 1.0:
            raise InputError(f"muscle.end={end} is not after muscle.start={start}; give more, or muscle.weight=0")
        check_at_least("muscle.temperature", temperature, 1e-3)
        if views not in PAIRS:
            raise InputError(f"muscle.views={views} is unknown; {suggest(views, PAIRS)}")
        if lambda_ <= 0.0:
            raise InputError(f"muscle.lambda_={lambda_} is not above 0; 1 is mutual information")
        if marginal not in MARGINALS:
            raise InputError(f"muscle.marginal={marginal} is unknown; {suggest(marginal, MARGINALS)}")
        if marginal == "labels" and lambda_ <= 0.5:  # the divergence counts 2 lambda - 1 times
            raise InputError(f"muscle.marginal=labels: muscle.lambda_={lambda_} favors no shares; give more than 0.5")
        self.base = base
        self.context = context or RunContext()
        prior = label_shares(self.context.label_counts) if marginal == "labels" else None
        self.mutual_information = MutualInformationLoss(lambda_, temperature)
        self.term = self.mutual_information if prior is None else MutualInformationLoss(lambda_, temperature, prior)
        self.weight, self.start, self.ramp, self.end = weight, start, ramp, end
        self.pair = PAIRS[views]
        self.views = views_around(base.views, views)
        own = {name: dict.fromkeys([*base.needs.get(name, ()), LOGITS]) for name in self.pair}
        self.needs = {**base.needs, **{name: tuple(what) for name, what in own.items()}}

    def weight_at(self, step: int) -> float:
        """w(t) at a step, counted from 0."""
        begun = step + 1 - self.start * self.context.steps  # steps, the current one included
        if begun <= 0 or step >= self.end * self.context.steps:
            return 0.0
        ramp = self.ramp * self.context.steps
        return self.weight * (min(1.0, begun / ramp) if ramp else 1.0)

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The base's heads."""
        return self.base.parts(context)

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """What the base prepares."""
        return self.base.prepare(batch, model, teacher, step)

    def backward(self, terms: dict[str, Tensor], nets: Nets) -> None:
        """The base's way back, of what this adds too."""
        self.base.backward(terms, nets)

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels | None:
        """The base's pseudo-labels."""
        return self.base.pseudo_labels(outputs, batch)

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """The base's loss plus the weighted mutual information term."""
        terms = self.base.loss(outputs, batch, step)
        pair = [outputs[view] for view in self.pair]
        mi_loss = self.term(*pair)
        weight = self.weight_at(step)
        terms["loss"] = terms["loss"] + weight * mi_loss
        terms["mi"] = -mi_loss.detach()
        if self.term.prior is not None:
            terms["mi"] = -self.mutual_information(*(logits.detach() for logits in pair))
            terms["marginal"] = mi_loss.detach() + terms["mi"]
        terms["mi_weight"] = mi_loss.new_full((), weight)
        return terms


def label_shares(counts: Sequence[int]) -> Tensor:
    """The shares of the classes that labels speak for, ``(C,)``: each class counts one more than it has.

    Example:
        >>> label_shares([5, 0, 2]).tolist()
        [0.6000000238418579, 0.10000000149011612, 0.30000001192092896]
    """
    smoothed = torch.tensor(counts, dtype=torch.float32) + 1.0
    return smoothed / smoothed.sum()


def views_around(base: Mapping[str, View], pair: str = "weak_strong") -> dict[str, View]:
    """The views of MUSCLE around a base with these views, for one of :data:`PAIRS`.

    A base that has them too shares them: no image is augmented or sent through the network twice.
    """
    sees_unlabeled = any(view.source == "unlabeled" for view in base.values())
    second = _BY_ITSELF if sees_unlabeled else View("unlabeled", "strong")
    if pair == "weak_weak":
        second = second._replace(policy="weak", draw=1)
    own = dict(zip(PAIRS[pair], (View("unlabeled", "weak"), second), strict=True))
    return {**base, **{name: base.get(name, view) for name, view in own.items()}}
