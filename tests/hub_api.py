"""What ``tests.hub_server`` answers: the Hub's API as huggingface_hub speaks it, and the storage API of hf-xet."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import time
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote

from tests.hub_collections import CollectionsApi
from tests.hub_messages import Refusal, Reply, Request
from tests.hub_repo import ATTRIBUTES, Commit, Entry, Hub, Repo, User, belongs_in_lfs, git_sha1

_XET_READ, _XET_WRITE = "xet_read", "xet_write"


class Api(CollectionsApi):
    """What each route does with one request."""

    ROUTES: ClassVar[list[tuple[str, str, Callable[..., Reply]]]]

    def __init__(self, hub: Hub, request: Request) -> None:
        self.hub = hub
        self.request = request

    def user(self) -> User | None:
        if self.request.token is None:
            return None
        if self.request.token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users[self.request.token]

    def repo(self, name: str, write: bool = False, pull: bool = False) -> Repo:
        """The repository, if the request may do this with it; anyone who may write may open a pull request."""
        user, repo = self.user(), self.hub.repos.get(name)
        owns = user is not None and user.owns(name)
        if repo is None or (repo.private and not owns):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            # For https addresses the client takes every 401 for a repository that is not found; here the code says so.
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if write and not (user.can_write and (owns or pull)):
            raise Refusal(403, "You don't have the rights required to write to this repository")
        return repo

    def revision(self, repo: Repo, name: str) -> Commit:
        commit = repo.resolve(name)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return commit

    # Writing

    def create(self) -> Reply:
        wanted, user = self.request.json(), self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        name = f"{wanted.get('organization') or user.name}/{wanted['name']}"
        if not (user.can_write and user.owns(name)):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace of {name}")
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            return Reply.json({"error": "You already created this model repo", "url": url}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        repo = self.hub.repos[name] = Repo(name, private)
        attributes = Entry(git_sha1(ATTRIBUTES), len(ATTRIBUTES))
        self.hub.store(ATTRIBUTES, attributes.oid)
        repo.commit("refs/heads/main", {".gitattributes": attributes}, "initial commit", "", user.name)
        return Reply.json({"url": url, "name": name})

    def validate_yaml(self) -> Reply:
        """Not a parser of YAML: it knows a block that does not end, and a line that is no part of one."""
        _, *block = re.split(r"^---$", self.request.json()["content"], maxsplit=2, flags=re.M)
        good = re.compile(r"\s*(#.*|- .*|[\w-]+:.*|\s.*|[\]}].*)?")
        if not block or (len(block) == 2 and all(good.fullmatch(line) for line in block[0].splitlines())):
            return Reply.json({"errors": [], "warnings": []})
        message = "bad YAML in the metadata block"
        return Reply.json({"error": message, "errors": [{"message": message}], "warnings": []}, 400)

    def preupload(self, name: str, revision: str) -> Reply:
        files = self.revision(self.repo(name, True, "create_pr" in self.request.query), revision).files
        rows = []
        for file in self.request.json()["files"]:
            lfs = belongs_in_lfs(file["path"], base64.b64decode(file["sample"]), file["size"])
            row = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if file["path"] in files:
                row["oid"] = files[file["path"]].oid
            rows.append(row)
        return Reply.json({"files": rows})

    def lfs_batch(self, name: str) -> Reply:
        self.repo(name, True, pull=True)
        rows = []
        for wanted in self.request.json()["objects"]:
            row = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.hub.stored(wanted["oid"]):
                verify = f"{self.hub.url}/{name}.git/info/lfs/verify"
                row["actions"] = {"upload": {"href": f"{self.hub.storage_url}/storage/{wanted['oid']}"}}
                row["actions"]["verify"] = {"href": verify}
            rows.append(row)
        return Reply.json({"transfer": "basic", "objects": rows})

    def put_object(self, oid: str, _name: str) -> Reply:
        if hashlib.sha256(self.request.body).hexdigest() != oid:
            raise Refusal(400, "the content has another sha256")
        self.hub.store(self.request.body, oid)
        return Reply()

    def lfs_verify(self, name: str) -> Reply:
        self.repo(name, True, pull=True)
        wanted = self.request.json()
        if not self.hub.stored(wanted["oid"]) or len(self.hub.load(wanted["oid"])) != wanted["size"]:
            raise Refusal(404, "Object not found")
        return Reply.json({})

    def commit(self, name: str, revision: str) -> Reply:
        pull = "create_pr" in self.request.query
        repo = self.repo(name, True, pull or revision.startswith("refs/pr/"))
        head = self.revision(repo, revision)
        header, *operations = (json.loads(line) for line in self.request.body.splitlines())
        header = header["value"]
        if not head.oid.startswith(header.get("parentCommit") or ""):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            self._apply(files, operation["key"], operation["value"])
        number = repo.open_pull(header["summary"], head) if pull else None
        ref = f"refs/pr/{number}" if pull else repo.branch_ref(revision)
        if ref is None:
            raise Refusal(400, "Only a branch can be committed to")
        made = repo.commit(ref, files, header["summary"], header.get("description", ""), self.user().name)
        answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{self.hub.url}/{name}/commit/{made.oid}"}
        if pull:
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{number}"
        return Reply.json(answer)

    def _apply(self, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            content = base64.b64decode(value["content"])
            files[path] = Entry(git_sha1(content), len(content))
            self.hub.store(content, files[path].oid)
        elif key == "lfsFile":
            files[path] = self._lfs_entry(value["oid"])
        else:
            gone = {name for name in files if name == path or name.startswith(path.rstrip("/") + "/")}
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]

    def _lfs_entry(self, oid: str) -> Entry:
        if not self.hub.stored(oid):
            content = self.hub.xet.content(oid)
            if content is None or hashlib.sha256(content).hexdigest() != oid:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {oid}")
            self.hub.store(content, oid)
        return Entry(oid, len(self.hub.load(oid)), lfs=True, xet=self.hub.xet.hashes.get(oid))

    def branch(self, name: str, branch: str) -> Reply:
        return self._new_ref(name, f"refs/heads/{branch}", self.request.json().get("startingPoint") or "main")

    def tag(self, name: str, revision: str) -> Reply:
        return self._new_ref(name, f"refs/tags/{self.request.json()['tag']}", revision)

    def _new_ref(self, name: str, ref: str, revision: str) -> Reply:
        repo = self.repo(name, write=True)
        commit = self.revision(repo, revision)
        if ref in repo.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = commit.oid
        return Reply.json({"ref": ref})

    def open_pull(self, name: str) -> Reply:
        repo = self.repo(name, True, pull=True)
        return Reply.json({"num": repo.open_pull(self.request.json()["title"], self.revision(repo, "main"))})

    # Reading

    def pull(self, name: str, number: str) -> Reply:
        repo = self.repo(name)
        head = self.revision(repo, f"refs/pr/{number}")
        about = {"num": int(number), "title": repo.pull_titles[int(number) - 1], "status": "draft", "events": []}
        about |= {"author": {"name": head.author}, "createdAt": head.date, "repo": {"name": name, "type": "model"}}
        return Reply.json(
            {**about, "isPullRequest": True, "changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
        )

    def model_info(self, name: str, revision: str = "main") -> Reply:
        repo = self.repo(name)
        commit = self.revision(repo, revision)
        blobs = "blobs" in self.request.query
        siblings = [entry.sibling(path, blobs) for path, entry in sorted(commit.files.items())]
        about = {"id": name, "modelId": name, "author": name.partition("/")[0], "private": repo.private, "tags": []}
        return Reply.json({**about, "sha": commit.oid, "lastModified": commit.date, "siblings": siblings})

    def tree(self, name: str, revision: str, folder: str) -> Reply:
        files = self.revision(self.repo(name), revision).files
        prefix = f"{folder}/" if folder else ""
        below = [path for path in sorted(files) if path.startswith(prefix)]
        if folder and not below:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        if self.request.query.get("recursive", ["false"])[0].lower() == "true":
            return Reply.json([files[path].listed(path) for path in below])
        folders = sorted({prefix + path[len(prefix) :].partition("/")[0] for path in below} - set(below))
        rows = [{"type": "directory", "path": path, "oid": git_sha1(path.encode()), "size": 0} for path in folders]
        return Reply.json(rows + [files[path].listed(path) for path in below if "/" not in path[len(prefix) :]])

    def paths_info(self, name: str, revision: str) -> Reply:
        files = self.revision(self.repo(name), revision).files
        wanted = parse_qs(self.request.body.decode()).get("paths", [])
        return Reply.json([files[path].listed(path) for path in wanted if path in files])

    def refs(self, name: str) -> Reply:
        repo = self.repo(name)
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
        return Reply.json({**{kind: repo.refs_below(prefix) for kind, prefix in kinds.items()}, "converts": []})

    def commits(self, name: str, revision: str) -> Reply:
        repo = self.repo(name)
        return Reply.json(
            [
                {"id": one.oid, "title": one.summary, "message": one.description, "date": one.date}
                | {"authors": [{"user": one.author}]}
                for one in repo.history(self.revision(repo, revision))
            ]
        )

    def whoami(self) -> Reply:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        role = {"displayName": "token", "role": "write" if user.can_write else "read"}
        about = {"type": "user", "name": user.name, "fullname": user.name, "orgs": [{"name": org} for org in user.orgs]}
        return Reply.json({**about, "auth": {"type": "access_token", "accessToken": role}})

    def resolve(self, name: str, revision: str, path: str) -> Reply:
        commit = self.revision(self.repo(name), revision)
        entry, found = commit.files.get(path), {"X-Repo-Commit": commit.oid}
        if entry is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        if not entry.lfs:
            return self._ranged(self.hub.load(entry.oid), {**found, "ETag": f'"{entry.oid}"'})
        found |= {"X-Linked-ETag": f'"{entry.oid}"', "X-Linked-Size": str(entry.size), "ETag": f'"{entry.blob}"'}
        if entry.xet:
            route = f"{self.hub.url}/api/models/{name}/xet-read-token/{commit.oid}"
            found |= {"X-Xet-Hash": entry.xet, "X-Xet-Refresh-Route": route}
        return Reply(302, b"", {**found, "Location": f"{self.hub.storage_url}/storage/{entry.oid}/{quote(path)}"})

    def get_object(self, oid: str, _name: str) -> Reply:
        if not self.hub.stored(oid):
            raise Refusal(404, "Object not found")
        return self._ranged(self.hub.load(oid), {"ETag": f'"{oid}"'})

    def _range(self) -> tuple[int, int | None] | None:
        """The first byte that is asked for, and the one after the last."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("Range", ""))
        return (int(match[1]), int(match[2]) + 1 if match[2] else None) if match else None

    def _ranged(self, content: bytes, headers: dict[str, str]) -> Reply:
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        asked = self._range()
        if asked is None:
            return Reply(200, content, headers)
        start, stop = asked
        if start >= len(content):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        body = content[start:stop]
        span = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        return Reply(206, body, {**headers, "Content-Range": span}, start)

    # hf-xet

    def xet_token(self, name: str, kind: str, _revision: str) -> Reply:
        self.repo(name, kind == "write", pull=True)
        token, expires = (_XET_WRITE if kind == "write" else _XET_READ), int(time.time()) + 3600
        return Reply.json(
            {"casUrl": self.hub.storage_url, "accessToken": token, "exp": expires},
            X_Xet_Cas_Url=self.hub.storage_url,
            X_Xet_Access_Token=token,
            X_Xet_Token_Expiration=str(expires),
        )

    def _xet_allowed(self, *tokens: str) -> None:
        if self.request.token not in tokens:
            raise Refusal(401, "Invalid access token")

    def put_xorb(self, xorb: str) -> Reply:
        self._xet_allowed(_XET_WRITE)
        new = xorb not in self.hub.xet.xorbs
        self.hub.xet.xorbs[xorb] = self.request.body
        return Reply.json({"was_inserted": new})

    def put_shard(self) -> Reply:
        self._xet_allowed(_XET_WRITE)
        self.hub.xet.add_shard(self.request.body)
        return Reply.json({"result": 1})

    def reconstruction(self, file: str) -> Reply:
        self._xet_allowed(_XET_READ, _XET_WRITE)
        start, stop = self._range() or (0, None)
        recipe = self.hub.xet.recipe(file, start, math.inf if stop is None else stop, f"{self.hub.storage_url}/xorbs")
        return Reply.json(recipe) if recipe else Reply(416)

    def get_xorb(self, xorb: str) -> Reply:
        return self._ranged(self.hub.xet.xorbs[xorb], {})


