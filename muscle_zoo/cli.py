"""``muscle-zoo``, ``python -m muscle_zoo``, train.py and eval.py: one command line, one set of exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .commands import eval as eval_command
from .commands import train as train_command
from .commands import zoo
from .errors import InputError, MuscleZooError

Command = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

COMMANDS: dict[str, Command] = {
    "train": ("train a recipe; without one, the quickstart", train_command.add_arguments, train_command.run),
    "eval": ("evaluate a checkpoint", eval_command.add_arguments, eval_command.run),
    "list": ("list checkpoints and recipes", zoo.add_list_arguments, zoo.run_list),
    "info": ("say what is known of a model", zoo.add_info_arguments, zoo.run_info),
    "export": ("add finished runs to the ledger and to hub_cards/", zoo.add_export_arguments, zoo.run_export),
    "cards": ("render cards and README tables from the ledger", zoo.add_cards_arguments, zoo.run_cards),
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None, command: str | None = None) -> int:
    """Runs a command.

    Args:
        argv: Words after the program's name; the process's own by default.
        command: The command, when the program is one (train.py); otherwise it is the first word.

    Returns:
        0 done; 1 it ran and a check or the training failed; 2 the input is wrong; 75 stopped with the state saved; 130
        interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        parser = _Parser(prog="muscle-zoo", description="A model zoo for learning from few labels.")
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
        for name, (text, add_arguments, _) in COMMANDS.items():
            add_arguments(commands.add_parser(name, help=text, description=text))
    else:
        text, add_arguments, _ = COMMANDS[command]
        parser = _Parser(prog=f"{command}.py", description=text)
        add_arguments(parser)
    args = parser.parse_intermixed_args(words) if command else parser.parse_args(words)
    try:
        return COMMANDS[command or args.command][2](args)
    except InputError as error:
        return _fail(2, str(error))
    except MuscleZooError as error:
        return _fail(1, str(error))
    except OSError as error:
        return _fail(1, f"{error}; free space, or check the path and its permissions")
    except KeyboardInterrupt:
        return _fail(130, "interrupted")


def _fail(code: int, message: str) -> int:
    from .commands.train import is_main

    if is_main():
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
