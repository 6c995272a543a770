"""Run folder -> card folder: the weights as they are published, evaluated as they are published."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save as safetensors_bytes
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from ..checkpoints.card import BLOCK, CONFIG_FILE
from ..checkpoints.registry import WEIGHTS_FILE
from ..data import DataSet, DataSetInfo, Split, normalize
from ..engine.build import Data, build_model, prepare_data
from ..engine.evaluate import Metrics, evaluate
from ..engine.frozen import evaluate_embedded, whole_network
from ..engine.head import is_linear
from ..engine.held_out import HeldOutCalibration
from ..engine.network import backbone_weights
from ..engine.options import TrainResult
from ..engine.run_folder import RunFolder
from ..engine.state import load_state
from ..errors import TrainingError
from ..files import file_sha256, read_json, write_json
from ..methods import takes_steps
from ..recipes import Recipe
from ..results.ledger import Row
from . import model_card
from .calibrated import Written, by_embeddings, with_temperature
from .card_metadata import license_of
from .ledger_row import make_row

SCHEMA = 1
HALF_TOLERANCE = 0.001  # accuracy that float16 parameters may cost: a quarter of the standard error on 10,000 images


def export_run(
    recipe: Recipe,
    folder: RunFolder,
    trained: TrainResult,
    data: Data | None = None,
    device: torch.device | str = "cpu",
) -> Row:
    """Writes ``export/`` of a finished run: what hub_cards/NAME/ and the Hub repo hold.

    The weights are the EMA weights of the last step, with float16 parameters where the accuracy stays within 0.1
    points and float32 otherwise; the temperature (of held-out pictures, if the folder has one, or else by
    :mod:`muscle_zoo.engine.calibration`) is in their classifier, which is float32 then. What is evaluated and hashed
    is the written file.

    Args:
        recipe: Of the run.
        folder: Of the run; its state is at the last step.
        trained: How the training ended.
        data: What it was trained on, if it is loaded already.
        device: Where the written weights are evaluated.

    Returns:
        The ledger row. Where no network can hold the classifier it is all there is: nothing is exported.

    Raises:
        TrainingError: The state of the last step is gone, or its weights are of no use.
    """
    ema, values = last_state(folder, trained.step)
    data = data or prepare_data(recipe, normalization=folder.read_normalization(recipe))
    if recipe.tune == "head" and not is_linear(ema):
        return _without_network(recipe, folder, trained, data, ema)
    model = trained_network(recipe, data.dataset, ema)
    ema = model.state_dict()
    part = folder.export_dir.with_name("export.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()

    def write(tensors: dict[str, Tensor]) -> Written:
        sha256 = _write_weights(model, tensors, recipe, data, trained.step, part)
        return Written(tensors, sha256, *evaluate_written(part, data, device, by_embeddings(recipe)))

    written = write(half_precision(model))
    assert trained.ema is not None
    if abs(written.metrics.top1 - trained.ema.top1) > HALF_TOLERANCE:
        written = write(ema)
    if not math.isfinite(nll := written.metrics.nll):
        raise TrainingError(f"the exported weights give a likelihood that is not finite ({nll}); lower lr")
    held_out = HeldOutCalibration.read(folder.calibration_file)
    written, calibration = with_temperature(written, recipe, data, write, held_out)
    if "why" in calibration:
        print(f"{recipe.name}: not calibrated, its temperature is 1: {calibration['why']}", file=sys.stderr)
    row = make_row(recipe, trained, written.metrics, data.split, written.sha256, calibration)
    # On the CPU, wherever it was trained: whoever checks these logits need not have the same device.
    logits = probe(written.model.cpu(), data.dataset.info)
    block = _block(recipe, data.split, written.metrics, row, logits, calibration)
    if "teacher_sha256" in values:
        block["teacher_sha256"] = values["teacher_sha256"]
    _write_config(model, recipe, data.dataset.info, block, part)
    _write_rest(folder, data, row, part)
    shutil.rmtree(folder.export_dir, ignore_errors=True)
    part.rename(folder.export_dir)
    folder.write_status("finished", trained.step, recipe.steps, row=asdict(row), data=data.source)
    return row


def last_state(folder: RunFolder, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The averaged weights of a run's last step, without the method's parts, and the plain values saved with them.

    Raises:
        TrainingError: The state of that step is not there, or not whole.
    """
    state = load_state(folder.state_dir)
    if state is None or state[1]["step"] != step:
        raise TrainingError(f"{folder.state_dir} holds no whole state of step {step}; run the same command again")
    parts, values = state
    return backbone_weights(parts["ema"]), values


def _without_network(
    recipe: Recipe, folder: RunFolder, trained: TrainResult, data: Data, ema: dict[str, Tensor]
) -> Row:
    """The row of a run whose classifier no network of timm's can hold: measured on embeddings, nothing is exported."""
    assert trained.ema is not None
    sha256 = hashlib.sha256(pack_safetensors(ema, {"format": "pt", "name": recipe.name})).hexdigest()
    before = {"nll_uncalibrated": trained.ema.nll, "ece_uncalibrated": trained.ema.ece}
    row = make_row(recipe, trained, trained.ema, data.split, sha256, {"temperature": 1.0, **before})
    kind = f"classifier={recipe.classifier}" if takes_steps(recipe.method) else f"method={recipe.method}"
    why = f"{kind} is no linear layer, and a network of timm's has no other classifier"
    print(f"{recipe.name}: nothing is exported: {why}", file=sys.stderr)
    shutil.rmtree(folder.export_dir, ignore_errors=True)
    facts = {"row": asdict(row), "data": data.source, "metrics": trained.ema.to_dict(), "without_network": why}
    folder.write_status("finished", trained.step, recipe.steps, **facts)
    return row


