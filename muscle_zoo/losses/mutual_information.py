"""The mutual information term of MUSCLE."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError
from .distributed import all_reduce_sum


def joint_distribution(p: Tensor, q: Tensor) -> Tensor:
    """Joint distribution of the classes that two views are given, estimated from a batch.

    ``J = (1/n) sum_i p_i q_i^T``, symmetrized to ``P = (J + J^T) / 2`` and divided by its sum. With several processes
    the sum runs over the global batch, with gradients; only the C x C matrix travels.

    Args:
        p: Class probabilities of the first view, ``(n, C)``.
        q: Class probabilities of the second view, ``(n, C)``, row by row of the same images.

    Returns:
        ``(C, C)``, symmetric, sums to one; float32, or float64 when the inputs are.

    Raises:
        InputError: The shapes differ, are not ``(n, C)``, n is 0 or C is below 2.
    """
    if p.ndim != 2 or p.shape != q.shape:
        raise InputError(
            f"joint_distribution: p {tuple(p.shape)} and q {tuple(q.shape)} must both be (n, C): "
            "pass the two views of the same images"
        )
    if p.shape[0] < 1 or p.shape[1] < 2:
        raise InputError(f"joint_distribution: shape {tuple(p.shape)}: at least one image and two classes are needed")
    dtype = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    # Autocast would run this matrix product in half precision, where small cells of the joint vanish.
    with torch.autocast(p.device.type, enabled=False):
        joint = all_reduce_sum(p.to(dtype).T @ q.to(dtype))
        joint = joint + joint.T
        return joint / joint.sum()


def mutual_information(p: Tensor, q: Tensor, lambda_: float = 1.0, prior: Tensor | None = None) -> Tensor:
    """Mutual information, in nats, between the class predictions for two views of the same images.

    ``I = sum_ab P_ab (log P_ab - lambda log P_a. - lambda log P_.b)`` with ``P`` of :func:`joint_distribution`, after
    Invariant Information Clustering (Ji, Henriques, Vedaldi, ICCV 2019, arXiv 1807.06653).

    For ``lambda = 1`` it lies between 0 and ``ln C``, which confident, balanced and agreeing predictions reach;
    predictions that are all one class, or all uniform, give 0. The estimate from n images is biased upwards: for
    independent one-hot views by about ``C (C - 1) / 4n`` nats (C = 10: 0.41 measured at n = 64, 0.052 at n = 448;
    without symmetrizing about ``(C - 1)^2 / 2n``, 0.69 and 0.096). Symmetrizing gives independent views with different
    marginals a positive value: ln 2 when every p is one class and every q another.

    It is ``(2 lambda - 1) H(m) - H(b | a)``, with the marginal ``m``: the entropy draws the marginal to equal shares.
    With a ``prior`` it is ``-(2 lambda - 1) KL(m || prior) - H(b | a)``, which is at most 0, for confident, agreeing
    predictions with the prior's shares (lambda above 1/2). A uniform prior makes it smaller by ``(2 lambda - 1) ln C``
    and changes no gradient. The two marginals of the formula above must not each be compared with the prior: for the
    joint has entropy too, predictions would be at their best with shares in proportion to the prior's squares
    (lambda = 1), where a rare class is all but given up.

    Args:
        p: Class probabilities of the first view, ``(n, C)``.
        q: Class probabilities of the second view, ``(n, C)``.
        lambda_: Weight of the two marginal entropies; above 1 it favors balanced classes.
        prior: The shares of the classes, ``(C,)``, above 0, that are to be favored instead; by default equal ones.

    Returns:
        A scalar in nats, float32 or float64. Over several processes it is that of the global batch. Under gradient
        accumulation it is the micro-batch's.

    Raises:
        InputError: See :func:`joint_distribution`; or the prior is of another number of classes.
    """
    joint = joint_distribution(p, q)
    marginal = joint.sum(dim=1)  # the joint is symmetric: both marginals are this one
    information = _sum_x_log_x(joint) - 2.0 * lambda_ * _sum_x_log_x(marginal)
    if prior is None:
        return information
    if prior.shape != marginal.shape:
        raise InputError(f"prior {tuple(prior.shape)}: {len(marginal)} classes are predicted; give a share of each")
    return information + (2.0 * lambda_ - 1.0) * (marginal * prior.to(marginal).log()).sum()


def _sum_x_log_x(x: Tensor) -> Tensor:
    # 0 log 0 = 0, with a finite gradient: xlogy's is not.
    return (x * x.clamp_min(torch.finfo(x.dtype).tiny).log()).sum()


class MutualInformationLoss(nn.Module):
    """``L_MI = -I``: the term that MUSCLE adds to a supervised or semi-supervised objective.

    After Xie et al., MUSCLE (arXiv 2012.00150), reconstructed from its abstract; the hyper-parameters are this
    project's. Gradients flow through both views. Computed in float32 at least, whatever autocast says.

    Args:
        lambda_: Weight of the marginal entropies, see :func:`mutual_information`.
        temperature: Divides the logits of both views, above 0: below 1 the term is at its best with less sure
            predictions than otherwise.
        prior: The shares of the classes, ``(C,)``, see :func:`mutual_information`; by default equal ones, with the
            constant that this makes.

    Raises:
        InputError: The prior is no row of shares above 0 that sum to 1.

    Example:
        >>> mi = MutualInformationLoss()
        >>> loss = cross_entropy(model(x), y) + mi(model(weak(u)), model(strong(u)))  # doctest: +SKIP
    """

    prior: Tensor | None

    def __init__(self, lambda_: float = 1.0, temperature: float = 1.0, prior: Tensor | None = None) -> None:
        super().__init__()
        if prior is not None and not (prior.ndim == 1 and bool((prior > 0).all()) and abs(prior.sum() - 1) < 1e-3):
            raise InputError(f"prior={prior.tolist()}: these are no shares of classes; give some above 0 that sum to 1")
        self.lambda_, self.temperature = lambda_, temperature
        self.register_buffer("prior", prior, persistent=False)  # whoever makes the loss again knows it

    def forward(self, logits_a: Tensor, logits_b: Tensor) -> Tensor:
        """Computes the term.

        Args:
            logits_a: Logits for one view of n unlabeled images, ``(n, C)``.
            logits_b: Logits for another view of the same images, ``(n, C)``.

        Returns:
            A scalar, minus the mutual information in nats: at best ``-ln C``; with a prior at best 0.

        Raises:
            InputError: See :func:`mutual_information`.
        """
        dtype = torch.promote_types(torch.promote_types(logits_a.dtype, logits_b.dtype), torch.float32)
        p, q = ((logits.to(dtype) / self.temperature).softmax(dim=-1) for logits in (logits_a, logits_b))
        return -mutual_information(p, q, self.lambda_, self.prior)

    def extra_repr(self) -> str:
        """Shows the options in ``repr``."""
        return f"lambda_={self.lambda_}, temperature={self.temperature}"
