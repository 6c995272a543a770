"""What the commands print for people."""

from __future__ import annotations

import sys


def is_terminal() -> bool:
    """Whether somebody looks at the output; otherwise a file or a program takes it."""
    return sys.stdout.isatty()


def printable(name: str) -> str:
    """A name on one line: a file or a class may be called anything, a line break or a terminal's command too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def say(text: str) -> None:
    """Prints text that has names of files and classes in it, which not every output's encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
