"""`serve`: a page on this machine to drop pictures on."""

from __future__ import annotations

import argparse
import signal
from contextlib import suppress
from types import FrameType

from ..checkpoints.factory import create_model
from ..checkpoints.target import checkpoint_name
from ..engine.processes import device_for
from ..errors import ExitCode
from .terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `serve`."""
    parser.add_argument("name", help="a run folder, a name of `list`, local-dir:PATH or hf-hub:REPO")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="7860; 0 for any that is free")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    from ..auto.serve import Classifier, PictureServer

    model = create_model(checkpoint_name(args.name), pretrained=True).eval().to(device_for(args.cpu))
    server = PictureServer(Classifier(model, args.name.rstrip("/").rpartition("/")[2]), args.port)
    signal.signal(signal.SIGINT, _end)
    with suppress(KeyboardInterrupt), server:
        say(f"open http://127.0.0.1:{server.port}/ in a browser; it is for this machine alone; Ctrl-C ends it")
        server.serve_forever()
    say("")
    return ExitCode.DONE


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the server, once: another Ctrl-C would be an error while it ends, which is what was asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