def trained_network(recipe: Recipe, dataset: DataSet, weights: dict[str, Tensor]) -> nn.Module:
    """The network that was trained, whole: with the frozen backbone, where only the classifier was.

    Args:
        recipe: The run's.
        dataset: Its images.
        weights: Of a saved state, without the parts of the method.
    """
    if recipe.tune == "head":
        return whole_network(recipe, dataset, weights).eval()
    model = build_model(replace(recipe, init=""), dataset).eval()
    model.load_state_dict(weights)
    return model


def _write_weights(
    model: nn.Module, tensors: dict[str, Tensor], recipe: Recipe, data: Data, step: int, part: Path
) -> str:
    """Writes the weights, and as much of config.json as loading them takes; returns their sha256."""
    metadata = {"format": "pt", "name": recipe.name, "step": str(step), "split_sha256": data.split.sha256}
    file = part / WEIGHTS_FILE
    file.write_bytes(pack_safetensors(tensors, metadata))
    sha256 = file_sha256(file)
    _write_config(model, recipe, data.dataset.info, {"weights_sha256": sha256}, part)
    return sha256


def evaluate_written(
    part: Path, data: Data, device: torch.device | str, embedded: bool = False
) -> tuple[nn.Module, Metrics]:
    """What plain timm makes of the written files, and what it does: no other weights than these are reported on.

    Args:
        part: The folder of the files.
        data: Its images to evaluate on.
        device: Where.
        embedded: Keep what its backbone gives in the cache, or take it from there: the file's own backbone, as written.
    """
    published = timm.create_model(f"local-dir:{part}", pretrained=True).eval().to(device)
    if embedded:
        return published, evaluate_embedded(published, data)
    return published, evaluate(published, data.evaluation, data.dataset.info)


def _block(
    recipe: Recipe, split: Split, metrics: Metrics, row: Row, logits: dict[str, Any], calibration: dict[str, Any]
) -> dict[str, Any]:
    """The muscle_zoo block of config.json: what the weights are, how they were made, and what they do."""
    return {
        **identity(recipe, split, row.weights_sha256, row.step),
        "metrics": metrics.to_dict(),
        "calibration": calibration,
        "probe": logits,
        "git_sha": row.git_sha,
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "device": row.device,
        "hours": row.hours,
    }


def identity(recipe: Recipe, split: Split, weights_sha256: str, step: int) -> dict[str, Any]:
    """What the muscle_zoo block says of any weights: which they are, and by which recipe and split."""
    return {
        "weights_sha256": weights_sha256,
        "schema": SCHEMA,
        "name": recipe.name,
        "method": recipe.method,
        "dataset": recipe.dataset,
        "labels": split.labels,
        "seed": recipe.seed,
        "split_sha256": split.sha256,
        "recipe": recipe.to_dict(),
        "recipe_sha256": recipe.sha256,
        "step": step,
    }


def _write_rest(folder: RunFolder, data: Data, row: Row, part: Path) -> None:
    """The files beside the weights and config.json: the split, the curves, the card."""
    dataset = data.dataset
    write_json(part / "split.json", data.split.to_dict(dataset.train.names, dataset.test.names))
    shutil.copyfile(folder.curves_file, part / "curves.png")
    config = json.loads((part / CONFIG_FILE).read_text(encoding="utf-8"))
    (part / "README.md").write_text(model_card.render_card(config, dataset.info, [row]), encoding="utf-8")


def pack_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Serializes tensors so that the same content gives the same bytes.

    safetensors writes the metadata in an order that changes from call to call; the header is written again, sorted.
    """
    raw = safetensors_bytes({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def probe(model: nn.Module, info: DataSetInfo) -> dict[str, Any]:
    """Logits of a fixed picture, by which anybody can tell whether a model was loaded right."""
    picture = probe_picture(info.input_size)
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(normalize(picture.to(device), info))[0]
    return {"input_sha256": hashlib.sha256(picture.numpy().tobytes()).hexdigest(), "logits": logits.tolist()}


def probe_picture(input_size: tuple[int, int, int]) -> Tensor:
    """The fixed picture, uint8 ``(1, C, H, W)``: ``37 i mod 256`` at position i."""
    return (torch.arange(math.prod(input_size)) * 37 % 256).to(torch.uint8).view(1, *input_size)


def half_precision(model: nn.Module) -> dict[str, Tensor]:
    """A network's weights with float16 parameters; buffers stay: float16 does not hold every running variance."""
    parameters = {name for name, _ in model.named_parameters()}
    return {
        name: value.half() if name in parameters and value.dtype == torch.float32 else value
        for name, value in model.state_dict().items()
    }


def _write_config(model: nn.Module, recipe: Recipe, info: DataSetInfo, block: dict[str, Any], folder: Path) -> None:
    cfg = info.timm_cfg()
    names = list(cfg.pop("label_names"))
    save_config(model, recipe, cfg, {"label_names": names, BLOCK: block}, folder)


def save_config(model: nn.Module, recipe: Recipe, cfg: dict[str, Any], root: dict[str, Any], folder: Path) -> None:
    """Writes config.json: what timm says of a model, ``cfg`` on top of its pretrained_cfg, and ``root`` beside it."""
    ours = {"paper_ids": "arXiv:2012.00150", "tag": recipe.name.partition(".")[2]}
    ours["license"] = license_of(recipe)
    config = {**root, "pretrained_cfg": {**ours, **cfg}}
    save_config_for_hf(model, str(folder / CONFIG_FILE), model_config=config)
    written = read_json(folder / CONFIG_FILE)
    # It stands at the root already, and transformers would give it to the network a second time.
    written.get("model_args", {}).pop("num_classes", None)
    written["dtype"] = "float32"  # else it would compute in float16, as the parameters are stored
    write_json(folder / CONFIG_FILE, written)
