"""What a model card says of a checkpoint's probabilities: how they were calibrated, and whether to rely on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.held_out import HELD_OUT_RULE
from ..methods import base_of
from ..recipes import get_recipe
from ..recipes.names import parse_name, with_method
from ..results.ledger import Row, runs_of

SURE = 0.05  # an expected calibration error above which a card warns


def calibration_text(block: dict[str, Any], rows: Sequence[Row], named: bool) -> list[str]:
    """The paragraphs on likelihood and calibration, each followed by an empty line.

    Args:
        block: Our block of config.json.
        rows: The ledger.
        named: Whether the recipe is that of the zoo's name, so that the ledger has its controls.
    """
    metrics, said = block["metrics"], block.get("calibration") or {}
    text = f"Negative log-likelihood {metrics['nll']:.3f} nats, expected calibration error {100 * metrics['ece']:.1f} %"
    if metrics["ece"] > SURE:
        # A temperature may also have made it less sure than it is right.
        plain = said.get("temperature", 1) == 1
        off = "it is surer than it is right" if plain else "it is surer or less sure than it is right"
        text += f": {off}, so do not take its probabilities at their word"
    text += "."
    control = _control(block, rows) if named else None
    if control is not None and metrics["nll"] > control[1].nll:
        text += f" The likelihood is worse than that of `{control[0]}` on the same labels ({control[1].nll:.3f} nats)."
    return [text, "", *_how(said)]


def _how(said: dict[str, Any]) -> list[str]:
    """How the temperature was found, and what it changed; nothing for weights that are older than that."""
    if not said:
        return []
    if "why" in said:
        return [f"It is not calibrated: {said['why']}.", ""]
    if said.get("rule") == HELD_OUT_RULE:
        return [_by_labels(said), ""]
    agreed = (
        f"two weak views of {said['images']} unlabeled training images have the same class for "
        f"{100 * said['agreement_weak']:.1f} % of them, and its mean confidence was {100 * said['confidence']:.1f} %"
    )
    if said["temperature"] == 1:
        return [f"Its logits are not divided by a temperature, for {agreed}.", ""]
    return [
        f"It is calibrated without labels: its logits are divided by {said['temperature']:g}, which is in the weights "
        f"of its classifier, for {agreed} (the rule is in config.json). Before, its negative log-likelihood "
        f"was {said['nll_uncalibrated']:.3f} nats and its expected calibration error "
        f"{100 * said['ece_uncalibrated']:.1f} %; its accuracy was the same.",
        "",
    ]


def _by_labels(said: dict[str, Any]) -> str:
    """How the temperature was found on labeled pictures that were held out."""
    return (
        f"It is calibrated by labels: its logits are divided by {said['temperature']:g}, which is in the weights of "
        f"its classifier. In a cross-validation it was right in {100 * said['accuracy']:.1f} % of {said['images']} "
        f"labeled pictures, and its mean confidence was {100 * said['confidence']:.1f} %. Without that, its negative "
        f"log-likelihood were {said['nll_uncalibrated']:.3f} nats and its expected calibration error "
        f"{100 * said['ece_uncalibrated']:.1f} %."
    )


def _control(block: dict[str, Any], rows: Sequence[Row]) -> tuple[str, Row] | None:
    """The control of the same seed, and its method: without MUSCLE, or supervised; None where it was not run."""
    method = parse_name(block["name"])["method"]
    control = base_of(method) if base_of(method) != method else "supervised"
    if control == method:
        return None
    recipe = get_recipe(with_method(block["name"], control))
    runs = runs_of(rows, recipe.name, recipe.sha256)
    return next(((control, run) for run in runs if run.seed == block["seed"]), None)
