"""Where data sets are looked for, and how they are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .catalog import FOLDER


@dataclass(frozen=True)
class DataConfig:
    """Where data come from and how they are read. The images are the same whatever it says, if they are there.

    Attributes:
        root: Where data sets are; for ``folder`` the user's own folder or CSV. None: see :func:`data_root`.
        stream: True to read pictures from their files whenever they are needed, False to hold them in memory, None for
            memory if they take at most half of what is free.
        workers: Processes that read pictures.
        progress: Show progress on a terminal.
        download: Download what is not there and can be.
        strict: Of the user's own pictures: refuse what cannot be read or contradicts itself, rather than leave it out.
    """

    root: Path | None = None
    stream: bool | None = None
    workers: int = 0
    progress: bool = False
    download: bool = True
    strict: bool = False


def data_root(name: str, config: DataConfig) -> Path:
    """Where a data set is looked for.

    Args:
        name: A data set.
        config: Its ``root`` comes first.

    Returns:
        ``root`` (``--data``), else the environment variable MUSCLE_ZOO_DATA, else ``data``; of ``folder``, ``root``
        alone: the user's own pictures are nowhere by default.

    Raises:
        InputError: The set is ``folder`` and there is no root.
    """
    if name == FOLDER and config.root is None:
        raise InputError("dataset=folder: say which folder (--data my_data)")
    return Path(config.root or os.environ.get("MUSCLE_ZOO_DATA") or "data").expanduser()
