"""What the Hugging Face Hub's client raises, in one line that says what to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DownloadError, MuscleZooError, WeightsError, one_line

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_CLIENT = ("huggingface_hub", "hf_xet", "httpx", "httpx2", "httpcore", "httpcore2")  # packages it consists of
_BY_STATUS = {
    401: "there is no token or it is wrong; run `hf auth login`, or set HF_TOKEN",
    403: "the token may not do this; give one that may write to this namespace",
    412: "somebody else changed the repo meanwhile; run the same command again",
    413: "a file is larger than the Hub takes",
    429: "the Hub asks for a pause (too many requests); wait some minutes and run the same command again",
}
_READING_403 = (
    "the Hub does not let this token read it; ask for access on the repo's page, or give HF_TOKEN one that may read it"
)


@contextmanager
def hub_errors(what: str, kind: type[MuscleZooError] = DownloadError) -> Iterator[None]:
    """Turns what the client, the network and the disk raise into one of this package's errors.

    A programming error, ours or the client's, passes through: "run the same command again" would hide it.

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
    except Exception as error:  # the client's errors have no common base, so they are told apart below
        if not _is_from_outside(error):
            raise
        wrong_name, text = explain(error, reading=kind is DownloadError)
        raise (WeightsError if wrong_name else kind)(f"{what}: {text}") from error


def _is_from_outside(error: Exception) -> bool:
    """Whether the client, the network or the disk raised an error on purpose."""
    if isinstance(error, (OSError, json.JSONDecodeError)):  # the latter: a proxy answered with a page of its own
        return True
    if type(error) is RuntimeError:  # hf-xet's only error, and what the client raises when an upload fails
        return True
    if type(error) is ValueError:  # the client raises it for answers that it does not understand; we may by mistake
        return _is_refused_card(error) or _is_raised_by_client(error)
    return any(base.__module__.partition(".")[0] in _CLIENT for base in type(error).__mro__)


def _is_raised_by_client(error: Exception) -> bool:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals["__name__"].partition(".")[0] in _CLIENT


def _is_refused_card(error: Exception) -> bool:
    return isinstance(error, ValueError) and "README.md" in str(error)


def explain(error: Exception, reading: bool = False) -> tuple[bool, str]:
    """Why a call to the Hub failed, and the remedy.

    Args:
        error: What was raised.
        reading: Whether something was read from the Hub, rather than written to it.

    Returns:
        Whether the name was wrong (rather than the network, the token or the disk), and one line.
    """
    from huggingface_hub import errors

    if type(error) is ValueError and isinstance(error.__cause__, Exception):  # a forced download wraps what went wrong
        error = error.__cause__
    # An upload's error and a file that is neither there nor in the cache have the Hub's answer as their cause.
    answered = error if hasattr(error, "response") else error.__cause__
    status = getattr(getattr(answered, "response", None), "status_code", None)
    names = {
        errors.GatedRepoError: "the repo is gated; ask for access on its page, and run `hf auth login` or set HF_TOKEN",
        errors.RepositoryNotFoundError: "there is no such repo, or it is private; check the name, and run `hf auth "
        "login` or set HF_TOKEN if it is private",
        errors.RevisionNotFoundError: "there is no such revision; give a branch, a tag or a commit of the repo",
        errors.RemoteEntryNotFoundError: "the repo has no such file; give a repo that muscle_zoo published",
        errors.HFValidationError: "that is not a repo's name; write hf-hub:ORG/NAME",
    }
    for kind, text in names.items():  # the first that fits: a gated repo's error is a kind of the next one
        if isinstance(error, kind):
            return True, text
    if isinstance(error, errors.LocalTokenNotFoundError):
        return False, _BY_STATUS[401]
    if isinstance(error, errors.LocalEntryNotFoundError) and status is None:
        return False, f"it is not in the cache, and {_unreachable(error)}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return False, _unreachable(error)
    if status is not None:
        return False, _READING_403 if reading and status == 403 else _of_status(status, error)
    if _is_refused_card(error):
        return True, f"the Hub refuses the card ({one_line(error)}); run `muscle-zoo cards render`"
    return False, _of_disk(error) or (
        f"the connection failed ({type(error).__name__}: {one_line(error)}); run the same command again"
    )


def _of_status(status: int, error: Exception) -> str:
    """The Hub answered, but not with what was asked for."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return f"the Hub has a problem of its own (status {status}); run the same command again later"
    return f"the Hub refused (status {status}: {one_line(error)})"


def _of_disk(error: Exception) -> str | None:
    """What is wrong with a file of this machine; None if it is none's fault."""
    if getattr(error, "errno", None) in _NO_SPACE or "No space left on device" in str(error):  # hf-xet's has no number
        return "no space left on the disk; free some, or set HF_HOME to a folder on another one"
    if isinstance(error, OSError) and "onsistency check" in str(error):
        return "the download is incomplete; run the same command again"
    # A connection's error has no file's name.
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.filename is not None):
        return f"{one_line(error)}; check the path and its permissions (HF_HOME says where downloads are kept)"
    return None


def _unreachable(error: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; unset it to go to the Hub"
    cause = error.__cause__ or error.__context__
    why = f" ({type(cause).__name__}: {one_line(cause)})" if cause is not None else ""
    return f"the Hub cannot be reached{why}; check the network and run the same command again"
