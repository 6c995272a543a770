"""Which architectures of timm's go the whole way as frozen backbones: `python -m tests.architectures [WORD ...]`.

Those of test_architectures.py: each embeds a handful of pictures, trains a classifier on the embeddings for three
steps, exports the whole network, is loaded by plain timm with equal logits, and becomes ONNX that nearly gives them for
1, 2 and 7 images. The weights are random, but for those that a package carries. With words only architectures whose
names hold one of them.

Random weights have one thing that trained ones have not: where the blocks of a network are scaled (DINOv2, DINOv3,
ConvNeXt), they begin at a hundred-thousandth, so that all pictures have nearly the same embedding, and what tells them
apart is mostly rounding. There the scales are set to 1, about what trained networks have.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch

from muscle_zoo import get_recipe
from muscle_zoo.checkpoints import weights
from muscle_zoo.checkpoints.factory import load_model, recipe_args
from muscle_zoo.data import DataConfig, dataset_info
from muscle_zoo.engine.build import build_model, prepare_data
from muscle_zoo.engine.embeddings import Pictures, embed_pictures
from muscle_zoo.engine.frozen import backbone_of
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.errors import one_line
from muscle_zoo.publishing import onnx
from muscle_zoo.recipes import Recipe
from muscle_zoo.recipes.defaults import EMBEDDED
from muscle_zoo.results.tables import markdown_table
from muscle_zoo.sessions.train import train_run
from tests.test_architectures import LARGE, SMALL, pictures

HEAD = (
    *("architecture", "size", "pooling", "parameters", "embedding", "head trained"),
    *("timm differs by", "ONNX differs by", "seconds"),
)


@dataclass
class Line:
    """What became of an architecture: a word for each thing that was tried."""

    recipe: Recipe
    words: list[str] = field(default_factory=list)
    failed: str = ""

    def try_all(self, folder: Path, data: DataConfig) -> None:
        """Tries one thing after the other, up to the first that fails."""
        export = folder / "export"
        for work in (
            lambda: self._embed(data),
            lambda: self._train(folder, data),
            lambda: self._load(export),
            lambda: self._convert(export),
        ):
            try:
                self.words.append(work())
            except Exception as error:
                self.words.append("no")
                self.failed = f"{self.recipe.arch}: {type(error).__name__}: {one_line(error)}"
                break
        self.words += ["-"] * (4 - len(self.words))

    def _embed(self, data: DataConfig) -> str:
        """Embeddings equal the network's own pre-logits features, picture by picture."""
        prepared = prepare_data(self.recipe, data)
        backbone = backbone_of(self.recipe, prepared.dataset)
        images = Pictures.of(prepared.dataset.train, prepared.dataset.info)
        (embeddings,) = embed_pictures(backbone, images)
        network = build_model(self.recipe, prepared.dataset).eval()
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (images.info.mean, images.info.std))
        for i in (0, len(embeddings) - 1):
            (raw,) = prepared.dataset.train.batches([torch.tensor([i])])
            with torch.inference_mode():
                trunk = network.forward_features((raw / 255 - mean) / std)
                own = network.forward_head(trunk, pre_logits=True).flatten(1)
            torch.testing.assert_close(embeddings[i : i + 1], own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))
        return f"{embeddings.shape[1]}"

    def _train(self, folder: Path, data: DataConfig) -> str:
        result = train_run(self.recipe, folder, RunOptions(cpu=True, progress=False, data=data))
        assert result.finished and result.row is not None
        return "yes"

    def _load(self, export: Path) -> str:
        ours = load_model(weights.from_folder(export)).eval()
        plain = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
        size = self.recipe.image_size
        images = torch.linspace(-2, 2, 3 * 3 * size * size).view(3, 3, size, size)
        with torch.inference_mode():
            logits = ours(images)
            difference = float((plain(images) - logits).abs().max())
        assert logits.std() > 0 and difference == 0, f"plain timm differs by {difference:.1e}"
        return f"{difference:.0f}"

    def _convert(self, export: Path) -> str:
        checkpoint = weights.from_folder(export)
        model, facts = load_model(checkpoint).eval(), onnx.describe(checkpoint)
        batches = onnx.probes(facts)
        assert [len(batch) for batch in batches] == [1, 2, 7]
        difference = onnx.compare(model, onnx.convert(model, facts["input_size"], facts), batches)
        assert difference <= onnx.TOLERANCE, f"onnxruntime differs by {difference:.1e}"
        return f"{difference:.0e}"


def with_open_blocks(recipe: Recipe, data: DataConfig, folder: Path) -> Recipe:
    """The recipe from random weights whose blocks count, in a folder; the same recipe where no block is scaled."""
    model = build_model(recipe, prepare_data(recipe, data).dataset)
    scales = [parameter for name, parameter in model.named_parameters() if name.rpartition(".")[2].startswith("gamma")]
    if recipe.init or not scales:
        return recipe
    with torch.no_grad():
        for scale in scales:
            scale.fill_(1.0)
    model = model.to(memory_format=torch.contiguous_format)  # what safetensors writes
    timm.models.save_for_hf(model, folder, model_args=model_args(recipe), safe_serialization=True)
    return replace(recipe, init=f"{weights.LOCAL_DIR}{folder}")


def model_args(recipe: Recipe) -> dict[str, Any]:
    """What the network is built with beside its classes, as config.json says it."""
    info = replace(dataset_info("cifar10"), input_size=(3, recipe.image_size, recipe.image_size))
    return recipe_args(recipe, info)


def recipe_of(arch: str, size: int, pool: str) -> Recipe:
    """Three steps on eight pictures, two draws of each."""
    settings = {"image_size": size, "tune": "head", "steps": 3, "eval_every": 3, "batch_size": 2, "mu": 2}
    settings |= {"optimizer": "adamw", "lr": 1e-3, "embedding_views": 2, "fold": "dev", "init": EMBEDDED.get(arch, "")}
    return get_recipe(f"{arch}.muscle_folder_4", {**settings, "global_pool": pool, "muscle.views": "weak_weak"})


def row_of(arch: str, size: int, pool: str, root: Path) -> tuple[str, str]:
    """A line of the table, and what failed; empty where nothing did."""
    began = time.monotonic()
    data = DataConfig(root.parent / "pictures")
    line = Line(with_open_blocks(recipe_of(arch, size, pool), data, root / "weights"))
    line.try_all(root / "run", data)
    with torch.device("meta"):
        count = sum(p.numel() for p in timm.create_model(arch, num_classes=2).parameters())
    facts = [f"`{arch}`", str(size), pool or "its own", f"{count / 1e6:.1f} M", *line.words]
    return f"| {' | '.join([*facts, f'{time.monotonic() - began:.0f}'])} |", line.failed


def main(words: list[str]) -> int:
    """Prints the table, a line as soon as it is known; 1 where something failed."""
    chosen = [case for case in (*SMALL, *LARGE) if not words or any(word in case[0] for word in words)]
    with tempfile.TemporaryDirectory() as root:
        os.environ["MUSCLE_ZOO_CACHE"] = f"{root}/cache"
        pictures(Path(root) / "pictures")
        failed = []
        print(markdown_table(HEAD, []), flush=True)
        for number, (arch, size, pool) in enumerate(chosen):
            row, problem = row_of(arch, size, pool, Path(root) / str(number))
            print(row, flush=True)
            failed += [problem] if problem else []
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
