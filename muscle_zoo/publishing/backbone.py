"""A run without a classifier -> ``export/``: the network that others begin with, and what its features are worth."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..checkpoints.card import BLOCK, pretrained_cfg_of, without_classifier
from ..checkpoints.registry import WEIGHTS_FILE
from ..data import DataSetInfo
from ..engine.build import Data, build_model, prepare_data
from ..engine.evaluate import Metrics, evaluate
from ..engine.nearest_neighbors import NearestNeighbors, references_of
from ..engine.options import TrainResult
from ..engine.run_folder import RunFolder
from ..files import file_sha256, write_json
from ..recipes import Recipe
from .backbone_card import render_backbone_card
from .export import HALF_TOLERANCE, half_precision, identity, last_state, pack_safetensors, probe, save_config
from .ledger_row import git_sha


def export_backbone(
    recipe: Recipe,
    folder: RunFolder,
    trained: TrainResult,
    data: Data | None = None,
    device: torch.device | str = "cpu",
) -> Metrics:
    """Writes ``export/`` of a finished run whose method trains no classifier.

    The weights are the EMA weights of the last step without the method's parts: ``num_classes`` is 0, and plain timm
    loads them as such, or with a new classifier. Their parameters are float16 where the accuracy of the features'
    nearest neighbors stays within 0.1 points. There is no ledger row: the ledger is of classifiers.

    Args:
        recipe: Of the run.
        folder: Of the run; its state is at the last step.
        trained: How the training ended.
        data: What it was trained on, if it is loaded already.
        device: Where the written weights are evaluated.

    Returns:
        What the written features' nearest neighbors do on the images of the recipe's fold.

    Raises:
        TrainingError: The state of the last step is gone.
    """
    ema, _ = last_state(folder, trained.step)
    data = data or prepare_data(recipe)
    info = data.dataset.info
    model = build_model(replace(recipe, init=""), data.dataset).eval()
    model.load_state_dict(ema)
    part = folder.export_dir.with_name("export.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    published, metrics = _write(model, half_precision(model), recipe, data, trained, part, device)
    assert trained.ema is not None
    if abs(metrics.top1 - trained.ema.top1) > HALF_TOLERANCE:
        published, metrics = _write(model, ema, recipe, data, trained, part, device)
    block = _block(recipe, trained, data, metrics, file_sha256(part / WEIGHTS_FILE)) | {"probe": probe(published, info)}
    _describe(model, recipe, info, block, part)
    write_json(part / "split.json", data.split.to_dict(data.dataset.train.names, data.dataset.test.names))
    shutil.copyfile(folder.curves_file, part / "curves.png")
    config = {"architecture": pretrained_cfg_of(model)["architecture"], BLOCK: block}
    (part / "README.md").write_text(render_backbone_card(config, info), encoding="utf-8")
    shutil.rmtree(folder.export_dir, ignore_errors=True)
    part.rename(folder.export_dir)
    facts = {"knn": round(metrics.top1, 6), "n": metrics.n, "dtype": trained.dtype, "hours": block["hours"]}
    folder.write_status("finished", trained.step, recipe.steps, **facts, data=data.source)
    return metrics


def _write(
    model: nn.Module,
    tensors: dict[str, Tensor],
    recipe: Recipe,
    data: Data,
    trained: TrainResult,
    part: Path,
    device: torch.device | str,
) -> tuple[nn.Module, Metrics]:
    """Writes weights, and measures the features of what plain timm makes of the file; the model is on the CPU."""
    info = data.dataset.info
    metadata = {"format": "pt", "name": recipe.name, "step": str(trained.step), "split_sha256": data.split.sha256}
    file = part / WEIGHTS_FILE
    file.write_bytes(pack_safetensors(tensors, metadata))
    _describe(model, recipe, info, {"weights_sha256": file_sha256(file)}, part)
    published = timm.create_model(f"local-dir:{part}", pretrained=True).eval().to(device)
    metrics = evaluate(NearestNeighbors(published, references_of(data), info), data.evaluation, info)
    return published.cpu(), metrics


def _describe(model: nn.Module, recipe: Recipe, info: DataSetInfo, block: dict[str, Any], part: Path) -> None:
    save_config(model, recipe, without_classifier(info.timm_cfg()), {BLOCK: block}, part)


def _block(recipe: Recipe, trained: TrainResult, data: Data, metrics: Metrics, sha256: str) -> dict[str, Any]:
    """The muscle_zoo block of config.json; ``probe`` holds features where a classifier's holds logits."""
    split = data.split
    measured = {"top1": metrics.top1, "n": metrics.n, "references": len(references_of(data))}
    return {
        **identity(recipe, split, sha256, trained.step),
        "neighbors": measured,
        "git_sha": git_sha(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "device": trained.device,
        "dtype": trained.dtype,
        "threads": trained.threads,
        "processes": trained.processes,
        "hours": round(trained.seconds / 3600, 5),
    }
