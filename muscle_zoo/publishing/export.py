"""Run folder -> card folder: the weights as they are published, evaluated as they are published."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
import subprocess
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
from ..data import DataSetInfo, Split, normalize
from ..engine.build import Data, build_model, prepare_data
from ..engine.evaluate import Metrics, evaluate
from ..engine.options import TrainResult
from ..engine.run_folder import RunFolder
from ..engine.state import load_state
from ..errors import TrainingError
from ..files import file_sha256, write_json
from ..recipes import Recipe
from ..results.ledger import Row
from . import model_card as cards

SCHEMA = 1
HALF_TOLERANCE = 0.0002  # accuracy that float16 parameters may cost: 0.02 points


def export_run(recipe: Recipe, folder: RunFolder, trained: TrainResult, data: Data | None = None) -> Row:
    """Writes ``export/`` of a finished run: what hub_cards/NAME/ and the Hub repo hold.

    The weights are the averaged ones of the last step, with float16 parameters where the accuracy stays within 0.02
    points and float32 otherwise. What is evaluated and hashed is the written file.

    Args:
        recipe: Of the run.
        folder: Of the run; its state is at the last step.
        trained: How the training ended.
        data: What it was trained on, if it is loaded already.

    Returns:
        The ledger row.

    Raises:
        TrainingError: The state of the last step is gone, or its weights are of no use.
    """
    loaded = load_state(folder.state_dir)
    if loaded is None or loaded[1]["step"] != trained.step:
        raise TrainingError(
            f"{folder.state_dir} holds no whole state of step {trained.step}; run the same command again"
        )
    data = data or prepare_data(recipe)
    dataset, split, evaluation = data.dataset, data.split, data.evaluation
    info = dataset.info
    model = build_model(replace(recipe, init=""), dataset).eval()
    model.load_state_dict(loaded[0]["ema"])
    part = folder.export_dir.with_name("export.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    weights = part / WEIGHTS_FILE
    metadata = {"format": "pt", "name": recipe.name, "step": str(trained.step), "split_sha256": split.sha256}

    block: dict[str, Any] = {}

    def publish(tensors: dict[str, Tensor]) -> tuple[nn.Module, Metrics]:
        """Writes the weights, and evaluates what was written."""
        weights.write_bytes(pack_safetensors(tensors, metadata))
        block["weights_sha256"] = file_sha256(weights)
        _write_config(model, recipe, info, block, part)
        published = timm.create_model(f"local-dir:{part}", pretrained=True).eval()
        return published, evaluate(published, evaluation, info)

    assert trained.ema is not None
    published, metrics = publish({key: _half(key, value, model) for key, value in model.state_dict().items()})
    on_cpu = trained.device.startswith("cpu")  # another device rounds differently
    whole = trained.ema if on_cpu else evaluate(model, evaluation, info)
    if abs(metrics.top1 - whole.top1) > HALF_TOLERANCE:
        published, metrics = publish(loaded[0]["ema"])
    if not math.isfinite(metrics.nll):
        raise TrainingError(f"the exported weights give a likelihood that is not finite ({metrics.nll}); lower lr")
    row = _row(recipe, trained, metrics, split, block["weights_sha256"])
    block |= {
        "schema": SCHEMA,
        "name": recipe.name,
        "method": recipe.method,
        "dataset": recipe.dataset,
        "labels": split.labels,
        "seed": recipe.seed,
        "split_sha256": split.sha256,
        "recipe": recipe.to_dict(),
        "recipe_sha256": recipe.sha256,
        "step": trained.step,
        "metrics": metrics.to_dict(),
        "probe": probe(published, info),
        "git_sha": row.git_sha,
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "device": row.device,
        "hours": row.hours,
    }
    _write_config(model, recipe, info, block, part)
    write_json(part / "split.json", split.to_dict(dataset.train.names, dataset.test.names))
    shutil.copyfile(folder.curves_file, part / "curves.png")
    config = json.loads((part / CONFIG_FILE).read_text(encoding="utf-8"))
    (part / "README.md").write_text(cards.render_card(config, info, [row]), encoding="utf-8")
    shutil.rmtree(folder.export_dir, ignore_errors=True)
    part.rename(folder.export_dir)
    folder.write_status("finished", trained.step, recipe.steps, row=asdict(row), data=data.source)
    return row


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


def _half(key: str, value: Tensor, model: nn.Module) -> Tensor:
    is_parameter = key in dict(model.named_parameters())
    return value.half() if is_parameter and value.dtype == torch.float32 else value


def _write_config(model: nn.Module, recipe: Recipe, info: DataSetInfo, block: dict[str, Any], folder: Path) -> None:
    cfg = info.timm_cfg()
    names = list(cfg.pop("label_names"))
    ours = {"paper_ids": "arXiv:2012.00150", "tag": recipe.name.partition(".")[2]}
    ours["license"] = cards.license_of(recipe.init)
    config = {"label_names": names, "pretrained_cfg": {**ours, **cfg}, BLOCK: block}
    save_config_for_hf(model, folder / CONFIG_FILE, model_config=config)


def _row(recipe: Recipe, trained: TrainResult, metrics: Metrics, split: Split, weights: str) -> Row:
    assert trained.raw is not None and trained.median20 is not None
    return Row(
        name=recipe.name,
        recipe_sha256=recipe.sha256,
        seed=recipe.seed,
        bias=split.bias,
        step=trained.step,
        top1_ema=round(metrics.top1, 6),
        top1_raw=round(trained.raw.top1, 6),
        top1_median20=round(trained.median20, 6),
        nll=round(metrics.nll, 6),
        ece=round(metrics.ece, 6),
        n_test=metrics.n,
        split_sha256=split.sha256,
        weights_sha256=weights,
        git_sha=git_sha(),
        torch=torch.__version__,
        device=trained.device,
        threads=trained.threads,
        processes=trained.processes,
        dtype=trained.dtype,
        hours=round(trained.seconds / 3600, 5),
    )


def git_sha() -> str:
    """Commit of the checkout that this package runs from; empty when it does not run from one."""
    here = Path(__file__).resolve().parent.parent  # the package: changes are looked for in all of it

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here.parent:
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")  # seen from `here`
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
