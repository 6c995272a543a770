"""Pre-training without labels: labels have no part in it, and what it leaves is what others begin with."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import muscle_zoo
from muscle_zoo import InputError, create_model, get_recipe, model_info
from muscle_zoo.checkpoints.card import BLOCK, CONFIG_FILE, read_config
from muscle_zoo.checkpoints.registry import LEDGER_FILE, read_pins, register, shipped_cards
from muscle_zoo.cli import main
from muscle_zoo.data import DataConfig, DataSet, LabeledImages, dataset_info
from muscle_zoo.data.normalization import normalize
from muscle_zoo.engine import fit as engine
from muscle_zoo.engine.build import Data, build_model, prepare_data
from muscle_zoo.engine.nearest_neighbors import MAX_REFERENCES, NearestNeighbors, references_of
from muscle_zoo.engine.network import backbone_weights
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.state import load_state
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.files import read_json, write_json
from muscle_zoo.methods import METHODS, trains_classifier
from muscle_zoo.publishing import release
from muscle_zoo.publishing.export import probe
from muscle_zoo.publishing.render import find_drift
from muscle_zoo.publishing.verify import verify
from muscle_zoo.recipes import Recipe
from muscle_zoo.results.study import plan
from tests.conftest import forget_accelerate, listing, once, run
from tests.hub_server import HubServer
from tests.test_engine import ON_CPU, equal, final_state, short
from tests.test_engine import run as fit_run
from tests.test_publish import Person

METHODS_WITHOUT_LABELS = [name for name in METHODS if not trains_classifier(name)]
FEW = ["steps=6", "eval_every=3", "batch_size=16", "mu=2"]
SIMCLR = ["train", "cnn4.simclr_digits_20", *FEW, "--cpu"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of simclr; tests only read it."""

    def fill(folder: Path) -> None:
        assert main([*SIMCLR, "--out", str(folder / "run")]) == 0
        forget_accelerate()

    return once(tmp_path_factory, "simclr", fill) / "run"


def test_there_are_three() -> None:
    assert METHODS_WITHOUT_LABELS == ["simclr", "vicreg", "mi_only"]
    for name in METHODS_WITHOUT_LABELS:
        assert {view.source for view in METHODS[name].views.values()} == {"unlabeled"}


@pytest.mark.parametrize("method", METHODS_WITHOUT_LABELS)
def test_permuted_labels_give_the_same_weights(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short(method)
    seen, _ = fit_run(recipe, tmp_path / "seen")

    def permuted(name: Recipe, source: DataConfig | None, loaded: DataSet | None, known: Any) -> Data:
        data = prepare_data(name, source, loaded, known)
        labels = data.dataset.train.labels
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]
        dataset = dataclasses.replace(data.dataset, train=data.dataset.train.with_labels(labels))
        return prepare_data(name, source, dataset, known)

    monkeypatch.setattr(engine, "prepare_data", permuted)
    blind, _ = fit_run(recipe, tmp_path / "blind")
    assert seen.read_split()["labelled"] != blind.read_split()["labelled"]
    assert equal(final_state(seen), final_state(blind))
    assert seen.read_log()[-1]["knn_ema"] != blind.read_log()[-1]["knn_ema"]  # the evaluation does look at them


def test_the_trainer_gives_the_method_no_label_and_reads_no_labeled_image() -> None:
    recipe = short("simclr")
    trainer = Trainer(recipe, prepare_data(recipe), ON_CPU.accelerator(RunFolder(Path("nowhere"))))
    batch = trainer.batches.at(0)
    assert len(batch.labels) == 0 and {len(view) for view in batch.inputs.values()} == {32}
    assert list(trainer.batches.positions(0)) == ["unlabeled"]
    assert [len(part.labels) for part in batch.micro_batches(4)] == [0] * 4
    assert trainer.network(next(iter(batch.inputs.values()))).shape == (32, 64)


def test_accumulated_steps_and_mixed_precision(tmp_path: Path) -> None:
    for method in METHODS_WITHOUT_LABELS:
        options = dataclasses.replace(ON_CPU, mixed_precision="bf16")
        folder, finished = fit_run(short(method, accumulate=2), tmp_path / method, options)
        assert finished.finished and all(math.isfinite(row.get("loss", 0.0)) for row in folder.read_log())


