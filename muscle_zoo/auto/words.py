"""What a person reads while their pictures are looked at, compared and trained on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..data.listing import first_of, pictures_in_words
from ..engine.embedding_progress import in_words
from ..errors import one_line
from ..results.stats import of_few
from .findings import Comparison, Interval, MethodScore
from .plan import Plan
from .speed import Speed

WIDTH = 108
INDENT = 11
_TIED = "\0"  # a space at which no line is broken


def found_lines(plan: Plan) -> list[str]:
    """What was found."""
    found = plan.found
    rest = f"{found.unlabeled:,} without a label, {f'{sum(found.test):,}' if any(found.test) else 'none'} for the test"
    lines = [f"{found.data}: {pictures_in_words(sum(found.labeled))} of {len(plan.classes)} classes, {rest}"]
    counts = ", ".join(f"{one_line(name)}{_TIED}{n}" for name, n in zip(plan.classes, found.labeled, strict=True))
    lines += _row("labeled", counts if len(counts) < 5 * WIDTH else f"{counts[: 5 * WIDTH]} ...")
    if bad := found.unreadable:
        lines += _row("left out", f"{pictures_in_words(len(bad))} that cannot be read: {one_line(first_of(bad))}")
    for warning in plan.warnings:
        lines += _row("note", one_line(warning))
    return lines


def side_lines(why: str) -> list[str]:
    """Which side small pictures become, and why."""
    return _row("side", why)


def will_lines(plan: Plan, speed: Speed, out: Path, time_limit: float | None = None) -> list[str]:
    """What will be done, how long it takes, and where it goes."""
    found = plan.found
    pictures = sum(found.labeled) + found.unlabeled + sum(found.test)
    size = f"at {plan.side}x{plan.side} " if plan.side else ""
    steps = [
        f"embed {pictures:,} pictures {size}with {plan.control.init} "
        f"(about {in_words(speed.reading + speed.embedding)}, and no time at all what is in the cache)"
    ]
    if plan.folds:
        times = f"{plan.repeats} times " if plan.repeats > 1 else ""
        steps.append(
            f"compare {', '.join(plan.recipes)} on the labels, {times}{plan.folds} folds "
            f"(about {in_words(speed.comparing)})"
        )
    best = "the best" if plan.folds else plan.fallback
    test = ", and try it once on the test pictures" if any(found.test) else ""
    steps.append(f"train {best} on all labels{test} (about {in_words(speed.training)})")
    lines = [line for step in steps for line in _row("will", step)]
    lines += _row(
        "in all", f"about {in_words(speed.total)}, {_threads(speed)}; Ctrl-C is safe: the same command goes on"
    )
    if time_limit is not None and speed.total > time_limit:
        calls = math.ceil(speed.total / time_limit)
        lines += _row(
            "limit", f"{in_words(time_limit)} end it before that: the same command goes on, about {calls} times in all"
        )
    return lines + _row("into", str(out))


def _threads(speed: Speed) -> str:
    numbers = sorted({speed.embedding_threads, speed.step_threads})
    return f"with {' and '.join(map(str, numbers))} CPU thread{'' if numbers == [1] else 's'}, which was the fastest"


def comparison_lines(comparison: Comparison) -> list[str]:
    """The scores, and what follows from them."""
    if not comparison.methods:
        return _row("chosen", f"{comparison.chosen}: {comparison.why}")
    lines = [f"{'method':<20}{'right, % (95 %)':>24}{'balanced':>10}{'macro F1':>10}{'nll':>7}{'seconds':>9}"]
    lines += [_score_line(score) for score in comparison.methods]
    if few := of_few(comparison.judged, "held-out pictures"):
        lines += _row("judged", f"by the share{few}, which is few: one of them is {100 / comparison.judged:.0f} points")
    lines += ["", headline(comparison), *_row("chosen", f"{comparison.chosen}: {comparison.why}")]
    if (expected := comparison.expected) is not None:
        choice = f", less {100 * comparison.optimism:.1f} for having been chosen" if comparison.optimism else ""
        without = f", {comparison.asked}" if comparison.asked else ""
        lines += _row("expect", f"{percent(expected)} of new pictures right{choice}{without}")
    return lines


def _score_line(score: MethodScore) -> str:
    shares = f"{100 * score.balanced_accuracy:>10.1f}{100 * score.macro_f1:>10.1f}"
    note = "" if score.can_be_exported else "  (cannot be exported)"
    return f"{score.method:<20}{percent(score.accuracy):>24}{shares}{score.nll:>7.2f}{score.seconds:>9.1f}{note}"


def headline(comparison: Comparison) -> str:
    """The answer in one line: what the unlabeled pictures bring.

    Example:
        >>> from types import SimpleNamespace as Like
        >>> control = Like(accuracy=Interval(0.63))
        >>> gain, names = Interval(0.082, 0.041, 0.123), {"with_unlabeled": "muscle", "control": "logistic"}
        >>> headline(Like(gain=gain, score=lambda method: control, **names))
        'with the unlabeled pictures 71.2 %, without 63.0: +8.2 (+4.1 to +12.3)'
    """
    if comparison.gain is None:
        return "nothing was compared that learns from unlabeled pictures"
    without = comparison.score(comparison.control).accuracy.value
    gain = comparison.gain
    text = f"with the unlabeled pictures {100 * (without + gain.value):.1f} %, without {100 * without:.1f}: "
    text += f"{100 * gain.value:+.1f}"
    if gain.low is None or gain.high is None:
        return text
    return f"{text} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def percent(interval: Interval) -> str:
    """``71.2 (61.7 to 79.2)``: a share with its interval, in per cent."""
    text = f"{100 * interval.value:.1f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def result_lines(comparison: Comparison, out: Path) -> list[str]:
    """How the finished run may be used."""
    lines = []
    if comparison.test is not None:
        lines += _row("test", f"{percent(comparison.test)} % of {sum(comparison.found.test):,} test pictures right")
    lines += _row("run folder", str(out))
    lines += _row("use it", f"muscle-zoo predict {out} NEW_PICTURES")
    return lines


def _row(title: str, text: str) -> list[str]:
    """A title and what is to be said of it, below each other in lines that a terminal shows whole."""
    wrapper = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    wrapper.subsequent_indent = " " * INDENT
    return [line.replace(_TIED, " ") for line in wrapper.wrap(f"{title:<{INDENT}}{text}")]


def joined(lines: Sequence[str]) -> str:
    """Lines as one text."""
    return "\n".join(lines)
