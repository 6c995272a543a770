"""What the Hugging Face Hub's client raises, in one line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DownloadError, MuscleZooError, WeightsError, one_line

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_BY_STATUS = {
    401: "there is no token or it is wrong; run `hf auth login`, or set HF_TOKEN",
    403: "the token may not do this; give one that may write to this namespace",
    412: "somebody else changed the repo meanwhile; run the same command again",
    413: "a file is larger than the Hub takes",
    429: "the Hub asks for a pause (too many requests); wait some minutes and run the same command again",
}


@contextmanager
def hub_errors(what: str, kind: type[MuscleZooError] = DownloadError) -> Iterator[None]:
    """Turns whatever the client raises into one of this package's errors.

    Args:
        what: The model, and the file if it is about one.
        kind: The error for what is not the name's fault: the network, the token, the disk.

    Raises:
        WeightsError: There is no such repo, revision or file.
        MuscleZooError: Of the kind that was asked for, for everything else.
    """
    try:
        yield
    except MuscleZooError:
        raise
    except Exception as error:  # the client's errors have no common base: httpx's, OSError's, its own
        wrong_name, text = reason(error)
        raise (WeightsError if wrong_name else kind)(f"{what}: {text}") from error


def reason(error: Exception) -> tuple[bool, str]:
    """Why a call to the Hub failed, and the remedy.

    Returns:
        Whether the name was wrong (rather than the network, the token or the disk), and one line.
    """
    from huggingface_hub import errors

    # An upload's error and a file that is neither there nor in the cache have the Hub's answer as their cause.
    answered = error if hasattr(error, "response") else error.__cause__
    status = getattr(getattr(answered, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return False, _BY_STATUS[401]
    if isinstance(error, errors.LocalEntryNotFoundError) and status is None:
        return False, f"it is not in the cache, and {_unreachable(error)}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return False, _unreachable(error)
    if isinstance(error, errors.GatedRepoError):
        return True, "the repo is gated; ask for access on its page, and run `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return True, (
            "there is no such repo, or it is private; check the name, and run `hf auth login` or set HF_TOKEN if it "
            "is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return True, "there is no such revision; give a branch, a tag or a commit of the repo"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return True, "the repo has no such file; give a repo that muscle_zoo published"
    if isinstance(error, errors.HFValidationError):
        return True, "that is not a repo's name; write hf-hub:ORG/NAME"
    if status in _BY_STATUS:
        return False, _BY_STATUS[status]
    if status is not None and status >= 500:
        return False, f"the Hub has a problem of its own (status {status}); run the same command again later"
    if status is not None:
        return False, f"the Hub refused (status {status}: {one_line(error)})"
    full = isinstance(error, OSError) and error.errno in _NO_SPACE
    if full or "No space left on device" in str(error):  # hf-xet's errors have no number
        return False, "no space left on the disk; free some, or set HF_HOME to a folder on another one"
    if isinstance(error, OSError) and "onsistency check" in str(error):
        return False, "the download is incomplete; run the same command again"
    if isinstance(error, ValueError) and "README.md" in str(error):
        return True, f"the Hub refuses the card ({one_line(error)}); run `muscle-zoo cards render`"
    if isinstance(error, PermissionError):
        return False, f"{one_line(error)}; set HF_HOME to a folder that may be written to"
    return False, f"the connection failed ({type(error).__name__}: {one_line(error)}); run the same command again"


def _unreachable(error: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; unset it to go to the Hub"
    cause = error.__cause__ or error.__context__
    why = f" ({type(cause).__name__}: {one_line(cause)})" if cause is not None else ""
    return f"the Hub cannot be reached{why}; check the network and run the same command again"
