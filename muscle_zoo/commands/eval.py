"""`eval`: a checkpoint becomes its metrics, compared with what was published."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import ExitCode
from ..results.stats import of_few
from .arguments import add_source_arguments, source_of
from .terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("target", help="a name, a run folder, local-dir:PATH or hf-hub:REPO[@revision]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--attack",
        default="",
        metavar="pgd:EPS[:STEPS]",
        help="also change the pixels by up to EPS, 0 to 1, to mislead it",
    )
    parser.add_argument("--source", choices=("hub",), help="take a name's weights from the Hugging Face Hub")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates, prints, and compares with the published figure."""
    from ..sessions.evaluate import evaluate_checkpoint

    evaluation = evaluate_checkpoint(args.target, source_of(args), args.source, args.cpu, args.attack)
    report = evaluation.to_dict()
    print(json.dumps(report, indent=2) if args.json else render(report))
    return ExitCode.FAILED if evaluation.reproduced is False else ExitCode.DONE


def render(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    few = of_few(report["n"])
    lines = [
        f"{report['name']} ({report['origin']})",
        f"{report['dataset']}, {report['n']} images of the {report['fold']} fold",
        f"  top-1                {100 * report['top1']:6.2f} %{few}",
        *([f"  top-5                {100 * report['top5']:6.2f} %{few}"] if len(report["per_class"]) > 5 else []),
        f"  neg. log-likelihood  {report['nll']:6.3f} nats",
        f"  calibration error    {100 * report['ece']:6.2f} %",
    ]
    if "attack" in report:
        lines.insert(3, f"  top-1, {report['attack']:<13} {100 * report['attacked_top1']:6.2f} %{few}")
    if report["fold"] == "labeled":
        lines.insert(2, "  It was trained on these pictures: what follows says nothing of new ones.")
    if report["temperature"] != 1:
        lines.append(f"  temperature          {report['temperature']:6.3f} (in the weights)")
    lines.append(f"  accuracy per class{few and f', {few.strip()} in all'}")
    for label, accuracy in report["per_class"].items():
        lines.append(f"    {printable(label):<18} " + ("no images" if accuracy is None else f"{100 * accuracy:6.2f} %"))
    figure = report["published"]
    verdict = {True: "reproduced", False: "NOT reproduced", None: f"of {figure['n']} other images: not compared"}
    lines.append(
        f"figure in config.json: {100 * figure['top1']:.2f} %{of_few(figure['n'])}, {verdict[figure['reproduced']]}"
    )
    return "\n".join(lines)
