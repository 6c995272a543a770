"""`suggest`: which pictures of a run to label next."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ..checkpoints.target import one_run
from ..errors import ExitCode
from .arguments import add_source_arguments, source_of
from .terminal import printable, say

if TYPE_CHECKING:
    from ..auto.suggestions import Suggestions

RULES_IN_WORDS = (
    "the least sure of several clusters (diverse, the default), the least sure (margin), the farthest from what has a "
    "label (coreset), where averaged and plain weights disagree (disagreement), the most typical of the clusters with "
    "the fewest labels (typical), or by chance (random)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `suggest`."""
    parser.add_argument("run", type=Path, help="the folder of a finished run; it remembers its pictures")
    parser.add_argument("-n", type=int, default=50, dest="number", metavar="N", help="how many pictures (50)")
    parser.add_argument(
        "--out", type=Path, default=Path("next.csv"), metavar="FILE", help="a .csv, or a .json for Label Studio"
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw the pictures, too: a .png, .pdf, ...")
    parser.add_argument("--rule", default="diverse", help=RULES_IN_WORDS)
    parser.add_argument("--seed", type=int, default=0, help="of clusters, and of `random` (0)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Chooses, writes, and says how the labels come back."""
    from ..auto.suggestions import check_out, suggest_pictures

    check_out(args.out)
    found = suggest_pictures(one_run(args.run), args.number, args.rule, source_of(args), args.seed, args.cpu)
    found.write(args.out)
    if args.sheet:
        found.draw(args.sheet)
    say(summary(found, args.out, args.sheet))
    return ExitCode.DONE


def summary(found: Suggestions, out: Path, sheet: Path | None) -> str:
    """What was written, and what to do with it."""
    counts = Counter(one.label for one in found.chosen)
    shown = ", ".join(f"{printable(label)} {number}" for label, number in counts.most_common(12))
    left = len(found.pictures.unlabeled)
    lines = [f"{out}: {len(found.chosen)} of {left:,} unlabeled pictures, by {found.rule} (taken for: {shown})"]
    if sheet:
        lines.append(f"{sheet}: how they look")
    if out.suffix.lower() == ".json":
        root = found.pictures.root
        documents = root.parent if isinstance(root, Path) else ""
        choices = "".join(f'<Choice value="{printable(name)}"/>' for name in found.pictures.class_names)
        lines += [
            "Label Studio: set LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={documents}, with the interface",
            '  <View><Image name="image" value="$image"/><Choices name="label" toName="image">'
            f"{choices}</Choices></View>",
            "then export as JSON, and train with it: muscle-zoo train EXPORT.json --out NEW",
        ]
    elif found.pictures.source is not None:
        lines.append(f"fill in the column label, and train with it: muscle-zoo train {quote(str(out))} --out NEW")
    return "\n".join(lines)