def test_an_export_without_classifier_and_parts(pretrained: Path) -> None:
    parts, _ = load_state(RunFolder(pretrained).state_dir)
    assert any(name.startswith("parts.projection.") for name in parts["ema"])
    model = timm.create_model(f"local-dir:{pretrained / 'export'}", pretrained=True).eval()
    assert model.num_classes == 0 and isinstance(model.get_classifier(), nn.Identity)
    state = model.state_dict()
    assert state.keys() == backbone_weights(parts["ema"]).keys() and not any("fc" in name for name in state)
    x = torch.randn(2, 1, 8, 8)
    ours = create_model(f"local-dir:{pretrained / 'export'}", pretrained=True).eval()
    assert ours(x).equal(model(x)) and ours(x).shape == (2, model.num_features)
    config = json.loads((pretrained / "export" / CONFIG_FILE).read_text())
    block = config[BLOCK]
    assert config["num_classes"] == 0 and "label_names" not in config["pretrained_cfg"] and "metrics" not in block
    info = dataset_info("digits")
    assert probe(model, info)["logits"] == pytest.approx(block["probe"]["logits"], abs=1e-5)
    measured = block["neighbors"]
    assert (measured["n"], measured["references"]) == (360, 20) and 0.1 < measured["top1"] <= 1
    rows = RunFolder(pretrained).read_log()
    assert [row["step"] for row in rows if "knn_ema" in row] == [3, 6] and not any("top1_ema" in row for row in rows)
    text = (pretrained / "export" / "README.md").read_text(encoding="utf-8")
    assert f"**{100 * measured['top1']:.2f} %** of the 360 test images" in text and "no label was used" in text


def test_published_on_the_hub_and_loaded_by_plain_timm_without_muscle_zoo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, out = "test_resnet.vicreg_digits_20", tmp_path / "run"
    assert run(["train", name, "steps=1", "batch_size=4", "mu=2", "--cpu", "--out", str(out)], capsys)[0] == 0
    monkeypatch.setattr(release, "get_recipe", lambda name: Recipe.from_dict(read_json(out / "recipe.json")))
    code = (
        "import sys; sys.modules['muscle_zoo'] = None; import timm, torch\n"
        "x = torch.linspace(-2, 2, 128).view(2, 1, 8, 8)\n"
        "models = [timm.create_model(where, pretrained=True).eval() for where in sys.argv[1:]]\n"
        "new = timm.create_model(sys.argv[1], pretrained=True, num_classes=3)\n"
        "print(models[0].num_classes, new(x).shape[1], models[0](x).std() > 0, models[0](x).equal(models[1](x)))"
    )
    with HubServer(tmp_path / "hub") as hub:
        author = Person(hub, tmp_path / "author")
        assert run(["export", "--card", str(out), "--to", str(author.cards)], capsys)[0] == 0
        status, said, err = author.run("publish", name, "--namespace", "owner", "--tag", "v1", "--verify")
        author.leave()
        assert status == 0 and f"{name}: tag v1" in said, said + err
        names = [f"hf-hub:owner/{name}@v1", f"local-dir:{out / 'export'}"]
        words = [sys.executable, "-c", code, *names]
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=author.env)
    assert done.stdout == "0 3 tensor(True) True\n"


@pytest.mark.parametrize("given", ["", "export"])
def test_training_begins_with_it(given: str, pretrained: Path) -> None:
    source = create_model(f"local-dir:{pretrained / 'export'}", pretrained=True).state_dict()
    recipe = get_recipe("cnn4.muscle_digits_10", {"init": f"local-dir:{pretrained / 'export'}"})
    data = prepare_data(recipe)
    model, again = (build_model(recipe, data.dataset) for _ in range(2))
    other = build_model(dataclasses.replace(recipe, seed=1), data.dataset)
    state = model.state_dict()
    assert all(state[name].equal(value) for name, value in source.items())
    assert set(state) - set(source) == {"fc.weight", "fc.bias"}
    assert state["fc.weight"].equal(again.fc.weight) and not state["fc.weight"].equal(other.fc.weight)
    written = muscle_zoo.commands.arguments.parse_overrides([f"init={pretrained / given}"])
    assert written == {"init": f"local-dir:{pretrained / 'export'}"}


