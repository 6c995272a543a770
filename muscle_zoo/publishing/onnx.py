"""A checkpoint as ONNX, checked against the model that it was made from."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from ..checkpoints import weights
from ..checkpoints.card import BLOCK, timm_cfg
from ..checkpoints.factory import load_model
from ..checkpoints.target import checkpoint_name
from ..errors import InputError, MuscleZooError
from ..files import write_bytes
from .export import probe_picture

TOLERANCE = 1e-4  # between the logits of torch and of onnxruntime
_LARGE = 10.0  # logits above which their differences are taken as a share
PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter needs the first and the last


def export_onnx(target: str, file: Path | None = None) -> tuple[Path, float]:
    """Writes a checkpoint as ONNX.

    Args:
        target: A name, a run folder, ``local-dir:PATH`` or ``hf-hub:REPO``.
        file: Where to; NAME.onnx by default.

    Returns:
        The file, and the largest difference between its logits and torch's.

    Raises:
        InputError: There is no such checkpoint, or a package is missing; nothing was written.
        MuscleZooError: The model cannot be exported, or its ONNX form computes something else; nothing was written.
    """
    checkpoint = weights.resolve(checkpoint_name(target))
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise InputError(f"--onnx needs {missing[0]}, which is not installed; run pip install {' '.join(missing)}")
    model = load_model(checkpoint).eval()
    facts = describe(checkpoint)  # of a network without a classifier, what is called logits are its features
    file = file or Path(f"{facts['name']}.onnx")
    exported = convert(model, facts["input_size"], facts)
    difference = compare(model, exported, probes(facts))
    if not difference <= TOLERANCE:
        raise MuscleZooError(
            f"{target}: the logits of onnxruntime differ from torch's by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}, so nothing was written; try other versions of torch, onnx and onnxruntime"
        )
    write_bytes(file, exported)
    return file, difference


def describe(checkpoint: weights.Checkpoint) -> dict[str, Any]:
    """What somebody needs to know who has the ONNX file alone: it becomes the file's metadata, as JSON."""
    config = checkpoint.config
    cfg = resolve_data_config({}, pretrained_cfg=timm_cfg(config))
    return {
        "name": config.get(BLOCK, {}).get("name", config["architecture"]),
        "weights_sha256": checkpoint.sha256,
        "class_names": config.get("label_names"),
        **{key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")},
    }


def convert(model: nn.Module, input_size: tuple[int, int, int], facts: dict[str, Any]) -> bytes:
    """Converts a model to ONNX: ``images`` (batch, C, H, W), normalized, to ``logits`` (batch, classes).

    Args:
        model: In evaluation mode, on the CPU.
        input_size: Channels, height, width.
        facts: Become the metadata.

    Raises:
        MuscleZooError: torch's exporter cannot.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own making
            program = torch.onnx.export(
                model,
                (torch.zeros(2, *input_size),),  # of one image the exporter would take the number for fixed
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors, and those of what it calls, have no common base
        first_line = str(error).strip().partition("\n")[0]
        raise MuscleZooError(
            f"{facts['name']} cannot be exported as ONNX ({first_line}); try other versions of torch and onnxscript"
        ) from error
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # where in this machine's files each line of the model stands
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return proto.SerializeToString()


def probes(facts: dict[str, Any]) -> list[Tensor]:
    """Batches of several sizes: the picture whose logits config.json publishes, and random ones."""
    size = facts["input_size"]
    mean, std = (torch.tensor(facts[key]).view(-1, 1, 1) for key in ("mean", "std"))
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(n, *size, generator=generator) for n in (2, 7)]
    return [(probe_picture(size) / 255 - mean) / std, *random]


@torch.inference_mode()
def compare(model: nn.Module, exported: bytes, batches: list[Tensor]) -> float:
    """The largest difference between the logits of a model and those of its ONNX form; NaN where one is.

    Where the largest logit of a batch is above 10 it is divided by a tenth of that: float32 has no more digits.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    differences = []
    for batch in batches:
        logits = model(batch)
        difference = (logits - torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])).abs().max()
        differences.append(difference / (logits.abs().max() / _LARGE).clamp(min=1.0))
    return float(torch.stack(differences).max())
