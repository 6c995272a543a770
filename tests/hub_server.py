"""A Hugging Face Hub on this machine, for tests of publishing and downloading with the real client.

::

    with HubServer(tmp_path) as hub:
        client = Client(hub, tmp_path / "home", xet=True)  # tests.hub_client
        client.run('create_repo("owner/model"); put("owner/model", b"...", "README.md")')
        hub.faults.append(Fault("cut", "GET", hub.downloads_of("owner/model", "README.md"), times=None))
        assert hub.read("owner/model", "README.md") == b"..."

By hand: ``python -m tests.hub_server --root DIR`` prints the address and the tokens.

Contents are files below ``root/objects``; the rest is in memory. The server has two names, so two origins: 127.0.0.1
for the Hub's API, and localhost for the storage that it sends clients to, which must never see a Hub token. Behind a
proxy, set NO_PROXY=127.0.0.1,localhost. What goes wrong is a ``Fault``.

Where hf-xet is installed, clients upload LFS files through its own storage API, which is served as well. Such a file is
announced with its xet hash, so a client with hf-xet downloads it through that API; one without it follows the redirect
to the content, which was put together when the file was committed. hf-xet could also be told to use a folder (a
``casUrl`` of ``local:///dir``), but it locks that for as long as a client's process lives, against other clients and
against this server, and no fault could reach it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import struct
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_api import Reply, Request, answer
from tests.hub_repo import Hub, User

OWNER, READER, STRANGER = "hf_owner", "hf_reader", "hf_stranger"
UPLOADS = "^/(storage|v1/xorbs)/"  # where clients put the content of LFS files, without and with hf-xet
_HOLD_LIMIT = 120.0  # seconds after which a forgotten hold ends

USERS = {OWNER: User("owner", orgs=("muscle-zoo",)), READER: User("owner", can_write=False), STRANGER: User("stranger")}


@dataclass
class Fault:
    """Something that goes wrong with the requests whose method and path match; append it to ``HubServer.faults``.

    The middle of a body is that of an upload, or of what is sent for a GET. Kinds:

    - ``status``: the answer is ``status``, with ``headers``, and nothing is done;
    - ``cut``, ``reset``: the connection ends in the middle of a body, with a FIN or a RST; a resumed download gets no
      further;
    - ``hold``: ``reached`` is set in the middle of a body, which goes on when ``release`` is set;
    - ``lost``: what is asked for is done, but no answer sent;
    - ``truncate``: half of the body is sent as if it were whole; what else announces its size is right;
    - ``alter``: one byte of the body is wrong.

    Attributes:
        path: A regular expression for the unquoted path and query, such as ``UPLOADS`` or ``Hub.downloads_of``.
        times: How many requests it strikes; None: all.
        struck: How many it has struck.
    """

    kind: str
    method: str
    path: str
    times: int | None = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    struck: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def strikes(self, method: str, path: str) -> bool:
        if self.times is not None and self.struck >= self.times:
            return False
        return bool(re.fullmatch(self.method, method) and re.search(self.path, unquote(path)))


class Logged(NamedTuple):
    """A request, in the order in which they came."""

    method: str
    path: str
    has_auth: bool


class HubServer(Hub):
    """The server, running while its ``with`` block does.

    Attributes:
        faults: What goes wrong; the first that strikes a request counts.
        requests: What was asked.
    """

    def __init__(self, root: Path, users: dict[str, User] | None = None) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        port = self._server.server_port
        urls = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        super().__init__(root, *urls, users=USERS if users is None else users)
        self.faults: list[Fault] = []
        self.requests: list[Logged] = []
        self._fault_lock = threading.Lock()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for fault in self.faults:
            fault.release.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, method: str, path: str, *kinds: str) -> Fault | None:
        """The first fault that strikes a request."""
        with self._fault_lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.strikes(method, path):
                    fault.struck += 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    hub: HubServer
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    """HTTP, and the faults that strike it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        hub = self.server.hub
        hub.requests.append(Logged(self.command, self.path, "Authorization" in self.headers))
        try:
            body = self._body()
            if fault := self._fault("status"):
                self._send(Reply(fault.status, b"", fault.headers))
                return
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True)
            reply = answer(hub, Request(self.command, parts.path, query, self.headers, body))
            if self._fault("lost"):
                raise ConnectionAbortedError
            self._send(reply)
        except ConnectionError:  # a fault's, or the client is gone
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _fault(self, *kinds: str) -> Fault | None:
        return self.server.hub.take(self.command, self.path, *kinds)

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        body = b""
        if length and (fault := self._fault("cut", "reset", "hold")):
            body = self.rfile.read(length // 2)
            self._midway(fault)
        body += self.rfile.read(length - len(body))
        if len(body) < length:
            raise ConnectionAbortedError("the client is gone")
        return body

    def _send(self, reply: Reply) -> None:
        body, fault = reply.body, None
        if body and self.command == "GET":
            fault = self._fault("cut", "reset", "hold", "truncate", "alter")
        middle = max((reply.start + len(body)) // 2 - reply.start, 0)
        if fault and fault.kind == "truncate":
            body = body[:middle]
        if fault and fault.kind == "alter":
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        self.send_response(reply.status)
        for name, text in {**reply.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.kind in ("cut", "reset", "hold"):
            self.wfile.write(body[:middle])
            self._midway(fault)
            body = body[middle:]
        self.wfile.write(body)

    def _midway(self, fault: Fault) -> None:
        if fault.kind == "hold":
            fault.reached.set()
            fault.release.wait(_HOLD_LIMIT)
            return
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # at once: the server would say goodbye first
        raise ConnectionAbortedError(fault.kind)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: ``HubServer.requests`` has it all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, help="where contents are kept (a temporary folder)")
    root = parser.parse_args().root or Path(tempfile.mkdtemp())
    with HubServer(root) as hub:
        print(f"HF_ENDPOINT={hub.url}  # contents: {root}")
        for token, user in hub.users.items():
            print(f"HF_TOKEN={token}  # {user}")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
