"""Embeds pictures: runs a frozen backbone over them once, and keeps what it gives.

The cache has a file for each set of images, backbone and draw. Files that are there are used; the missing ones are made
in one pass over the pictures, which goes on where it was killed. Several processes share the pictures, batch by batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from ..data import DataSetInfo, ImageSource, normalize
from ..data.augment import parse_policy
from ..data.embedded import cached_random_numbers, fingerprint
from ..data.machine import free_memory
from ..errors import InputError, StoppedError
from .backbone import Backbone
from .collectives import shared_errors
from .embedding_cache import EmbeddingFile, EmbeddingWriter, cache_folder
from .embedding_progress import EmbeddingProgress
from .folder_lock import FolderLock

MOST = {"cpu": 256, "cuda": 1024}  # images in a batch
_NUMBERS = {"cpu": 2_500_000, "cuda": 50_000_000}  # numbers in a batch: small ones fit into a processor's cache
_ACTIVATIONS = 64  # numbers that a network holds at a time for each one of its input, of all that we know the most
KEEP_EVERY = 10.0  # seconds of work that a kill costs at most
_POLL = 1.0  # seconds


class CachedView(NamedTuple):
    """What of the images is embedded: a draw of a policy. ``none`` is the plain image."""

    policy: str
    draw: int = 0


PLAIN = CachedView("none")


@dataclass(frozen=True)
class Pictures:
    """Images that are to be embedded, and what their embeddings depend on.

    Attributes:
        images: The images.
        info: Their size, and what normalizes them.
        sha256: What tells them from others, see :func:`fingerprint`.
    """

    images: ImageSource
    info: DataSetInfo
    sha256: str

    @classmethod
    def of(cls, images: ImageSource, info: DataSetInfo) -> Pictures:
        """Images with their fingerprint."""
        return cls(images, info, fingerprint(images))


def embedding_file(backbone: Backbone, pictures: Pictures, view: CachedView) -> EmbeddingFile:
    """The cache's file for a view of some pictures. Everything that its content depends on is in its key."""
    key = {
        "arch": backbone.arch,
        "weights_sha256": backbone.sha256,
        "pooling": backbone.pooling,
        "images_sha256": pictures.sha256,
        "input_size": list(pictures.info.input_size),
        "mean": list(pictures.info.mean),
        "std": list(pictures.info.std),
        "policy": view.policy,
        "draw": view.draw,
        "compute": "float32",  # as it stands in the keys of all files that there are
    }
    # Plain embeddings are what is reported on, handed out and begun from: they keep all their digits.
    dtype = torch.float32 if view == PLAIN else torch.float16
    return EmbeddingFile.in_cache({**key, "dtype": str(dtype)}, len(pictures.images), backbone.width, dtype)


