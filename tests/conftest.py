"""What the tests share: a small finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test asks the internet
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores would wait for each other's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from accelerate.state import AcceleratorState
from filelock import FileLock
from PIL import Image
from torch import Tensor, nn

from muscle_zoo.cli import main
from muscle_zoo.engine.build import Data, build_model
from muscle_zoo.engine.network import with_parts
from muscle_zoo.engine.plots import LogRow
from muscle_zoo.engine.trainer import _context, forward
from muscle_zoo.methods import Batch, Method, RunContext, learns_from_teacher
from muscle_zoo.recipes import Recipe

SHORT = ["cnn4.muscle_digits_10", "steps=24", "eval_every=8", "batch_size=16", "mu=2"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: of two processes, one would wait for the other's that begins last."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings of tests are not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; tests only read it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *SHORT, "--cpu", "--out", str(out)]) == 0
    return out


def once(tmp_path_factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """A folder that is filled once for all of pytest-xdist's workers, each of which has fixtures of its own."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            fill(folder)
            done.touch()
    return folder


def forget_accelerate() -> None:
    """Accelerate keeps one precision and device per process; a command has a process of its own, a test has not."""
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    yield
    forget_accelerate()


def blank(rows: Sequence[LogRow], recipe: Recipe, num_classes: int, path: Path) -> None:
    """In the place of curves."""
    Image.new("RGB", (1, 1)).save(path)


@contextmanager
def quick_curves() -> Iterator[None]:
    """Runs of a few steps would spend four fifths of their time drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muscle_zoo.engine.fit.plot_curves", blank)
        yield


@pytest.fixture(autouse=True)
def _quick_curves() -> Iterator[None]:
    """Of the runs that a test makes itself; those of wider fixtures and of subprocesses have curves."""
    with quick_curves():
        yield


@pytest.fixture
def card(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run's export/, to damage."""
    return Path(shutil.copytree(finished_run / "export", tmp_path / "card"))


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    try:
        code = main(words)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def taught(method: str) -> dict[str, str]:
    """What a recipe of a method needs beside its name: a teacher, if it learns from one."""
    return {"teacher": "cnn4.muscle_digits_10"} if learns_from_teacher(method) else {}


def context_of(recipe: Recipe, data: Data) -> RunContext:
    """What a method knows of a run of 1,000 steps."""
    return replace(_context(recipe, data), steps=1000)


def network_of(recipe: Recipe, data: Data, method: Method) -> nn.Module:
    """A recipe's network with the parts of its method."""
    context = RunContext(num_classes=data.dataset.info.num_classes)
    return with_parts(build_model(recipe, data.dataset), method, context, recipe, data.dataset.info.input_size)


def train_step(
    model: nn.Module, ema: nn.Module, method: Method, batch: Batch, step: int, teacher: nn.Module | None = None
) -> dict[str, Tensor]:
    """A step up to its loss, without an engine around it."""
    outputs, batch = forward(model, ema, method, batch, step, teacher)
    return method.loss(outputs, batch, step)


def listing(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((str(p.relative_to(folder)), p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*"))


def truncated(card: Path) -> None:
    path = card / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def wrong_hash(card: Path) -> None:
    path = card / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
