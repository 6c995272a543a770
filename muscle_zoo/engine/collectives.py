"""Several processes as one run: the first reads and decides, the others follow, and the error of one ends all.

The processes may be on several machines, and only the first one's disk has the run folder. With one process all of
this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from ..errors import InputError, MuscleZooError, TrainingError, one_line

T = TypeVar("T")
Parts = dict[str, dict[str, Tensor]]


@contextmanager
def shared_errors() -> Iterator[None]:
    """Ends every process when one of them raises, before the others wait for it in vain.

    All processes must come to its end, and nothing inside may wait for another process. The process that raised raises
    its own error, the others one that says the same.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    state = PartialState()
    if state.num_processes > 1:
        outcomes = gather_object([_as_message(own, state.process_index)])
        if own is None and (first := next((outcome for outcome in outcomes if outcome is not None), None)):
            kind, message = first
            raise kind(message)
    if own is not None:
        raise own


def _as_message(error: Exception | None, rank: int) -> tuple[type[MuscleZooError], str] | None:
    if error is None:
        return None
    if isinstance(error, MuscleZooError):
        return type(error), str(error)
    return TrainingError, one_line(f"process {rank} ended with {type(error).__name__}: {error}")


def on_main_process(work: Callable[[], T]) -> T:
    """What the first process gets from its work, on every process; if the work raises, all of them do.

    Args:
        work: Is called on the first process alone. What it returns travels by pickle, so it should be small.
    """
    state = PartialState()
    result: T | None = None
    with shared_errors():
        if state.is_main_process:
            result = work()
    return cast(T, broadcast_object_list([result])[0] if state.num_processes > 1 else result)


def share_tensors(parts: Parts, device: torch.device) -> Parts:
    """The first process's named tensors, on the CPU of every process.

    Args:
        parts: Those of the first process; the others' are not looked at.
        device: What the processes send from: a GPU, if that is what they train on.
    """
    state = PartialState()
    if state.num_processes == 1:
        return parts
    shapes = {part: {n: (t.shape, t.dtype) for n, t in tensors.items()} for part, tensors in parts.items()}
    shapes = broadcast_object_list([shapes])[0]
    shared: Parts = {part: {} for part in shapes}
    # One tensor after the other, for all at once would take the state's memory a second time, and on the device. They
    # travel as bytes: not every backend knows every type.
    for part, name, (shape, dtype) in [(p, name, kind) for p in shapes for name, kind in shapes[p].items()]:
        tensor = parts[part][name] if state.is_main_process else torch.empty(shape, dtype=dtype)
        content = tensor.contiguous().view(-1).view(torch.uint8).to(device)
        if len(content):
            torch.distributed.broadcast(content, src=0)
        shared[part][name] = tensor if state.is_main_process else content.cpu().view(dtype).view(shape)
    return shared


def require_the_same(facts: Mapping[str, Any]) -> None:
    """Refuses processes that were started for different things, or find different data on their machines.

    Args:
        facts: What must be the same everywhere, by the name that the error gives it.

    Raises:
        InputError: Something is not the same; every process raises it.
    """
    if PartialState().num_processes == 1:
        return
    everybodys = gather_object([dict(facts)])
    for rank, theirs in enumerate(everybodys):
        for name, value in theirs.items():
            if value != everybodys[0][name]:
                raise InputError(
                    f"process {rank} of {len(everybodys)} has another {name} than process 0; start the same command "
                    "everywhere, on the same data"
                )