def embed_pictures(
    backbone: Backbone,
    pictures: Pictures,
    views: Sequence[CachedView] = (PLAIN,),
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """The embeddings of views of pictures, from the cache, or made and put there.

    Args:
        backbone: On the device that is to compute.
        pictures: What is embedded.
        views: Which draws.
        progress: Say how much there is to do, and how long it takes.
        stop: Whether to stop; asked after each batch.

    Returns:
        For each view ``(N, D)``, mapped into memory.

    Raises:
        InputError: The cache's folder cannot be written, or its disk is full; nothing half-written is left.
        TrainingError: A picture cannot be read.
        StoppedError: It was to stop; the same call goes on after what is embedded.
    """
    files = {view: embedding_file(backbone, pictures, view) for view in views}
    state = PartialState()
    if _missing(files):
        with ExitStack() as stack:
            with shared_errors():  # one process of each machine writes: those of a machine have one disk
                if state.is_local_main_process:
                    stack.enter_context(_cache_of_one_process(stop))
            if missing := _missing(files):
                _fill(backbone, pictures, {view: files[view] for view in missing}, progress, stop)
    embeddings = [files[view].read() for view in views]
    with shared_errors():
        if lost := [view for view, there in zip(views, embeddings, strict=True) if there is None]:
            raise InputError(f"{files[lost[0]].path} is gone as soon as it was written; give another MUSCLE_ZOO_CACHE")
    return [there for there in embeddings if there is not None]


def _missing(files: dict[CachedView, EmbeddingFile]) -> list[CachedView]:
    """Views that some machine's cache does not have."""
    state = PartialState()
    own = [view for view, file in files.items() if state.is_local_main_process and file.read() is None]
    if state.num_processes == 1:
        return own
    anywhere = {view for views in gather_object([own]) for view in views}
    return [view for view in files if view in anywhere]


@contextmanager
def _cache_of_one_process(stop: Callable[[], bool]) -> Iterator[None]:
    """Waits until no other process writes into the cache, and keeps others out."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        told = False
        while not lock.acquire():
            if not told:
                print(f"{folder} is being written by another process; waiting for it", flush=True)
            told = True
            if stop():
                raise StoppedError("stopped while another process was embedding")
            time.sleep(_POLL)
    except OSError as error:
        raise InputError(f"{folder} cannot be used ({error.strerror}); say another folder (MUSCLE_ZOO_CACHE)") from None
    try:
        yield
    finally:
        lock.release()


def _fill(
    backbone: Backbone,
    pictures: Pictures,
    files: dict[CachedView, EmbeddingFile],
    progress: bool,
    stop: Callable[[], bool],
) -> None:
    """Makes files in one pass over the pictures."""
    state = PartialState()
    writers: dict[CachedView, EmbeddingWriter] = {}
    size = batch_size(pictures.info, next(backbone.network.parameters()).device)
    try:
        with shared_errors():
            if state.is_local_main_process:
                for view, file in files.items():
                    if file.read() is None:
                        writers[view] = EmbeddingWriter(file)
        begun = min((rows for rows in gather_object([writer.rows for writer in writers.values()])), default=0)
        begun -= begun % size
        for writer in writers.values():
            writer.rewind(begun)
        told = EmbeddingProgress(backbone.arch, pictures.info, len(pictures.images), len(files), begun, progress)
        with told:
            _write(backbone, pictures, list(files), writers, begun, size, told, stop)
        with shared_errors():  # after it the others find the files, too
            for writer in writers.values():
                writer.finish()
    except InputError:  # the disk is full: what is half-written would keep it so
        for writer in writers.values():
            writer.discard()
        raise
    except (KeyboardInterrupt, StoppedError):
        for writer in writers.values():
            writer.keep()
        raise
    finally:
        for writer in writers.values():
            writer.close()


def _write(
    backbone: Backbone,
    pictures: Pictures,
    views: Sequence[CachedView],
    writers: dict[CachedView, EmbeddingWriter],
    begun: int,
    size: int,
    progress: EmbeddingProgress,
    stop: Callable[[], bool],
) -> None:
    """Embeds the pictures from a position on, in rounds: each process a batch."""
    state = PartialState()
    batches = torch.arange(begun, len(pictures.images)).split(size) if begun < len(pictures.images) else ()
    own = batches[state.process_index :: state.num_processes]
    decoded = pictures.images.batches(own)
    kept = time.monotonic()
    for first in range(0, len(batches), state.num_processes):
        mine = first + state.process_index
        embedded: list[Tensor] = []
        with shared_errors():
            if mine < len(batches):
                embedded = embed_batch(backbone, next(decoded), pictures.info, views, int(batches[mine][0]))
        rows = [len(batch) for batch in batches[first : first + state.num_processes]]
        everybodys = _everybodys(embedded, rows, len(views), size, backbone)
        with shared_errors():
            for view, writer in writers.items():
                for batch in everybodys:
                    writer.append(batch[views.index(view)])
            if time.monotonic() - kept > KEEP_EVERY:
                for writer in writers.values():
                    writer.keep()
                kept = time.monotonic()
        progress.done(sum(rows))
        if first + state.num_processes < len(batches) and any(gather_object([stop()])):
            done = begun + size * (first + state.num_processes)
            raise StoppedError(f"stopped after embedding {done:,} of {len(pictures.images):,} pictures")


def _everybodys(
    own: list[Tensor], rows: Sequence[int], views: int, size: int, backbone: Backbone
) -> Sequence[Sequence[Tensor]]:
    """The embeddings of a round, batch after batch, on every process."""
    state = PartialState()
    if state.num_processes == 1:
        return [own]
    device = next(backbone.network.parameters()).device
    padded = torch.zeros(views, size, backbone.width)
    for number, embeddings in enumerate(own):
        padded[number, : len(embeddings)] = embeddings
    gathered = [torch.empty_like(padded, device=device) for _ in range(state.num_processes)]
    torch.distributed.all_gather(gathered, padded.to(device))
    return [batch.cpu()[:, :n].unbind() for batch, n in zip(gathered, rows, strict=False)]


@torch.inference_mode()
def embed_batch(
    backbone: Backbone, images: Tensor, info: DataSetInfo, views: Sequence[CachedView], start: int
) -> list[Tensor]:
    """Embeddings ``(n, D)`` float32, on the CPU, of each view of a batch of images whose first is at a position.

    On every machine in float32: a choice of what is faster there and then would be another one the next time, and
    embeddings that are in the cache already, for hours of work, would not be found.
    """
    device = next(backbone.network.parameters()).device
    images = images.to(device, non_blocking=True)
    embedded = []
    for view in views:
        policy = parse_policy("policy", view.policy)
        numbers = cached_random_numbers(view.policy, view.draw, start, start + len(images), policy.num_random)
        inputs = normalize(policy(images, numbers), info).contiguous(memory_format=torch.channels_last)
        embedded.append(backbone.embed(inputs).float().cpu())
    return embedded


def batch_size(info: DataSetInfo, device: torch.device) -> int:
    """Images in a batch: as many as memory allows, and no more than make it faster."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    numbers = math.prod(info.input_size)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    by_memory = free // 4 // (4 * _ACTIVATIONS * numbers)
    return int(max(1, min(MOST[kind], _NUMBERS[kind] // numbers, by_memory)))
