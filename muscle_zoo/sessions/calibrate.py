"""A checkpoint that was exported without a temperature gets one, without being trained again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoints import registry, weights
from ..checkpoints.card import BLOCK, CONFIG_FILE, calibration_of, normalization_said
from ..checkpoints.factory import load_model
from ..checkpoints.target import checkpoint_name
from ..data import DataConfig
from ..engine.build import Data, prepare_data
from ..engine.evaluate import Metrics, evaluate
from ..engine.processes import device_for
from ..engine.run_folder import RunFolder
from ..errors import CalibrationError, InputError, WeightsError
from ..files import file_sha256, read_untrusted_json, write_json
from ..publishing.calibrated import Written, with_temperature
from ..publishing.export import evaluate_written, pack_safetensors, probe
from ..publishing.model_card import render_card
from ..publishing.release import read_finished_run, replace_card
from ..recipes import Recipe
from ..results.ledger import Row, merge, read_ledger, runs_of
from .evaluate import read_block, same_accuracy


def calibrate_checkpoint(
    target: str, out: Path | None = None, data: DataConfig | None = None, cpu: bool = False
) -> tuple[Row, list[str]]:
    """Finds the temperature of a checkpoint, folds it into its classifier, and replaces its card and its ledger row.

    Args:
        target: A checkpoint of a hub_cards folder, by its name or its folder; or a run folder.
        out: A hub_cards folder for the card and the row; by default they take the place of the old ones: where the
            checkpoint is, or in the run folder's ``export/`` and ``status.json``.
        data: Where the data are, and how they are read.
        cpu: Stay on the CPU.

    Returns:
        The row, and what was done, one line each.

    Raises:
        InputError: There is no such checkpoint or no row of it, it is calibrated already, the data are not those it was
            trained on, or its accuracy here is not the published one (see :func:`same_accuracy`); nothing was written.
        CalibrationError: It has no classifier that a temperature could be folded into; nothing was written.
    """
    card = _card_of(target)
    run = RunFolder(card.parent) if (card.parent / "status.json").is_file() else None
    with ExitStack() as stack:
        if run is not None:
            stack.enter_context(run.locked())
        checkpoint = weights.from_folder(card)
        recipe, _, _ = read_block(target, checkpoint.config)
        ledger = registry.LEDGER_FILE if recipe.fold == "test" else registry.DEV_LEDGER_FILE
        rows = [read_finished_run(run.path).row] if run is not None else read_ledger(card.parent / ledger)
        new = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "card"
        row = recalibrate(checkpoint, rows, new, data, device_for(cpu))
        if run is None or out is not None:
            to = out or (registry.checkout() / "hub_cards" if card.parent == registry.shipped_cards() else card.parent)
            lines = replace_card(new, row, to, ledger)
            return row, [*lines, "now run `muscle-zoo cards render`: cards and pages quote the ledger"]
        part = run.export_dir.with_name("export.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(new, part)
        shutil.rmtree(run.export_dir)
        part.rename(run.export_dir)
        write_json(run.status_file, {**run.read_status(), "row": asdict(row)})
        return row, [f"{run.export_dir} and the row in {run.status_file.name}"]


def _card_of(target: str) -> Path:
    """The folder of a checkpoint on disk."""
    name = checkpoint_name(target)
    folder = Path(name.removeprefix(weights.LOCAL_DIR)) if name.startswith(weights.LOCAL_DIR) else None
    folder = folder or registry.find_card(name)
    if folder is None:
        raise InputError(f"{target} is no checkpoint on disk; give one of hub_cards/, or a run folder")
    return folder


def recalibrate(
    checkpoint: weights.Checkpoint, rows: Sequence[Row], new: Path, source: DataConfig | None, device: torch.device
) -> Row:
    """Writes the card of a checkpoint with its temperature.

    Args:
        checkpoint: In its card's folder.
        rows: The ledger, with its row.
        new: Folder to be made for the new card.
        source: Where the data are, and how they are read.
        device: Where it is evaluated.

    Returns:
        Its row with the new hash, likelihood and temperature; the training is the old one's.

    Raises:
        InputError: As in :func:`calibrate_checkpoint`.
        CalibrationError: As there.
    """
    config, origin = checkpoint.config, checkpoint.origin
    if (temperature := calibration_of(config)["temperature"]) != 1:
        raise InputError(f"{origin} is calibrated already (temperature {temperature:g}); give one that is not")
    recipe, top1, n = read_block(origin, config)
    block = config[BLOCK]
    row = next((r for r in runs_of(rows, recipe.name, block["recipe_sha256"]) if r.seed == recipe.seed), None)
    if row is None or row.weights_sha256 != checkpoint.sha256:
        raise InputError(f"{origin}: the ledger beside it has no row of these weights; give a checkpoint of hub_cards/")
    data = _data_of(origin, recipe, config, source)
    model = load_model(checkpoint).eval().to(device)
    metrics = evaluate(model, data.evaluation, data.dataset.info)
    if metrics.n != n or round(top1, 6) != row.top1_ema or not same_accuracy(metrics.top1, top1, n):
        raise WeightsError(
            f"{origin} has a top-1 of {metrics.top1:.6f} of {metrics.n} images here, {top1:.6f} of {n} in its "
            f"config.json and {row.top1_ema:.6f} in the ledger; use the machine and the data it was exported with"
        )
    shutil.copytree(checkpoint.folder, new)
    write = _writer(checkpoint, new, data, device)
    before = Written(load_file(checkpoint.weights), checkpoint.sha256, model, metrics)
    written, said = with_temperature(before, recipe, data, write)
    if "why" in said:
        raise CalibrationError(f"{origin} cannot be calibrated: {said['why']}")
    row = replace(
        row,
        weights_sha256=written.sha256,
        top1_ema=round(written.metrics.top1, 6),  # of the same device as the likelihood
        nll=round(written.metrics.nll, 6),
        ece=round(written.metrics.ece, 6),
        temperature=said["temperature"],
        nll_uncalibrated=round(said["nll_uncalibrated"], 6),
        ece_uncalibrated=round(said["ece_uncalibrated"], 6),
    )
    logits = probe(written.model.cpu(), data.dataset.info)
    _describe(new, data, merge(rows, [row]), written.sha256, written.metrics, said, logits)
    return row


def _data_of(origin: str, recipe: Recipe, config: dict[str, Any], source: DataConfig | None) -> Data:
    """The data that a checkpoint was trained on."""
    if recipe.split:
        raise WeightsError(
            f"{origin}: recipe.split={recipe.split!r} names a file, and none is opened that a checkpoint names; "
            "train it again"
        )
    data = prepare_data(replace(recipe, init=""), source, normalization=normalization_said(config))
    same = list(data.dataset.info.class_names) == list(config.get("label_names", []))
    if not same or data.split.sha256 != config[BLOCK]["split_sha256"]:
        raise InputError(f"{origin} was trained on other images of {recipe.dataset}; give --data with the same ones")
    return data


def _writer(
    checkpoint: weights.Checkpoint, new: Path, data: Data, device: torch.device
) -> Callable[[dict[str, Tensor]], Written]:
    """What writes tensors into the new card and evaluates what is in it."""
    with safe_open(checkpoint.weights, framework="pt") as file:
        metadata = file.metadata() or {}

    def write(tensors: dict[str, Tensor]) -> Written:
        path = new / registry.WEIGHTS_FILE
        path.write_bytes(pack_safetensors(tensors, metadata))
        return Written(tensors, file_sha256(path), *evaluate_written(new, data, device))

    return write


def _describe(
    new: Path,
    data: Data,
    rows: Sequence[Row],
    sha256: str,
    metrics: Metrics,
    said: dict[str, Any],
    logits: dict[str, Any],
) -> None:
    """Writes config.json and the model card of the new weights."""
    config = read_untrusted_json(new / CONFIG_FILE)
    changed = {"weights_sha256": sha256, "metrics": metrics.to_dict(), "calibration": said, "probe": logits}
    config[BLOCK] = {**config[BLOCK], **changed}
    write_json(new / CONFIG_FILE, config)
    (new / "README.md").write_text(render_card(config, data.dataset.info, rows), encoding="utf-8")
