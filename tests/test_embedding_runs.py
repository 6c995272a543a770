"""Runs whose pictures are embedded first: stopped while they are, and on two processes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from muscle_zoo.engine import embeddings as module

from .conftest import run
from .test_frozen import SHORT

TRAIN = ["train", "cnn4.muscle_digits_40_frozen", *(f"{key}={value}" for key, value in SHORT.items()), "--cpu"]


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are embedded, into a cache that is empty."""
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path / "cache"))
    sizes: list[int] = []
    embed_batch = module.embed_batch

    def counting(backbone: Any, images: Tensor, *rest: Any) -> list[Tensor]:
        sizes.append(len(images))
        return embed_batch(backbone, images, *rest)

    monkeypatch.setattr(module, "embed_batch", counting)
    return sizes


def test_the_time_limit_counts_while_embedding(
    batches: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TRAIN, "--out", str(tmp_path / "run")]
    code, out, err = run([*words, "--time-limit", "1s"], capsys)  # this process is older
    assert code == 75 and "run the same command again" in out
    assert "stopped after embedding 256 of 1,437 pictures" in err and batches == [256]
    code, out, err = run(words, capsys)
    assert code == 0 and "1,437 pictures in 5 views each of 8x8 with cnn4, 256 of them are done" in err
    assert batches == [256] * 5 + [157, 256, 104]


def test_an_interrupt_while_embedding(
    batches: list[int], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = module.embed_batch
    monkeypatch.setattr(
        module,
        "embed_batch",
        lambda *rest: (len(batches) == 2 and signal.raise_signal(signal.SIGINT), counting(*rest))[1],
    )
    code, out, err = run([*TRAIN, "--out", str(tmp_path / "run")], capfd)
    assert code == 75 and "run the same command again" in out and batches == [256] * 3
    said = [line for line in err.splitlines() if "stop" in line]
    assert len(said) == 2 and "Traceback" not in err and said[1] == "stopped after embedding 768 of 1,437 pictures"
