"""Whether a published checkpoint is what its card says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoints import weights
from ..checkpoints.card import BLOCK, CONFIG_FILE, as_trained
from ..checkpoints.factory import load_model
from ..checkpoints.preprocessing import preprocessing_fault
from ..checkpoints.registry import CARD_FILES
from ..data import dataset_info
from ..errors import MuscleZooError
from ..files import read_untrusted_json
from ..results.ledger import Row, runs_of
from . import model_card as cards
from .backbone_card import render_backbone_card
from .export import probe

LOGITS = 1e-4  # how far a probe's logits may be from those in config.json


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: files, hash, model, preprocessing, probe, split, ledger, card or accuracy.
        passed: Whether it is as promised; None where that could not be looked at.
        text: What it is like, or what is wrong with it.
    """

    what: str
    passed: bool | None
    text: str


def verify(name: str, rows: Sequence[Row], source: str | None = None) -> list[Check]:
    """Checks a checkpoint of the zoo.

    Args:
        name: A checkpoint's name, ``hf-hub:REPO[@revision]`` or ``local-dir:PATH``.
        rows: The ledger.
        source: ``hub`` to check what is on the Hub although the weights are on disk.

    Returns:
        What was checked, up to the first thing without which the next ones make no sense.

    Example:
        >>> [check.what for check in verify("cnn4.muscle_digits_10", []) if check.passed]
        ['files', 'hash', 'model', 'preprocessing', 'probe', 'split']
    """
    checks: list[Check] = []
    try:
        checkpoint = weights.fetch(name, source)
        folder, config = checkpoint.folder, checkpoint.config
        missing = [file for file in CARD_FILES if not (folder / file).is_file()]
        checks.append(Check("files", not missing, f"missing: {', '.join(missing)}" if missing else str(folder)))
        if missing:
            return checks
        block = config[BLOCK]
        checks.append(_same("hash", checkpoint.sha256, block["weights_sha256"]))
        model = load_model(checkpoint).eval()
        checks.append(Check("model", True, config["architecture"]))
        info = as_trained(dataset_info(block["dataset"]), config)
        fault = preprocessing_fault(model, info)
        checks.append(Check("preprocessing", not fault, fault or "as in training"))
        checks.append(_probe(probe(model, info), block["probe"]))
        split = read_untrusted_json(folder / "split.json")
        checks.append(_same("split", split["sha256"], block["split_sha256"]))
        text = (folder / "README.md").read_text(encoding="utf-8")
        if config.get("num_classes") == 0:  # no ledger has it
            same = text == render_backbone_card(config, info)
            return [
                *checks,
                Check("card", same, "equals config.json" if same else "README.md is not of this config.json"),
            ]
        runs = [row for row in runs_of(rows, block["name"], block["recipe_sha256"]) if row.seed == block["seed"]]
        checks.append(_ledger(block, runs))
        if not runs:
            return checks
        same = text == cards.render_card(config, info, rows)
        checks.append(Check("card", same, "equals the ledger" if same else "README.md is not what the ledger gives"))
    except MuscleZooError as error:
        checks.append(Check(_next(checks), False, str(error)))
    except (LookupError, TypeError, ValueError, OSError) as error:
        checks.append(Check(_next(checks), False, f"{CONFIG_FILE} or a file beside it is damaged ({error!r})"))
    return checks


def _next(checks: Sequence[Check]) -> str:
    order = ("files", "hash", "model", "preprocessing", "probe", "split", "ledger", "card")
    return order[len(checks)]


def _same(what: str, actual: str, promised: str) -> Check:
    text = actual[:16] if actual == promised else f"{actual[:16]}, promised {promised[:16]}"
    return Check(what, actual == promised, text)


def _probe(actual: dict[str, Any], promised: dict[str, Any]) -> Check:
    if actual["input_sha256"] != promised["input_sha256"] or len(actual["logits"]) != len(promised["logits"]):
        return Check("probe", False, "of another picture")
    off = max(abs(a - b) for a, b in zip(actual["logits"], promised["logits"], strict=True))
    return Check("probe", off <= LOGITS, f"logits within {off:.1e}")


def _ledger(block: dict[str, Any], runs: Sequence[Row]) -> Check:
    if not runs:
        return Check("ledger", False, f"no row of {block['name']}, seed {block['seed']}")
    if runs[0].weights_sha256 != block["weights_sha256"]:
        return Check("ledger", False, f"it has other weights of seed {block['seed']}: {runs[0].weights_sha256[:16]}")
    same = abs(runs[0].top1_ema - block["metrics"]["top1"]) < 1e-6
    text = f"top-1 {100 * runs[0].top1_ema:.2f} %"
    return Check("ledger", same, text if same else f"{text} there, {100 * block['metrics']['top1']:.2f} % here")
