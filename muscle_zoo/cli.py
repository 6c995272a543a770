"""``muscle-zoo``, ``python -m muscle_zoo``, train.py and eval.py: one command line, one set of exit codes."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from . import __version__
from .commands import (
    bench,
    calibrate,
    cards,
    data,
    download,
    embed,
    export,
    info,
    ledger,
    predict,
    publish,
    report,
    serve,
    study,
    suggest,
    train,
    verify,
)
from .commands import eval as eval_command
from .commands import list as list_command
from .commands.terminal import printable
from .engine.processes import is_main_process
from .errors import ExitCode, InputError, MuscleZooError, Notice
from .errors import suggest as suggest_name

Command = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

COMMANDS: dict[str, Command] = {
    "train": ("train a recipe; without one, the quickstart", train.add_arguments, train.run),
    "eval": (
        "evaluate a checkpoint or a run, against its published figure",
        eval_command.add_arguments,
        eval_command.run,
    ),
    "list": ("list checkpoints and recipes, with their accuracy", list_command.add_arguments, list_command.run),
    "info": ("show what is known of a checkpoint, a recipe, or a word of its name", info.add_arguments, info.run),
    "predict": ("classify pictures with a checkpoint or a run", predict.add_arguments, predict.run),
    "suggest": ("choose pictures of a run to label next", suggest.add_arguments, suggest.run),
    "report": ("write a run's report.html anew", report.add_arguments, report.run),
    "serve": ("serve a page on this machine to drop pictures on", serve.add_arguments, serve.run),
    "embed": ("embed pictures by a pretrained network, with names and labels", embed.add_arguments, embed.run),
    "data": ("show a data set's split and its views, or check your own pictures", data.add_arguments, data.run),
    "study": ("compare methods, each with and without MUSCLE", study.add_arguments, study.run),
    "ledger": ("merge the ledgers of several machines", ledger.add_arguments, ledger.run),
    "bench": ("measure the speed of steps, evaluations and data", bench.add_arguments, bench.run),
    "export": ("add finished runs to the ledger and hub_cards/; or write ONNX", export.add_arguments, export.run),
    "calibrate": (
        "find the temperature of checkpoints that were exported without one",
        calibrate.add_arguments,
        calibrate.run,
    ),
    "download": ("fetch checkpoints into the cache, and check them", download.add_arguments, download.run),
    "publish": ("publish checkpoints of hub_cards/ to the Hugging Face Hub", publish.add_arguments, publish.run),
    "verify": ("check that checkpoints are what their cards say", verify.add_arguments, verify.run),
    "cards": ("render cards, tables and figures from the ledger", cards.add_arguments, cards.run),
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error here, and what may have been meant."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self._meant(message)}see {self.prog} --help\n")

    def _meant(self, message: str) -> str:
        """``did you mean '--out'?; `` where a command, a choice or an option is misspelled."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            word, known = choice[1], re.findall(r"[\w:/.-]+", choice[2])
        elif option := re.search(r"unrecognized arguments: .*?(--[\w-]+)", message):
            word, known = option[1], re.findall(r"--[a-z][\w-]*", self.format_usage())
        else:
            return ""
        said = suggest_name(word, known, n=1)
        return f"{said} " if said.startswith("did you mean") else ""


def main(argv: Sequence[str] | None = None, command: str | None = None) -> int:
    """Runs a command.

    Args:
        argv: Words after the program's name; the process's own by default.
        command: The command, when the program is one (train.py); otherwise it is the first word.

    Returns:
        0 done; 1 it ran and a check or the training failed, or it was interrupted; 2 the input is wrong; 75 stopped
        with the state saved.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prog = f"{command}.py"
    if command is None:
        parser = _Parser(prog="muscle-zoo", description="A model zoo for learning from few labels.")
        parser.add_argument("--version", action="version", version=f"muscle_zoo {__version__}")
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
        for name, (text, _, _) in COMMANDS.items():
            commands.add_parser(name, help=text, add_help=False)
        command = parser.parse_known_args(words[:1])[0].command
        prog, words = f"muscle-zoo {command}", words[1:]
    if strange := next((word for word in words if not _is_utf8(word)), None):
        shown = os.fsencode(strange).decode("utf-8", "replace")
        return _fail(ExitCode.WRONG_INPUT, f"{shown!r} is not UTF-8, so it could not be written into a card; rename it")
    text, add_arguments, run = COMMANDS[command]
    parser = _Parser(prog=prog, description=text)
    add_arguments(parser)
    args = parser.parse_intermixed_args(words)  # options may stand between key=value words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return run(args)
    except InputError as error:
        return _fail(ExitCode.WRONG_INPUT, str(error))
    except MuscleZooError as error:
        return _fail(ExitCode.FAILED, str(error))
    except BrokenPipeError:  # `... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except OSError as error:
        return _fail(ExitCode.FAILED, f"{error}; free space, or check the path and its permissions")
    except KeyboardInterrupt:
        return _fail(ExitCode.FAILED, "interrupted")


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning in one line, without the place in the code that gave it."""
    if is_main_process():
        kind = "note" if isinstance(message, Notice) else "warning"
        print(f"{kind}: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _is_utf8(word: str) -> bool:
    return word.encode("utf-8", "replace").decode() == word


def _fail(code: ExitCode, message: str) -> ExitCode:
    if is_main_process():
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
