"""Files of a repo on the Hugging Face Hub, all of one commit; progress, cache and offline mode are the client's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import MuscleZooError
from .hub_errors import hub_errors

_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(where: str, repo: str, revision: str | None, files: Sequence[str], force: bool = False) -> Path:
    """Downloads files of a repo, unless they are in the cache.

    Args:
        where: The repo and revision as messages name them.
        repo: ``OWNER/NAME``.
        revision: A branch, a tag or a commit; None for the main branch.
        files: The files, by name; at least one.
        force: Download again what is in the cache.

    Returns:
        The folder of the client's cache that holds them. It is named by the commit.

    Raises:
        WeightsError: There is no such repo, revision or file.
        DownloadError: The Hub could not be reached.
    """
    from huggingface_hub import hf_hub_download

    first, *others = files
    with hub_errors(f"{where}, {first}"):
        folder = Path(hf_hub_download(repo, first, revision=revision, force_download=force)).parent
    for file in others:
        # A branch may move between two files, and config.json of one commit would lie beside the weights of another:
        # what the revision means is asked once, and the client names the folder of its cache by the answer.
        with hub_errors(f"{where}, {file}"):
            hf_hub_download(repo, file, revision=folder.name, force_download=force)
    return folder


def announced_sha256(where: str, repo: str, path: Path) -> str | None:
    """The sha256 that the Hub announces for a large file that :func:`download` fetched.

    Args:
        where: The repo and revision as messages name them.
        repo: ``OWNER/NAME``.
        path: The file in the client's cache.

    Returns:
        The hash; None where nobody tells it: the file is not in LFS, or the Hub cannot be asked.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if path.is_symlink():  # the cache keeps the content under the announced hash, and links to it
        blob = path.readlink().name
        if _SHA256.fullmatch(blob):
            return blob
    try:
        with hub_errors(where):
            etag = get_hf_file_metadata(hf_hub_url(repo, path.name, revision=path.parent.name)).etag
    except MuscleZooError:  # offline, with the file in the cache
        return None
    return etag if etag and _SHA256.fullmatch(etag) else None
