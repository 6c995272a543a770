"""Data sets of the Hugging Face Hub as a user's own pictures: ``hf:ORG/NAME`` becomes files and a table, once.

What is downloaded lies in ``hub_pictures`` of the cache, a folder for each commit: the pictures as they were encoded,
and a table of path, label and split. It is read as any other table is, so every command that takes one takes these.
"""

from __future__ import annotations

import csv
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from ..errors import DownloadError, InputError, MuscleZooError, Notice, one_line, suggest
from ..files import cache_root
from .hub_columns import Columns, columns_of
from .part_names import LABELED, TEST, VALIDATION, part_of

PREFIX = "hf:"
_ADDRESS = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[^@?]+))?(?:@(?P<revision>[^?]+))?(?:\?(?P<columns>.*))?"
)
_FORM = "write hf:ORG/NAME, hf:ORG/NAME:CONFIG, hf:ORG/NAME@REVISION, or hf:ORG/NAME?label=COLUMN"


@dataclass(frozen=True)
class Address:
    """A data set of the Hub, as it is typed.

    Attributes:
        repo: ``ORG/NAME``.
        config: One of its configurations; empty for its only one.
        revision: A branch, tag or commit; empty for the newest.
        image: The column of pictures; empty to find it.
        label: The column of labels; empty to find it.
    """

    repo: str
    config: str = ""
    revision: str = ""
    image: str = ""
    label: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads an address.

        Raises:
            InputError: It is none.

        Example:
            >>> Address.parse("hf:org/birds@v1?label=species")
            Address(repo='org/birds', config='', revision='v1', image='', label='species')
        """
        match = _ADDRESS.fullmatch(text)
        columns = dict(parse_qsl((match and match["columns"]) or ""))
        if match is None or set(columns) - {"image", "label"}:
            raise InputError(f"--data {text} is no data set of the Hub; {_FORM}")
        return cls(match["repo"], match["config"] or "", match["revision"] or "", **columns)

    def __str__(self) -> str:
        return PREFIX + self.repo + (f":{self.config}" if self.config else "") + self._revision

    @property
    def _revision(self) -> str:
        return f"@{self.revision}" if self.revision else ""

    def folder(self, commit: str) -> str:
        """Name of the folder that a commit's pictures are kept in."""
        chosen = "".join(f"+{part}" for part in (self.config, self.image, self.label) if part)
        return f"{self.repo}{chosen}@{commit}".replace("/", "--")


def downloaded_pictures(text: str) -> Path:
    """The local folder or table of ``hf:ORG/NAME``, which is downloaded where it was not before.

    Raises:
        InputError: There is no such data set, it has no pictures, or the package ``datasets`` is missing.
        DownloadError: The Hub cannot be reached, or refuses it.
    """
    address = Address.parse(text)
    kept = cache_root() / "hub_pictures"
    with _hub_errors(address):
        try:
            commit = HfApi().dataset_info(address.repo, revision=address.revision or None).sha or ""
        except OfflineModeIsEnabled:
            return _kept_offline(address, kept)
        folder = kept / address.folder(commit)
        if not folder.exists():
            _download(address, commit, folder)
    return _table_in(folder)


def _table_in(folder: Path) -> Path:
    """The table of pictures; the folder itself where none has a label."""
    return next(iter(folder.glob("*.csv")), folder)


def _kept_offline(address: Address, kept: Path) -> Path:
    start = address.folder(address.revision if re.fullmatch(r"[0-9a-f]{7,40}", address.revision) else "")
    if (
        len(folders := [path for path in kept.glob("*@*") if path.name.startswith(start) and path.suffix != ".part"])
        > 0
    ):
        newest = max(folders, key=lambda path: path.stat().st_mtime)
        warnings.warn(f"{address}: offline (HF_HUB_OFFLINE), so {newest.name} of before is taken", Notice, stacklevel=5)
        return _table_in(newest)
    raise DownloadError(f"{address} was not downloaded before, and HF_HUB_OFFLINE is set; unset it")


@contextmanager
def _hub_errors(address: Address) -> Iterator[None]:
    """What the Hub's client and ``datasets`` raise, in one line that says what to do."""
    try:
        yield
    except (MuscleZooError, KeyboardInterrupt):
        raise
    except GatedRepoError:
        page = f"https://huggingface.co/datasets/{address.repo}"
        raise DownloadError(
            f"{address} is gated: ask for access on {page}, and run `hf auth login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"there is no data set {address} on the Hub, or it is private; check the name, and for a private one run "
            "`hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{address}: there is no revision {address.revision!r}; give a branch or tag") from None
    except Exception as error:
        if match := re.search(r"available configs: (\[.*?\])", str(error)):
            raise InputError(f"{address} has several configurations; {_FORM}, of {match[1]}") from None
        raise DownloadError(
            f"{address} cannot be read ({one_line(error)[:300]}); run the same command again"
        ) from error


def _download(address: Address, commit: str, folder: Path) -> None:
    """Writes the pictures of all splits and their table; what was interrupted is begun again."""
    if find_spec("datasets") is None:
        raise InputError(f'{address}: data sets of the Hub need a package: python -m pip install -e ".[datasets]"')
    datasets: Any = import_module("datasets")
    splits = datasets.load_dataset(address.repo, address.config or None, revision=commit)
    columns = columns_of(str(address), next(iter(splits.values())).features, address.image, address.label)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    rows: list[tuple[str, str, str]] = []
    strange: list[str] = []
    for name, split in splits.items():
        if part_of(name) is None:
            strange.append(name)
            continue
        rows += _write_split(part, name, split.cast_column(columns.image, datasets.Image(decode=False)), columns)
    _say(address, columns, strange, rows)
    if any(label for _, label, _ in rows):
        with (part / f"{address.repo.rpartition('/')[2]}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
    part.rename(folder)


def _write_split(part: Path, name: str, split: Any, columns: Columns) -> Iterator[tuple[str, str, str]]:
    """Writes the pictures of a split; path, label and split of each, but of test pictures without a label."""
    (part / name).mkdir()
    unlabeled = 0
    for number, row in enumerate(split):
        label = columns.label_of(row)
        if part_of(name) in (TEST, VALIDATION) and not label:
            unlabeled += 1
            continue
        picture = row[columns.image] or {}
        content = picture.get("bytes") or (Path(picture["path"]).read_bytes() if picture.get("path") else b"")
        suffix = Path(picture.get("path") or "").suffix or ".jpg"
        path = f"{name}/{number:07}{suffix}"
        (part / path).write_bytes(content)
        yield path, label, part_of(name) or LABELED
    if unlabeled:
        warnings.warn(f"{unlabeled} pictures of the split {name} have no label, and are left out", stacklevel=2)


def _say(address: Address, columns: Columns, strange: list[str], rows: list[tuple[str, str, str]]) -> None:
    """Says how the data set was understood."""
    if not rows:
        raise InputError(f"{address} has splits {', '.join(strange)} alone; {suggest(strange[0], ['train', 'test'])}")
    understood = f"pictures are {columns.image!r}" + (f", labels {columns.label!r}" if columns.label else ", no labels")
    warnings.warn(f"{address}: {len(rows):,} pictures; {understood}", Notice, stacklevel=6)
    if strange:
        warnings.warn(f"{address}: splits {', '.join(strange)} are not used", stacklevel=6)
