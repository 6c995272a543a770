"""The real client against ``tests.hub_server``, with hf-xet and without it."""

from __future__ import annotations

import importlib.util
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.hub_client import Client
from tests.hub_server import OWNER, READER, STRANGER, UPLOADS, Fault, HubServer

# hf-xet regroups the bytes of floats before it compresses them; other tests have random bytes, and equal ones.
WEIGHTS = struct.pack("<100000f", *range(100_000)) + b"odd"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as running:
        yield running


@pytest.fixture(params=["http", "xet"])
def client(request: pytest.FixtureRequest, hub: HubServer, tmp_path: Path) -> Client:
    if request.param == "xet" and importlib.util.find_spec("hf_xet") is None:
        pytest.skip("hf_xet is not installed")
    return Client(hub, tmp_path / "home", request.param == "xet")


def test_what_is_published_comes_back(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = {"README.md": b"---\nlicense: mit\n---\n", "model.safetensors": WEIGHTS, "notes/a b.txt": b"hello"}
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    seen = client.run(f"""
folder = {str(tmp_path / "folder")!r}
create_repo("owner/m")
tell("exists", lambda: str(create_repo("owner/m", exist_ok=True)))
tell("first", lambda: api.upload_folder(repo_id="owner/m", folder_path=folder).oid)
tell("again", lambda: api.upload_folder(repo_id="owner/m", folder_path=folder).oid)
create_tag("owner/m", tag="v1")
tell("tag again", lambda: create_tag("owner/m", tag="v1"))
put("owner/m", b"changed")
api.delete_file("notes/a b.txt", "owner/m")
create_branch("owner/m", branch="old/side", revision="v1")
tell("titles", lambda: [commit.title for commit in api.list_repo_commits("owner/m")])
tell("paths", lambda: sorted(api.list_repo_files("owner/m")))
tell("below", lambda: [file.path for file in api.list_repo_tree("owner/m", "notes", revision="v1")])
tell("size", lambda: api.get_paths_info("owner/m", ["model.safetensors"], revision="v1")[0].size)
tell("info", lambda: [file.lfs.sha256 for file in api.model_info("owner/m", files_metadata=True).siblings if file.lfs])
tell("files", lambda: [get("owner/m", revision=revision) for revision in ("main", "v1", "old/side", seen["first"])])
tell("snapshot", lambda: snapshot_download("owner/m", revision="v1"))
tell("pull", lambda: put("owner/m", b"x", "new.txt", create_pr=True).pr_url)
open(folder + "/more.txt", "w").write("more")
tell("folder pull", lambda: api.upload_folder(repo_id="owner/m", folder_path=folder, create_pr=True).pr_url)
tell("refs", lambda: [ref.name for ref in api.list_repo_refs("owner/m").branches])
tell("stale", lambda: put("owner/m", b"y", "new.txt", parent_commit="0" * 40))
tell("bad card", lambda: put("owner/m", b"---\\nlicense [\\n---\\n", "README.md"))
""")
    assert seen["exists"] == f"{hub.url}/owner/m" and seen["tag again"] == "HfHubHTTPError 409"
    assert seen["first"] == seen["again"] and len(seen["titles"]) == 4 and seen["titles"][-1] == "initial commit"
    assert seen["paths"] == [".gitattributes", "README.md", "model.safetensors"] and seen["below"] == ["notes/a b.txt"]
    assert seen["size"] == len(WEIGHTS) and seen["refs"] == ["main", "old/side"]
    assert seen["info"] == [hub.entry("owner/m", "model.safetensors").oid]
    assert [Path(path).read_bytes() for path in seen["files"]] == [b"changed", WEIGHTS, WEIGHTS, WEIGHTS]
    assert [hub.read("owner/m", "model.safetensors", name) for name in ("main", "v1")] == [b"changed", WEIGHTS]
    assert {name: (Path(seen["snapshot"]) / name).read_bytes() for name in files} == files
    assert seen["pull"] == f"{hub.url}/owner/m/discussions/1" and hub.read("owner/m", "new.txt", "refs/pr/1") == b"x"
    assert seen["folder pull"] == f"{hub.url}/owner/m/discussions/2"
    assert hub.read("owner/m", "more.txt", "refs/pr/2") == b"more"
    assert seen["stale"] == "HfHubHTTPError 412" and seen["bad card"] == "ValueError"
    assert bool(hub.entry("owner/m", "model.safetensors", "v1").xet) == client.xet
    assert not [row for row in hub.requests if row.path.startswith(("/storage", "/xorbs")) and row.has_auth]
    other = Client(hub, tmp_path / "other", xet=False).run('tell("v1", lambda: get("owner/m", revision="v1"))')
    assert Path(other["v1"]).read_bytes() == WEIGHTS


def test_who_may_do_what(hub: HubServer, tmp_path: Path) -> None:
    seen = Client(hub, tmp_path / "home", xet=False).run("""
create_repo("owner/m"), create_repo("owner/secret", private=True), create_repo("muscle-zoo/m")
tell("who", lambda: [api.whoami()["name"], api.whoami(token="hf_stranger")["name"]])
for token in ("hf_owner", False, "hf_stranger", "hf_unknown", "hf_reader"):
    tell(f"{token} none", lambda: api.model_info("owner/none", token=token).id)
    tell(f"{token} secret", lambda: api.model_info("owner/secret", token=token).id)
    tell(f"{token} create", lambda: str(create_repo("owner/m", exist_ok=True, token=token)))
    tell(f"{token} commit", lambda: put("owner/m", os.urandom(9), "a.txt", token=token).commit_message[:6])
    tell(f"{token} pull", lambda: put("owner/m", os.urandom(9), "a.txt", token=token, create_pr=True).pr_num)
tell("file", lambda: get("owner/m", "none"))
tell("revision", lambda: get("owner/m", ".gitattributes", revision="none"))
""")
    lost, denied, url = "RepositoryNotFoundError", "HfHubHTTPError 403", f"{hub.url}/owner/m"
    expected = {
        OWNER: [f"{lost} 404", "owner/secret", url, "Upload", 1],
        "False": [f"{lost} 401", f"{lost} 401", url, f"{lost} 401", f"{lost} 401"],
        STRANGER: [f"{lost} 404", f"{lost} 404", url, denied, 2],
        "hf_unknown": ["HfHubHTTPError 401"] * 5,
        READER: [f"{lost} 404", "owner/secret", url, denied, denied],
    }
    kinds = ("none", "secret", "create", "commit", "pull")
    assert {token: [seen[f"{token} {kind}"] for kind in kinds] for token in expected} == expected
    assert (seen["file"], seen["revision"]) == ("RemoteEntryNotFoundError 404", "RevisionNotFoundError 404")
    assert seen["who"] == ["owner", "stranger"]


def test_offline_makes_no_request(hub: HubServer, tmp_path: Path) -> None:
    client = Client(hub, tmp_path / "home", xet=False)
    client.run('create_repo("owner/m"); get("owner/m", ".gitattributes")')
    asked = len(hub.requests)
    code = 'tell("cached", lambda: get("owner/m", ".gitattributes")); tell("not", lambda: get("owner/m"))'
    seen = client.run(code, HF_HUB_OFFLINE="1")
    assert Path(seen["cached"]).exists() and seen["not"] == "LocalEntryNotFoundError"
    assert len(hub.requests) == asked


def test_faults_of_downloads(hub: HubServer, client: Client) -> None:
    repos = [f"owner/{name}" for name in ("once", "cut", "reset", "truncate", "alter", "busy")]
    client.run(f"for repo in {repos}: create_repo(repo); put(repo, os.urandom(70_000))")
    for repo, kind in zip(repos[:5], ("cut", "cut", "reset", "truncate", "alter"), strict=True):
        times = 1 if repo == "owner/once" else None
        hub.faults.append(Fault(kind, "GET", hub.downloads_of(repo, "model.safetensors"), times))
    hub.faults.append(Fault("status", "HEAD", "^/owner/busy/", None, 429, {"Retry-After": "1"}))
    seen = client.run(f"for repo in {repos}: tell(repo, lambda: get(repo))")
    once, *broken, altered, busy = (seen[repo] for repo in repos)
    assert Path(once).read_bytes() == hub.read("owner/once", "model.safetensors")
    assert hub.faults[0].struck == 1 and all(fault.struck for fault in hub.faults)
    assert broken == (["RuntimeError"] * 3 if client.xet else ["RemoteProtocolError", "ReadError", "OSError"])
    pairs = zip(Path(altered).read_bytes(), hub.read("owner/alter", "model.safetensors"), strict=True)
    assert sum(got != right for got, right in pairs) == 1
    assert busy == "LocalEntryNotFoundError"


def test_faults_of_uploads(hub: HubServer, client: Client) -> None:
    hub.faults = [Fault("status", "PUT|POST", UPLOADS), Fault("lost", "POST", "owner/lost/commit")]
    hub.faults += [Fault("status", "POST", "owner/busy/commit", None), Fault("reset", "POST", "owner/reset/commit")]
    seen = client.run("""
for name in ("once", "lost", "busy", "reset"):
    create_repo("owner/" + name)
    tell(name, lambda: put("owner/" + name, os.urandom(70_000)).commit_message[:6])
""")
    assert list(seen.values()) == ["Upload", "RemoteProtocolError", "HfHubHTTPError 503", "ReadError"]
    assert [len(repo.commits) for repo in hub.repos.values()] == [2, 2, 1, 1]  # one whose answer was lost is there
    for kind in ("status", "cut"):
        hub.faults = [Fault(kind, "PUT|POST", UPLOADS, None)]
        seen = client.run('tell("put", lambda: put("owner/once", os.urandom(70_000)).oid)')
        assert seen["put"] == ("ConnectionError" if client.xet else "RuntimeError") and hub.faults[0].struck > 1
    assert len(hub.repos["owner/once"].commits) == 2


def test_a_killed_client_leaves_nothing_half_done(hub: HubServer, client: Client) -> None:
    uploading = Fault("hold", "PUT|POST", UPLOADS)
    hub.faults.append(uploading)
    code = 'create_repo("owner/m", exist_ok=True); put("owner/m", b"\\1" * 5_000_000)'
    _kill(client, code, uploading)
    assert len(hub.repos["owner/m"].commits) == 1
    assert client.run(code) == {}
    downloading = Fault("hold", "GET", hub.downloads_of("owner/m", "model.safetensors"))
    hub.faults.append(downloading)
    _kill(client, 'get("owner/m")', downloading)
    assert Path(client.run('tell("got", lambda: get("owner/m"))')["got"]).read_bytes() == b"\1" * 5_000_000


def _kill(client: Client, code: str, held: Fault) -> None:
    child = client.start(code)
    try:
        assert held.reached.wait(60)
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()
        held.release.set()


def test_plain_requests(hub: HubServer, tmp_path: Path) -> None:
    Client(hub, tmp_path / "home", xet=False).run('create_repo("owner/m"); put("owner/m", b"0123456789")')
    address = f"{hub.url}/owner/m/resolve/main/model.safetensors"
    with urlopen(Request(address, headers={"Range": "bytes=4-"})) as reply:
        assert (reply.status, reply.headers["Content-Range"], reply.read()) == (206, "bytes 4-9/10", b"456789")
    for wanted, status in ((Request(address, headers={"Range": "bytes=10-"}), 416), (f"{hub.url}/no/such/route", 404)):
        with pytest.raises(HTTPError) as refused:
            urlopen(wanted)
        assert refused.value.code == status
    host, port = hub.storage_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:  # a client that dies in the middle of an upload
        head = "POST /v1/xorbs/default/x HTTP/1.1\r\nAuthorization: Bearer xet_write\r\nContent-Length: 10\r\n\r\n"
        line.sendall(head.encode() + b"01234")
        line.shutdown(socket.SHUT_WR)
        assert line.recv(100) == b"" and not hub.xet.xorbs