def test_pretraining_may_begin_with_a_classifier_and_with_another_pretraining(
    finished_run: Path, pretrained: Path
) -> None:
    for source in (finished_run, pretrained):
        recipe = get_recipe("cnn4.vicreg_digits_10", {"init": f"local-dir:{source / 'export'}"})
        model = build_model(recipe, prepare_data(recipe).dataset)
        weights = create_model(recipe.init, pretrained=True).state_dict()
        assert model.num_classes == 0 and all(weights[name].equal(value) for name, value in model.state_dict().items())


def test_the_same_command_again_prints_the_result_and_changes_nothing(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(pretrained, tmp_path / "run"))
    (out / ".lock").unlink(missing_ok=True)
    before = listing(out)
    code, text, _ = run([*SIMCLR, "--out", str(out)], capsys)
    assert code == 0 and "no classifier; nearest neighbors among 20 labeled images: " in text
    (line,) = [line for line in text.splitlines() if line.startswith("go on: ")]
    _, *words = shlex.split(line.removeprefix("go on: "))  # as it is printed it can be typed
    assert words == ["train", "cnn4.muscle_digits_40", f"init={out}"]
    assert [entry for entry in listing(out) if not entry[0].startswith(".lock")] == before
    code, _, err = run([*SIMCLR, "--mixed-precision", "bf16", "--out", str(out)], capsys)
    assert code == 2 and "is a finished run in float32, not bf16" in err
    shutil.rmtree(out / "export")  # it is made again from the state
    assert run([*SIMCLR, "--out", str(out)], capsys)[0] == 0
    weights = (out / "export" / "model.safetensors").read_bytes()
    assert weights == (pretrained / "export" / "model.safetensors").read_bytes()


