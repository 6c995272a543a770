"""What a client of ``tests.hub_server`` asks, and what it is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Reply:
    """An answer; ``start`` says where in the whole content the body begins."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    start: int = 0

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **names})


class Refusal(Exception):
    """An error that the client is told of; the code selects its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        codes = {"X_Error_Code": code} if code else {}
        self.reply = Reply.json({"error": message}, status, X_Error_Message=message, **codes, **headers)