_REPO, _ONE, _DATA = r"([^/]+/[^/]+)", r"([^/]+)", r"(datasets/[^/]+/[^/]+)"
Api.ROUTES = [
    ("POST", "/api/repos/create", Api.create),
    ("POST", "/api/validate-yaml", Api.validate_yaml),
    ("POST", f"/api/models/{_REPO}/preupload/{_ONE}", Api.preupload),
    ("POST", f"/{_REPO}[.]git/info/lfs/objects/batch", Api.lfs_batch),
    ("POST", f"/{_REPO}[.]git/info/lfs/verify", Api.lfs_verify),
    ("PUT", f"/storage/{_ONE}()", Api.put_object),
    ("POST", f"/api/models/{_REPO}/commit/{_ONE}", Api.commit),
    ("POST", f"/api/models/{_REPO}/branch/{_ONE}", Api.branch),
    ("POST", f"/api/models/{_REPO}/tag/{_ONE}", Api.tag),
    ("POST", f"/api/models/{_REPO}/discussions", Api.open_pull),
    ("GET", f"/api/models/{_REPO}/discussions/(\\d+)", Api.pull),
    ("GET", f"/api/models/{_REPO}", Api.model_info),
    ("GET", f"/api/models/{_REPO}/revision/{_ONE}", Api.model_info),
    ("GET", f"/api/models/{_REPO}/tree/{_ONE}(?:/(.*))?", Api.tree),
    ("POST", f"/api/models/{_REPO}/paths-info/{_ONE}", Api.paths_info),
    ("GET", f"/api/models/{_REPO}/refs", Api.refs),
    ("GET", f"/api/models/{_REPO}/commits/{_ONE}", Api.commits),
    ("POST", "/api/collections", Api.create_collection),
    ("GET", f"/api/collections/{_REPO}", Api.collection),
    ("POST", f"/api/collections/{_REPO}/items", Api.add_to_collection),
    ("GET", "/api/whoami-v2", Api.whoami),
    ("GET", f"/{_REPO}/resolve/{_ONE}/(.+)", Api.resolve),
    ("GET", f"/storage/{_ONE}/(.+)", Api.get_object),
    ("GET", f"/api/models/{_REPO}/xet-(read|write)-token/{_ONE}", Api.xet_token),
    ("POST", f"/v1/xorbs/default/{_ONE}", Api.put_xorb),
    ("POST", "/v1/shards", Api.put_shard),
    ("GET", f"/v1/reconstructions/{_ONE}", Api.reconstruction),
    ("GET", f"/xorbs/{_ONE}", Api.get_xorb),
    ("GET", f"/api/{_DATA}", Api.model_info),  # data sets are read alone
    ("GET", f"/api/{_DATA}/revision/{_ONE}", Api.model_info),
    ("GET", f"/api/{_DATA}/tree/{_ONE}(?:/(.*))?", Api.tree),
    ("POST", f"/api/{_DATA}/paths-info/{_ONE}", Api.paths_info),
    ("GET", f"/{_DATA}/resolve/{_ONE}/(.+)", Api.resolve),
]


def answer(hub: Hub, request: Request) -> Reply:
    """Does what a request asks for; one at a time."""
    method = "GET" if request.method == "HEAD" else request.method
    for wanted, pattern, action in Api.ROUTES:
        if wanted == method and (match := re.fullmatch(pattern, request.path)):
            with hub.lock:
                try:
                    return action(Api(hub, request), *(unquote(group or "") for group in match.groups()))
                except Refusal as refusal:
                    return refusal.reply
    return Refusal(404, "Not Found").reply
