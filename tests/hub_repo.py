"""What ``tests.hub_server`` knows: users, and repositories with their commits, branches, tags and pull requests."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hub_xet import XetStore

# The suffixes that the Hub's first commit tells git to keep in LFS (a part of them).
LFS_SUFFIXES = (".bin", ".gz", ".npy", ".npz", ".onnx", ".pickle", ".png", ".pt", ".pth", ".safetensors", ".zip")
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
LARGE = 10 * 2**20


def git_sha1(content: bytes) -> str:
    """The name that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def belongs_in_lfs(path: str, sample: bytes, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LARGE or b"\0" in sample


@dataclass(frozen=True)
class Entry:
    """A file of a commit; ``oid`` names its content: the sha256 of an LFS file, else git's sha1."""

    oid: str
    size: int
    lfs: bool = False
    xet: str | None = None

    @property
    def pointer(self) -> bytes:
        """What git keeps in an LFS file's place."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n".encode()

    @property
    def blob(self) -> str:
        return git_sha1(self.pointer) if self.lfs else self.oid

    def listed(self, path: str) -> dict[str, Any]:
        """The file in a listing."""
        row: dict[str, Any] = {"type": "file", "path": path, "oid": self.blob, "size": self.size}
        if self.lfs:
            row["lfs"] = {"oid": self.oid, "size": self.size, "pointerSize": len(self.pointer)}
        if self.xet:
            row["xetHash"] = self.xet
        return row

    def sibling(self, path: str, blobs: bool) -> dict[str, Any]:
        """The file in a model's description."""
        if not blobs:
            return {"rfilename": path}
        lfs = {"sha256": self.oid, "size": self.size, "pointerSize": len(self.pointer)} if self.lfs else None
        return {"rfilename": path, "size": self.size, "blobId": self.blob, "lfs": lfs}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    summary: str
    description: str
    author: str
    files: dict[str, Entry]
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()))


@dataclass
class Repo:
    """A repository. ``refs`` has branches, tags and pull requests under git's full names."""

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_titles: list[str] = field(default_factory=list)

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, refs/pr/N or a full hash names."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        return self.commits.get(revision)

    def branch_ref(self, revision: str) -> str | None:
        """The full name of what can be committed to: a branch or a pull request."""
        for ref in (f"refs/heads/{revision}", revision):
            if ref in self.refs and not ref.startswith("refs/tags/"):
                return ref
        return None

    def commit(self, ref: str, files: dict[str, Entry], summary: str, description: str, author: str) -> Commit:
        """Adds a commit and moves ``ref`` to it."""
        parent = self.refs.get(ref)
        content = [
            parent,
            summary,
            description,
            author,
            len(self.commits),
            [files[path].listed(path) for path in files],
        ]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, summary, description, author, files)
        self.refs[ref] = oid
        return self.commits[oid]

    def open_pull(self, title: str, base: Commit) -> int:
        """The number of a new pull request, whose ref starts at ``base``."""
        self.pull_titles.append(title)
        self.refs[f"refs/pr/{len(self.pull_titles)}"] = base.oid
        return len(self.pull_titles)

    def history(self, commit: Commit | None) -> Iterator[Commit]:
        """A commit and those before it, newest first."""
        while commit is not None:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None

    def refs_below(self, prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in sorted(self.refs.items())
            if ref.startswith(prefix)
        ]


@dataclass
class Collection:
    """A Collection, by its slug ``OWNER/TITLE-HASH``; its items are models."""

    slug: str
    title: str
    owner: str
    private: bool
    models: list[str] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        items = [
            {"_id": git_sha1(name.encode())[:24], "id": name, "type": "model", "position": place}
            for place, name in enumerate(self.models)
        ]
        about = {"slug": self.slug, "title": self.title, "owner": {"name": self.owner}, "private": self.private}
        rest = {"lastUpdated": "2026-01-01T00:00:00.000Z", "position": 0, "theme": "green", "upvotes": 0}
        return {**about, **rest, "items": items}


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and whether it may write."""

    name: str
    can_write: bool = True
    orgs: tuple[str, ...] = ()

    def owns(self, repo: str) -> bool:
        return repo.partition("/")[0] in (self.name, *self.orgs)


class Hub:
    """What the Hub knows and keeps; contents are files, so that a hub may be large.

    Attributes:
        url, storage_url: The two origins.
        users: By token.
        repos: By full name.
    """

    def __init__(self, root: Path, url: str, storage_url: str, users: dict[str, User]) -> None:
        self.url = url
        self.storage_url = storage_url
        self.users = users
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, Collection] = {}
        self.xet = XetStore()
        self.objects = root / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()

    def store(self, content: bytes, oid: str) -> None:
        (self.objects / oid).write_bytes(content)

    def load(self, oid: str) -> bytes:
        return (self.objects / oid).read_bytes()

    def stored(self, oid: str) -> bool:
        return (self.objects / oid).exists()

    def entry(self, repo: str, path: str, revision: str = "main") -> Entry:
        commit = self.repos[repo].resolve(revision)
        assert commit is not None, f"no revision {revision}"
        return commit.files[path]

    def read(self, repo: str, path: str, revision: str = "main") -> bytes:
        """A file of a repository, as it was committed."""
        return self.load(self.entry(repo, path, revision).oid)

    def downloads_of(self, repo: str, path: str, revision: str = "main") -> str:
        """A regular expression for the addresses from which clients get a file's content."""
        entry = self.entry(repo, path, revision)
        if not entry.lfs:
            return f"^/{re.escape(repo)}/resolve/[^/]+/{re.escape(path)}$"
        return "|".join([f"^/storage/{entry.oid}/", *(f"^/xorbs/{xorb}$" for xorb in self.xet.xorbs_of(entry.oid))])
