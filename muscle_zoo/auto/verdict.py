"""From predictions of held-out pictures to scores, a choice, and what may honestly be said of it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
from torch import Tensor

from .choices import CONTROL, can_be_exported, uses_unlabeled
from .compare import held_out
from .findings import Comparison, Interval, MethodScore, OutOfFold
from .intervals import corrected_half_width, optimism, wilson
from .plan import Plan


def judge(plan: Plan, said: OutOfFold, seconds: Mapping[str, float]) -> Comparison:
    """Scores the methods, chooses one, and says by how much the unlabeled pictures help.

    Of those that learn from unlabeled pictures and of those that do not, the best got most held-out pictures right, of
    equal ones that with the better likelihood; one that no network can hold is never chosen. The best of those that do
    is taken where its gain over the best of those that do not is above 0, corrected by what having chosen it of several
    flatters it by, :func:`muscle_zoo.auto.intervals.optimism`; else the other. Nothing is taken off the other's
    accuracy in the gain, so that a doubt counts against the unlabeled pictures.

    Args:
        plan: What was compared.
        said: What each method said.
        seconds: That each method took.
    """
    scores = tuple(score(method, said, seconds[method]) for method in plan.recipes)
    ranked = sorted((s for s in scores if s.can_be_exported), key=lambda s: (-s.accuracy.value, s.nll))
    without, others = ([s for s in ranked if s.uses_unlabeled is uses] for uses in (False, True))
    control, best = without[0], others[0] if others else None
    doubt = optimism(_hits(others, said), plan.control.seed) if others else 0.0
    gain = None if best is None else _gain(best, control, plan.folds, doubt)
    chosen = best if best is not None and gain is not None and gain.value > 0 else control
    # Chosen by the same rule: a method with unlabeled pictures must be better by more than the doubt.
    handicaps = [0.0] * len(without) + [doubt] * len(others)
    flattery = optimism(_hits([*without, *others], said), plan.control.seed, handicaps)
    expected, asked = _expectation(chosen.method, said, plan.listing.added, flattery)
    return Comparison(
        found=plan.found,
        classes=plan.classes,
        backbone=plan.control.init,
        seed=plan.control.seed,
        folds=plan.folds,
        repeats=plan.repeats,
        methods=scores,
        chosen=chosen.method,
        control=control.method,
        with_unlabeled=best.method if best else "",
        expected=expected,
        gain=gain,
        optimism=flattery,
        why=_why(chosen, control, best, gain),
        warnings=plan.warnings,
        seconds=sum(seconds.values()),
        gain_optimism=doubt,
        asked=asked,
    )


def without_comparison(plan: Plan) -> Comparison:
    """What stands in the place of a comparison where no class has two labels."""
    chosen = plan.fallback
    why = f"one label of each class: nothing can be held out to compare by, so it is {chosen}, the default"
    return Comparison(
        found=plan.found,
        classes=plan.classes,
        backbone=plan.control.init,
        seed=plan.control.seed,
        folds=0,
        repeats=0,
        methods=(),
        chosen=chosen,
        control=CONTROL,
        with_unlabeled=chosen if uses_unlabeled(chosen) else "",
        expected=None,
        gain=None,
        optimism=0.0,
        why=why,
        warnings=plan.warnings,
        seconds=0.0,
    )


def score(method: str, said: OutOfFold, seconds: float) -> MethodScore:
    """The score of a method, over the pictures that were held out.

    Accuracies are means over the repeats, in each of which every such picture is held out once.
    """
    rows = held_out(said.fold)
    labels = said.labels[rows]
    probabilities = said.probabilities[method][:, rows].double()
    rates = [_rates(p.argmax(dim=1), labels) for p in probabilities]
    right = probabilities.gather(2, labels.expand(len(probabilities), -1)[:, :, None])
    hits = hit_rates(method, said)
    return MethodScore(
        method=method,
        accuracy=_share(float(hits.mean()), len(hits)),
        balanced_accuracy=float(np.mean([recall for recall, _ in rates])),
        macro_f1=float(np.mean([f1 for _, f1 in rates])),
        nll=float(-right.clamp(min=1e-12).log().mean()),
        per_fold=tuple(fold_accuracies(method, said)),
        uses_unlabeled=uses_unlabeled(method),
        can_be_exported=can_be_exported(method),
        seconds=round(seconds, 3),
    )


def hit_rates(method: str, said: OutOfFold) -> np.ndarray:
    """Of each picture that was held out the share of the repeats in which a method got it right, ``(m,)``."""
    right: Tensor = said.probabilities[method].argmax(dim=2) == said.labels
    return right[:, held_out(said.fold)].double().mean(dim=0).numpy()


def _expectation(method: str, said: OutOfFold, added: Container[str], flattery: float) -> tuple[Interval, str]:
    """What to expect of new pictures, and in words what that leaves out.

    Labels that a table adds are those of pictures that were asked for, and `suggest` asks for hard ones: what is right
    of them says too little of new pictures. They count for the choice, and are learned from like the others.
    """
    names = [name for name, there in zip(said.names, held_out(said.fold).tolist(), strict=True) if there]
    hits, asked = hit_rates(method, said), np.array([name in added for name in names])
    if asked.all() or not asked.any():
        return _share(max(0.0, float(hits.mean()) - flattery), len(hits)), ""
    text = (
        f"by the {int((~asked).sum())} labels of before; of the {int(asked.sum())} that were added "
        f"{100 * hits[asked].mean():.1f} % are right, but those who ask for labels ask for hard ones"
    )
    return _share(max(0.0, float(hits[~asked].mean()) - flattery), int((~asked).sum())), text


def fold_accuracies(method: str, said: OutOfFold) -> list[float]:
    """A method's accuracy in each fold, repeat after repeat."""
    right = (said.probabilities[method].argmax(dim=2) == said.labels).double()
    return [
        float(right[repeat, held == fold].mean())
        for repeat, held in enumerate(said.fold)
        for fold in range(int(held.max()) + 1)
    ]


