"""Card folder -> Hugging Face Hub: in one commit, checked afterwards; the same content again makes none.

The token is huggingface_hub's business: ``hf auth login`` or ``HF_TOKEN``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.hub_errors import hub_errors
from ..checkpoints.registry import CARD_FILES, WEIGHTS_FILE
from ..checkpoints.weights import from_folder
from ..errors import HubError, InputError
from .notebook import NOTEBOOK_FILE, render_notebook

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUBLISHED_FILES = (*CARD_FILES, NOTEBOOK_FILE)


@dataclass(frozen=True)
class Change:
    """What publishing a card would do, or did.

    Attributes:
        repo: ``NAMESPACE/NAME``.
        exists: Whether the repo was there before.
        head: Its last commit; empty when it was not there.
        files: Files that differ from the Hub's, or are not there.
        others: Files of the repo that are none of the card's; they are left alone.
        revision: The commit that holds the card; empty before there is one.
        sha256: Of the weights.
        url: Where to look at it: the commit, or the pull request.
    """

    repo: str
    exists: bool
    head: str
    files: tuple[str, ...]
    others: tuple[str, ...]
    revision: str
    sha256: str
    url: str = ""


def compare(card: Path, repo: str, api: HfApi, tag: str = "") -> Change:
    """Compares a card folder with what the Hub holds, and changes nothing.

    Args:
        card: A folder of hub_cards/.
        repo: ``NAMESPACE/NAME``.
        api: The Hub.
        tag: To be given to the commit.

    Raises:
        InputError: The folder is not a whole card, or holds other files too; or the tag is at another commit.
        HubError: The Hub cannot be asked.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    # What reads the card comes before the Hub is asked: a file that cannot be read is no trouble of the network.
    if tag and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", tag):
        raise InputError(f"--tag {tag!r} is not a tag; give letters, digits and . _ -, such as v1")
    sha256 = from_folder(card).sha256
    names = {path.name for path in card.iterdir()}
    if names != set(CARD_FILES):
        wrong = [f"{name} is missing" for name in sorted(set(CARD_FILES) - names)]
        wrong += [f"{name} does not belong there" for name in sorted(names - set(CARD_FILES))]
        raise InputError(f"{card} is not a card: {', '.join(wrong)}; export the run again")
    small = _small_files(card, repo)
    hashes = {WEIGHTS_FILE: sha256, **{name: hashlib.sha256(content).hexdigest() for name, content in small.items()}}
    blobs = {name: _git_hash(content) for name, content in small.items()}
    with hub_errors(repo, HubError):
        try:
            info = api.model_info(repo, files_metadata=True)
        except RepositoryNotFoundError:  # or private, and not ours: the commit will tell
            return Change(repo, False, "", PUBLISHED_FILES, (), "", sha256)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).tags} if tag else {}
    on_hub = {file.rfilename: file for file in info.siblings or ()}
    # The Hub names a large file by its sha256, and any other by git's own hash.
    own = {name: hashes[name] if name in on_hub and on_hub[name].lfs else blobs.get(name) for name in PUBLISHED_FILES}
    theirs = {name: file.lfs.sha256 if file.lfs else file.blob_id for name, file in on_hub.items()}
    changed = tuple(name for name in PUBLISHED_FILES if own[name] != theirs.get(name, ""))
    if tag in tags and (changed or tags[tag] != info.sha):
        raise InputError(f"--tag {tag}: {repo} has it at another commit ({tags[tag][:12]}); give another tag")
    others = tuple(sorted(on_hub.keys() - set(PUBLISHED_FILES) - {".gitattributes"}))
    return Change(repo, True, info.sha or "", changed, others, (info.sha or "") if not changed else "", sha256)


def _small_files(card: Path, repo: str) -> dict[str, bytes]:
    """What is published beside the weights; the notebook is no file of the folder, for it names the repo."""
    files = {name: (card / name).read_bytes() for name in CARD_FILES if name != WEIGHTS_FILE}
    return {**files, NOTEBOOK_FILE: render_notebook(card, repo)}


def _git_hash(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def publish(card: Path, repo: str, api: HfApi, private: bool = False, tag: str = "", create_pr: bool = False) -> Change:
    """Puts a card folder on the Hub, creating or updating the repo in one commit.

    A run that was killed leaves the repo as it was or whole; the same call completes it. The tag is not set yet, so
    that the commit can be looked at before; see :func:`give_tag`.

    Args:
        card: A folder of hub_cards/.
        repo: ``NAMESPACE/NAME``.
        api: The Hub.
        private: Make a new repo private.
        tag: The commit is to get this tag; one that it cannot get is refused before anything is committed.
        create_pr: Open a pull request instead of committing.

    Returns:
        What changed, and the revision.

    Raises:
        InputError: The folder is not a whole card, or the repo is public and was to be private.
        HubError: The Hub refused or cannot be reached, or it holds other bytes than it was sent.
    """
    from huggingface_hub import CommitOperationAdd

    if tag and create_pr:
        raise InputError(f"--tag {tag} --create-pr: a pull request is not a release; tag it when it is merged")
    change = compare(card, repo, api, tag)
    contents: dict[str, bytes | Path] = {**_small_files(card, repo), WEIGHTS_FILE: card / WEIGHTS_FILE}
    additions = [CommitOperationAdd(name, contents[name]) for name in PUBLISHED_FILES if change.files]
    with hub_errors(repo, HubError):
        if change.exists and private and not api.model_info(repo).private:
            raise InputError(f"{repo} exists and is public; make it private on its page, or leave out --private")
        if not change.exists:
            api.create_repo(repo, private=private, exist_ok=True)
        revision, url = change.revision, f"{api.endpoint}/{repo}"
        if change.files:
            commit = api.create_commit(
                repo,
                additions,
                commit_message=f"{'Update' if change.exists else 'Add'} {card.name}",
                parent_commit=change.head or None,
                create_pr=create_pr,
            )
            revision, url = commit.oid, commit.pr_url or commit.commit_url
        files = api.get_paths_info(repo, WEIGHTS_FILE, revision=revision)
        arrived = [lfs.sha256 for file in files if (lfs := getattr(file, "lfs", None))]  # a folder has none
        if arrived != [change.sha256]:
            raise HubError(f"{repo}: {WEIGHTS_FILE} on the Hub is not what was sent; run the same command again")
    return replace(change, revision=revision, url=url)


def give_tag(change: Change, api: HfApi, tag: str) -> None:
    """Gives a commit that :func:`publish` made, or found, its tag. It is for ever, so it comes last.

    Raises:
        HubError: The Hub refused or cannot be reached.
    """
    with hub_errors(change.repo, HubError):
        api.create_tag(change.repo, tag=tag, revision=change.revision, exist_ok=True)


def add_to_collection(changes: Sequence[Change], title: str, api: HfApi, private: bool = False) -> str:
    """Puts repos into a Collection of their namespace, which is made if there is none of this title.

    Args:
        changes: What was published, of one namespace.
        title: Of the Collection.
        api: The Hub.
        private: Make a new one private.

    Returns:
        Its address. What is in it already stays as it is.

    Raises:
        HubError: The Hub refused or cannot be reached.
    """
    namespace = changes[0].repo.partition("/")[0]
    with hub_errors(f"collection {title}", HubError):
        collection = api.create_collection(title, namespace=namespace, private=private, exists_ok=True)
        present = {(item.item_type, item.item_id) for item in collection.items}
        for change in changes:
            if ("model", change.repo) not in present:
                api.add_collection_item(collection.slug, change.repo, "model", exists_ok=True)
    return collection.url
