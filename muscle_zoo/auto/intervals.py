"""How sure the figures of a cross-validation are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

DRAWS = 2000  # of the bootstrap
_NORMAL = 1.959964  # of which 95 % lies within


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n independent pictures (Wilson 1927); it holds for few pictures and shares near 1.

    scipy's takes counts; a mean over repeats is a share of pictures that need be no whole number of them.
    Of a cross-validation n is the number of pictures, however often they were divided: repeats do not make more of
    them. What the draw of the training pictures adds is not in it.

    Example:
        >>> [round(bound, 3) for bound in wilson(0.9, 10)]
        [0.596, 0.982]
    """
    z2 = _NORMAL**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _NORMAL / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def corrected_half_width(differences: Sequence[float], folds: int) -> float:
    """Half of the 95 % interval of a mean difference over the folds of a repeated cross-validation.

    Folds share most of their training pictures, so that their differences are not independent, and the plain t interval
    is too narrow. After Nadeau and Bengio (2003, "Inference for the Generalization Error"), for repeated
    folds as by Bouckaert and Frank (2004), the variance is ``(1 / J + n_test / n_train) s^2`` with J differences, and
    the t distribution has J - 1 degrees of freedom.

    Args:
        differences: One of each fold of each repeat, paired: two methods, the same pictures. Two or more.
        folds: Of a repeat: ``n_test / n_train`` is ``1 / (folds - 1)``.

    Example:
        >>> round(corrected_half_width([0.1, 0.2, 0.0, 0.1], folds=2), 3)  # plain: 0.130
        0.291
    """
    count = len(differences)
    scale = math.sqrt(1 / count + 1 / (folds - 1))
    return float(student.ppf(0.975, count - 1)) * scale * statistics.stdev(differences)


def optimism(hits: np.ndarray, seed: int, handicaps: Sequence[float] = ()) -> float:
    """By how much the accuracy of the best of several methods flatters it, for it was the best by chance, too.

    Tsamardinos, Greasidou and Borboudakis (2018, "Bootstrapping the out-of-sample predictions for efficient and
    accurate cross-validation", BBC-CV): of pictures drawn with replacement the best method is chosen, and looked at on
    those that were not drawn; what it loses on average is the optimism.

    Args:
        hits: ``(methods, n)``: of each method how often it got each held-out picture right, 0 to 1.
        seed: Draws the pictures.
        handicaps: By how much each method must be better to be chosen, ``methods`` of them; none by default. Of equal
            ones the first is chosen.

    Returns:
        At least 0; 0 for a single method, or too few pictures.

    Example:
        >>> equal = np.random.default_rng(0).integers(0, 2, (6, 40)).astype(float)
        >>> optimism(equal, seed=0) > 0.05, optimism(equal[:1], seed=0)
        (True, 0.0)
    """
    methods, n = hits.shape
    if methods < 2 or n < 2:
        return 0.0
    less = np.asarray(handicaps if len(handicaps) else [0.0] * methods)
    generator = np.random.default_rng(seed)
    outside = []
    for _ in range(DRAWS):
        drawn = generator.integers(0, n, n)
        left = np.ones(n, dtype=bool)
        left[drawn] = False
        if left.any():
            # Less what all lose or win by the draw: the pictures left are others than those of the whole.
            best = (hits[:, drawn].mean(axis=1) - less).argmax()
            outside.append(hits[best, left].mean() - hits[:, left].mean())
    means = hits.mean(axis=1)
    return max(0.0, float(means[(means - less).argmax()] - means.mean() - np.mean(outside)))
