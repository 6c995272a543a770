"""The errors this package raises on purpose. Each message is one line: the field, the value, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

# `train` alone sets an old run aside; a study's run folder may be given to it too.
START_OVER = "start over with `train --fresh` (in Python fresh=True)"


class ExitCode(IntEnum):
    """How a command ends. A launcher replaces these by its own; there, ``status.json`` tells."""

    DONE = 0
    FAILED = 1  # it ran, and a check, some items or the training failed
    WRONG_INPUT = 2  # one line says what to change
    STOPPED = 75  # before its end, with the state saved; sysexits.h calls it EX_TEMPFAIL: try again


class MuscleZooError(Exception):
    """Base of every error raised on purpose."""


class InputError(MuscleZooError, ValueError):
    """What the caller asked for is wrong: a name, an option, a file. The command line exits with 2."""


class WeightsError(InputError):
    """Weights are missing, damaged, or are not the ones that were promised."""


class MissingDataError(InputError):
    """A data set is not on disk and cannot be, or was not to be, downloaded."""


class HubError(MuscleZooError, RuntimeError):
    """The Hugging Face Hub refused, or could not be reached. The command line exits with 1."""


class DownloadError(HubError):
    """A file could not be downloaded: the network, or what lies behind it. The command line exits with 1."""


class TrainingError(MuscleZooError, RuntimeError):
    """Training ran and could not go on. The command line exits with 1."""


class StoppedError(MuscleZooError):
    """It was told to stop before its end; what was done is kept. A run takes it for its end."""


class CalibrationError(MuscleZooError, RuntimeError):
    """A network's probabilities cannot be calibrated; its weights are what they were. The command line exits with 1."""


class Notice(UserWarning):
    """Something worth saying that is no fault: how a file was understood, what was left out on purpose."""


def suggest(word: str, known: Iterable[str], n: int = 3) -> str:
    """Says which known names are close to a wrong one.

    Args:
        word: What was typed.
        known: The valid names.
        n: How many to offer at most.

    Returns:
        ``"did you mean 'a', 'b'?"``, or the list of valid names when none is close and there are few.
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=n, cutoff=0.5)
    if close:
        return "did you mean " + ", ".join(repr(name) for name in close) + "?"
    shown = ", ".join(known[:12]) or "none"
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"


def one_line(message: object) -> str:
    """A message, or an error's, in one line, short and printable: it may quote what a file says."""
    line = " ".join(str(message).split())[:500]
    return "".join(letter if letter.isprintable() else "?" for letter in line)