def test_from_python(tmp_path: Path) -> None:
    few = {"steps": 2, "eval_every": 2, "batch_size": 8, "mu": 2}
    result = muscle_zoo.train("cnn4.mi_only_digits_10", few, out=tmp_path / "run", cpu=True, progress=False)
    assert result.finished and result.row is None and result.neighbors["references"] == 10
    with pytest.raises(InputError, match="mi_only trains no classifier; look at neighbors"):
        _ = result.metrics
    assert result.model(num_classes=3).num_classes == 3
    info = model_info(result.checkpoint)
    assert (info.top1, info.class_names, info.pretrained) == (None, (), True)
    tuned = muscle_zoo.train(
        "cnn4.muscle_digits_10", {**few, "init": str(result.path)}, out=tmp_path / "tuned", cpu=True, progress=False
    )
    assert tuned.neighbors is None and tuned.row is not None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["eval", "{}"], 2, "has no classifier: it was pre-trained without labels; begin with it, init="),
        (["predict", "{}", "{}/curves.png"], 2, "the model has no classifier"),
        (["calibrate", "{}"], 2, "has no classifier"),
        (["export", "{}"], 2, "has no classifier, and ledgers are of classifiers"),
        (["info", "{}"], 0, "no classifier: it gives features"),
        (["verify", "local-dir:{}/export"], 0, "card"),
        (["train", "cnn4.muscle_simclr_digits_10"], 2, "pre-train with simclr, then muscle with init=RUN"),
    ],
)
def test_commands_say_that_there_is_no_classifier(
    words: list[str], code: int, says: str, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = run([word.format(pretrained) for word in words], capsys)
    assert got == code and says in out + err, out + err


def test_its_card_is_that_of_its_config(pretrained: Path, tmp_path: Path) -> None:
    card = Path(shutil.copytree(pretrained / "export", tmp_path / "card"))
    checks = verify(f"local-dir:{card}", [])
    assert [check.what for check in checks] == ["files", "hash", "model", "preprocessing", "probe", "split", "card"]
    assert all(check.passed for check in checks)
    (card / "README.md").write_text("# mine\n")
    assert [check.passed for check in verify(f"local-dir:{card}", [])][-1] is False


def test_it_becomes_a_card_that_is_rendered_and_published(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, name = tmp_path / "hub_cards", "cnn4.simclr_digits_20"
    code, _, err = run(["export", "--card", str(pretrained), "--to", str(cards)], capsys)
    assert code == 2 and "is not the named recipe" in err and not cards.exists()
    monkeypatch.setattr(release, "get_recipe", lambda name: Recipe.from_dict(read_json(pretrained / "recipe.json")))
    twin = Path(shutil.copytree(pretrained, tmp_path / "twin"))
    status = read_json(twin / "status.json")
    write_json(twin / "status.json", {**status, "knn": status["knn"] + 0.1})
    code, out, _ = run(["export", "--card", str(twin), str(pretrained), "--to", str(cards)], capsys)
    assert code == 0 and f"seed 0 of 2, without a classifier; {100 * status['knn']:.2f} % by nearest" in out
    pin = read_pins(cards / "registry.json")[name]
    assert pin["repo"] is None and pin["sha256"] == read_config(cards / name)[BLOCK]["weights_sha256"]
    register(cards / "registry.json", name, "0" * 64, "owner/x", "a" * 40)
    code, out, _ = run(["export", "--card", str(pretrained), "--to", str(cards)], capsys)
    assert code == 0 and "no longer pinned" in out and read_pins(cards / "registry.json")[name] == pin
    write_json(tmp_path / "status.json", {"status": "finished", "row": {}})  # as of a run with a classifier
    code, _, err = run(["export", "--card", str(pretrained), str(tmp_path), "--to", str(cards)], capsys)
    assert code == 2 and "give runs that have one in a command of their own" in err
    assert find_drift(tmp_path).paths == []
    (cards / name / "README.md").write_text("# mine\n")
    drift = find_drift(tmp_path)
    assert drift.paths == [cards / name / "README.md"]
    drift.mend()
    (tmp_path / "README.md").write_text("<!-- zoo -->\n<!-- /zoo -->\n")
    shutil.copytree(shipped_cards() / "cnn4.muscle_digits_10", cards / "cnn4.muscle_digits_10")
    shutil.copy(shipped_cards() / LEDGER_FILE, cards)
    page = find_drift(tmp_path).texts[tmp_path / "README.md"]
    assert "`cnn4.muscle_digits_10`" in page and name not in page  # a table of accuracies
    assert all(check.passed for check in verify(f"local-dir:{cards / name}", []))
    monkeypatch.setenv("MUSCLE_ZOO_HUB", str(cards))
    model = create_model(name, pretrained=True)
    assert model.num_classes == 0 and model_info(name).pretrained
    assert create_model(name, pretrained=True, num_classes=3).num_classes == 3


def test_a_recipes_network_has_no_classifier_before_it_is_trained() -> None:
    model = create_model("cnn4.simclr_digits_10")
    assert model.num_classes == 0 and model(torch.zeros(1, 1, 8, 8)).shape == (1, 64)
    info = model_info("cnn4.simclr_digits_10")
    assert info.class_names == () and info.parameters == sum(p.numel() for p in model.parameters())
    assert model_info("cnn4.muscle_digits_10").class_names


def test_a_study_is_of_classifiers() -> None:
    with pytest.raises(InputError, match="--methods vicreg trains no classifier to compare"):
        plan("cnn4", ["supervised", "vicreg"], ["digits"], ["10"], [0])


class Pixels(nn.Module):
    """Features that are the pixels; it has a parameter, for those tell the device."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.flatten(1)


@pytest.mark.parametrize("references", [4, 50])
def test_nearest_neighbors_against_loops(references: int) -> None:
    info = dataset_info("digits")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (references + 5, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (references,), generator=generator)
    network = Pixels()
    model = NearestNeighbors(network, LabeledImages(pixels[:references], labels), info)
    assert model.training and network.training
    assert not NearestNeighbors(network.eval(), LabeledImages(pixels[:references], labels), info).training
    shares = model(normalize(pixels[references:], info)).exp()
    features = normalize(pixels, info).flatten(1).double()
    for image, share in zip(features[references:], shares, strict=True):
        similar = sorted(
            (float(image @ other / image.norm() / other.norm()), int(label))
            for other, label in zip(features[:references], labels, strict=True)
        )[-20:]
        votes = [sum(math.exp(s / 0.07) for s, label in similar if label == c) for c in range(10)]
        assert share.tolist() == pytest.approx([vote / sum(votes) for vote in votes], abs=1e-5)
    with pytest.raises(InputError, match="no labeled image"):
        NearestNeighbors(network, LabeledImages(pixels[:0], labels[:0]), info)


def test_there_are_at_most_ten_thousand_references() -> None:
    data = prepare_data(get_recipe("cnn4.simclr_digits_100pct"))
    assert len(references_of(data)) == len(data.split.labeled) == len(data.dataset.train)
    many = dataclasses.replace(data.split, labeled=data.split.labeled * 10)
    assert len(references_of(dataclasses.replace(data, split=many))) == MAX_REFERENCES
