"""What may be typed for one's own pictures beside a folder or table: an address, of which local files are made."""

from __future__ import annotations

from pathlib import Path

from . import hub_pictures, shard_names
from .shard_pictures import indexed_shards


def local_pictures(path: Path) -> Path:
    """The local folder or table of what was given for pictures.

    Args:
        path: It, as it is; or ``hf:ORG/NAME``, a data set of the Hub, which is downloaded; or ``wds:PATTERN``, shards
            of WebDataset, which are indexed.

    Raises:
        InputError: There is no such data set or shard, or it cannot be used.
        DownloadError: The Hub cannot be reached, or refuses it.

    Example:
        >>> local_pictures(Path("my_pictures"))
        PosixPath('my_pictures')
    """
    text = str(path)
    if text.startswith(hub_pictures.PREFIX):
        return hub_pictures.downloaded_pictures(text)
    if text.startswith(shard_names.PREFIX):
        return indexed_shards(text)
    return path


def is_address(text: str) -> bool:
    """Whether a text is such an address, right or wrong.

    Example:
        >>> is_address("wds:shards"), is_address("shards")
        (True, False)
    """
    return text.startswith((hub_pictures.PREFIX, shard_names.PREFIX))
