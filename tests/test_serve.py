"""The page to drop pictures on: what it answers, and whom it refuses."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import muscle_zoo
from muscle_zoo.auto import serve
from muscle_zoo.auto.serve import Classifier, PictureServer
from muscle_zoo.errors import InputError
from tests.conftest import run
from tests.pictures import picture

NAME = "cnn4.muscle_digits_10"


@pytest.fixture(scope="module")
def server() -> Iterator[PictureServer]:
    model = muscle_zoo.create_model(NAME, pretrained=True).eval()
    with PictureServer(Classifier(model, "my <digits>"), 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server: PictureServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    assert "default-src 'none'" in (response.getheader("Content-Security-Policy") or "")
    connection.close()
    return answer


def test_a_picture_gets_the_answer_of_predict(server: PictureServer, tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", "", 3, (40, 30))
    expected = muscle_zoo.predict(NAME, file, topk=10, cpu=True)[0].classes
    for headers in ({}, {"Origin": f"http://127.0.0.1:{server.port}"}, {"Host": f"localhost:{server.port}"}):
        status, body = ask(server, "POST", "/predict", file.read_bytes(), **headers)
        found = [(one["class"], one["probability"]) for one in json.loads(body)["predictions"]]
        assert status == 200 and [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-5)
    status, body = ask(server, "GET", "/")
    assert status == 200 and b"my &lt;digits&gt;" in body and b"http://" not in body and b"https://" not in body


def test_who_is_refused(server: PictureServer, tmp_path: Path) -> None:
    content = picture(tmp_path / "a.png", "", 3).read_bytes()
    for headers in (
        {"Host": f"evil.example:{server.port}"},  # a name that was made to lead here
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{server.port + 1}"},
        {"Origin": f"https://127.0.0.1:{server.port}"},
    ):
        for method, path, body in (("POST", "/predict", content), ("GET", "/", None)):
            status, answer = ask(server, method, path, body, **headers)
            assert status == 403 and b"itself" in answer, headers
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "GET", "/etc/passwd")[0] == ask(server, "POST", "/", b"x")[0] == 404


def test_what_is_no_picture_is_told(server: PictureServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png", "", 3).read_bytes()
    for content in (b"", b"no picture", good[:200]):
        status, body = ask(server, "POST", "/predict", content)
        said = json.loads(body)["error"]
        assert status == 422 and "cannot be read as a picture" in said and "object at" not in said
    monkeypatch.setattr(serve, "MOST_PIXELS", 100)
    status, body = ask(server, "POST", "/predict", good)
    assert status == 422 and "million pixels" in json.loads(body)["error"]
    monkeypatch.setattr(serve, "MOST_BYTES", 100)
    assert ask(server, "POST", "/predict", good)[0] == 413
    monkeypatch.undo()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:  # without a length
        plain.sendall(f"POST /predict HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        assert b" 411 " in plain.recv(100)
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    status, body = ask(server, "POST", "/predict", bomb.getvalue())
    assert status == 422 and ask(server, "POST", "/predict", good)[0] == 200


def test_wrong_input_of_serve(server: PictureServer, capsys: pytest.CaptureFixture[str]) -> None:
    for port in (server.port, 99_999):
        code, _, err = run(["serve", NAME, "--cpu", "--port", str(port)], capsys)
        assert code == 2 and f"--port {port} cannot be used" in err
    model = muscle_zoo.create_model(NAME, pretrained=True, num_classes=0)
    with pytest.raises(InputError, match="has no classifier"):
        Classifier(model, "x")


def test_ctrl_c_ends_it_without_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """However often it is pressed: `timeout -s INT` sends it twice."""
    closed: list[bool] = []

    def interrupted(_: PictureServer) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def closing(server: PictureServer) -> None:
        interrupted(server)
        closed.append(True)
        server.socket.close()

    monkeypatch.setattr(PictureServer, "serve_forever", interrupted)
    monkeypatch.setattr(PictureServer, "server_close", closing)
    before = signal.getsignal(signal.SIGINT)
    try:
        code, out, err = run(["serve", NAME, "--cpu", "--port", "0"], capsys)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 0 and err == "" and closed and "Ctrl-C ends it" in out
