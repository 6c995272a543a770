"""A page on this machine to drop a picture on: the standard library's server, for one person.

It listens on 127.0.0.1 alone. Pages of other sites, which a browser would let send pictures here too, are refused by
the Host and Origin that the browser says: a name that is made to lead here (DNS rebinding) is not ours.
"""

from __future__ import annotations

import io
import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from torch import Tensor, nn

from ..checkpoints.card import pretrained_cfg_of
from ..checkpoints.factory import create_transform
from ..data.images import open_image, reason
from ..errors import InputError, one_line

MOST_BYTES = 32 << 20  # of a picture
MOST_PIXELS = 100_000_000  # of a picture: a small file may become gigabytes
TIMEOUT = 30.0  # seconds for a request to arrive
_POLICY = "default-src 'none'; img-src blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


@dataclass(frozen=True)
class Classifier:
    """What makes predictions of a picture's bytes.

    Attributes:
        model: In evaluation mode.
        title: What it is called on the page.
    """

    model: nn.Module
    title: str

    def __post_init__(self) -> None:
        if getattr(self.model, "num_classes", None) == 0:
            raise InputError(f"{self.title} has no classifier, as it was pre-trained without labels; give another")

    @torch.inference_mode()
    def predict(self, content: bytes) -> list[tuple[str, float]]:
        """The classes of a picture with their probabilities, the most probable first.

        Raises:
            ValueError: It is no picture that can be read.
        """
        transform: Callable[[Any], Tensor] = create_transform(self.model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = open_image(io.BytesIO(content))
                if picture.width * picture.height > MOST_PIXELS:
                    raise ValueError(f"it has more than {MOST_PIXELS // 1_000_000} million pixels")
                picture.load()
                image = transform(picture)
        except ValueError as error:
            raise ValueError(one_line(error)) from None
        except Exception as error:  # whatever a decoder stumbles over in a damaged file
            why = one_line(reason(error)).partition(" <")[0]  # without the object that Pillow names
            raise ValueError(f"it cannot be read as a picture ({why})") from None
        device = next(self.model.parameters()).device
        probabilities = self.model(image[None].to(device)).float().softmax(dim=1)[0].cpu()
        names = pretrained_cfg_of(self.model).get("label_names") or ()
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return [(str(names[i]) if i < len(names) else str(i), float(probabilities[i])) for i in order]


class PictureServer(ThreadingHTTPServer):
    """Serves a classifier on 127.0.0.1.

    Args:
        classifier: What it asks, one picture at a time.
        port: 0 for any that is free.

    Raises:
        InputError: The port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, classifier: Classifier, port: int = 7860) -> None:
        self.classifier = classifier
        self.one_at_a_time = threading.Lock()
        template = files(__package__).joinpath("serve.html.j2").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        self.page = environment.from_string(template).render(title=classifier.title, most=MOST_BYTES).encode()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--port {port} cannot be used ({error}); give another") from None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def is_own(self, host: str) -> bool:
        """Whether a Host is this server, as the person at this machine calls it."""
        return host in (f"127.0.0.1:{self.port}", f"localhost:{self.port}")


class _Handler(BaseHTTPRequestHandler):
    """Answers a request: the page, or what a picture is taken for."""

    server: PictureServer
    timeout = TIMEOUT
    server_version, sys_version = "muscle_zoo", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self._is_from_here():
            return
        if self.path == "/":
            self._answer(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        if not self._is_from_here():
            return
        if self.path != "/predict":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        elif (content := self._body()) is not None:
            try:
                with self.server.one_at_a_time:
                    classes = self.server.classifier.predict(content)
            except ValueError as error:
                self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
                return
            answer = {"predictions": [{"class": name, "probability": value} for name, value in classes]}
            self._answer(HTTPStatus.OK, json.dumps(answer).encode(), "application/json")

    def _is_from_here(self) -> bool:
        """Refuses what another site's page sends, or what was sent to another name than ours."""
        origin = self.headers.get("Origin")
        own = self.server.is_own(self.headers.get("Host", ""))
        if own and (origin is None or self.server.is_own(origin.removeprefix("http://"))):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"open http://127.0.0.1:{self.server.port}/ itself")
        return False

    def _body(self) -> bytes | None:
        """What was sent; None where it was refused."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or self.headers.get("Transfer-Encoding"):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "it does not say how long it is")
        elif int(length[:20]) > MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"it is larger than {MOST_BYTES >> 20} MiB")
        elif len(content := self.rfile.read(int(length))) < int(length):
            self._refuse(HTTPStatus.BAD_REQUEST, "it is cut")
        else:
            return content
        return None

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what it may still send is not read
        self._answer(status, json.dumps({"error": why}).encode(), "application/json")

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        headers |= {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
        headers |= {"Referrer-Policy": "no-referrer"} | ({"Connection": "close"} if self.close_connection else {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what somebody looks at is nobody else's business."""