def _rates(guesses: Tensor, labels: Tensor) -> tuple[float, float]:
    """Balanced accuracy, and macro F1, over the classes that have pictures among these."""
    from sklearn.metrics import f1_score, recall_score  # slow to import

    true, said, there = labels.numpy(), guesses.numpy(), labels.unique().numpy()
    recall, f1 = (rate(true, said, labels=there, average="macro", zero_division=0) for rate in (recall_score, f1_score))
    return float(recall), float(f1)


def _share(value: float, n: int) -> Interval:
    return Interval(value, *wilson(value, n))


def _gain(best: MethodScore, control: MethodScore, folds: int, flattery: float) -> Interval:
    differences = [a - b for a, b in zip(best.per_fold, control.per_fold, strict=True)]
    half = corrected_half_width(differences, folds)
    # Of the same pictures as the accuracies: folds may differ by one in size.
    value = best.accuracy.value - control.accuracy.value - flattery
    return Interval(value, value - half, value + half)


def _why(chosen: MethodScore, control: MethodScore, best: MethodScore | None, gain: Interval | None) -> str:
    if best is None or gain is None:
        return f"it got {100 * chosen.accuracy.value:.1f} % of the held-out pictures right, the most of those compared"
    points = f"{100 * gain.value:+.1f} points"
    if chosen is control:
        return f"with the unlabeled pictures {best.method} gains {points}: they are not used"
    doubt = "" if gain.low is None or gain.low > 0 else "; that may be chance, for its interval holds 0"
    return f"{points} over {control.method}, the best without the unlabeled pictures{doubt}"


def _hits(scores: Sequence[MethodScore], said: OutOfFold) -> np.ndarray:
    return np.stack([hit_rates(s.method, said) for s in scores])
