"""Logistic regression on embeddings: what people do with few labels, and where our classifiers start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Method, RunContext, check_at_least

C = 10.0  # inverse strength of the penalty, for features of mean norm 1
MOST_STEPS = 1000  # of L-BFGS


class Logistic(Method):
    """Logistic regression on the labeled images' plain embeddings, the linear probe: the control of all on embeddings.

    It takes no steps and looks at no view and no unlabeled image. ``supervised`` begins with it.

    Args:
        c: Weight of the labels, see :func:`logistic_regression`, at least 0.
        context: Of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> classifier = Logistic().fit(torch.eye(2), torch.tensor([1, 0]), torch.empty(0, 2), 2)
        >>> classifier(torch.tensor([[0.9, 0.1]])).argmax(dim=1).tolist()
        [1]
    """

    recipe: ClassVar[Mapping[str, int | str]] = {"steps": 0, "tune": "head"}

    def __init__(self, c: float = C, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("logistic.c", c)
        self.c = c

    def fit(self, labeled: Tensor, labels: Tensor, unlabeled: Tensor, num_classes: int) -> nn.Module:
        """Fits the classifier."""
        return linear_layer(*logistic_regression(labeled, labels, num_classes, self.c))


def logistic_regression(features: Tensor, labels: Tensor, num_classes: int, c: float = C) -> tuple[Tensor, Tensor]:
    """Fits a linear classifier: the minimum of ``|W|^2 / 2 + c sum_i cross_entropy(W x_i + b, y_i)``.

    It is scikit-learn's ``LogisticRegression(C=c)``, by scipy's L-BFGS in float64. Classes without a label get the
    weights that the penalty leaves them. The penalty does not see the bias.

    Args:
        features: ``(n, D)``.
        labels: ``(n,)`` int64 classes, or ``(n, C)`` float probabilities of classes, whose rows may sum to less than 1.
        num_classes: C.
        c: Weight of the labels.

    Returns:
        Weight ``(C, D)`` and bias ``(C,)``, float32.

    Example:
        >>> x = torch.tensor([[-1.0], [-0.5], [0.5], [1.0]])
        >>> weight, bias = logistic_regression(x, torch.tensor([0, 0, 1, 1]), 2)
        >>> (x @ weight.T + bias).argmax(dim=1).tolist()
        [0, 0, 1, 1]
    """
    from scipy.optimize import minimize  # slow to import

    x = features.detach().cpu().double()
    targets = F.one_hot(labels.cpu(), num_classes).double() if labels.ndim == 1 else labels.cpu().double()
    mass = targets.sum(dim=1, keepdim=True)
    width = x.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(flat).view(num_classes, width + 1)
        weight, bias = theta[:, :-1], theta[:, -1]
        log_p = torch.log_softmax(x @ weight.T + bias, dim=1)
        value = 0.5 * weight.square().sum() - c * (targets * log_p).sum()
        off = c * (log_p.exp() * mass - targets)
        gradient = torch.cat([weight + off.T @ x, off.sum(dim=0)[:, None]], dim=1)
        return float(value), gradient.flatten().numpy()

    start = np.zeros(num_classes * (width + 1))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS, "gtol": 1e-6})
    theta = torch.from_numpy(found.x).view(num_classes, width + 1).float()
    return theta[:, :-1].contiguous(), theta[:, -1].contiguous()


def linear_layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer of a weight and a bias; it draws nothing."""
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
