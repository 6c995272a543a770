"""list, info and predict as a user meets them."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import save_for_hf

import muscle_zoo
from muscle_zoo import MuscleZooError, get_recipe, list_models
from muscle_zoo.checkpoints import registry
from muscle_zoo.commands import list as list_command
from muscle_zoo.commands.arguments import parse_overrides
from muscle_zoo.commands.terminal import printable, say
from muscle_zoo.errors import DownloadError, MissingDataError
from muscle_zoo.results.ledger import read_ledger, runs_of
from muscle_zoo.sessions import predict as predict_session
from tests.conftest import SHORT, listing, run, truncated

NAME = SHORT[0]
RUNS_ALONE = "test_resnet.fixmatch_fashion_mnist_40"  # the ledger has its runs, hub_cards/ no weights
OUTPUT = pytest.CaptureFixture[str]


def gray(path: Path, number: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, size[::-1], dtype=np.uint8)).save(path)
    return path


def nothing(folder: Path, finished: Path) -> None:
    """The folder stays empty."""


def one(folder: Path, finished: Path) -> None:
    gray(folder / "a.png")


def unfinished(folder: Path, finished: Path) -> None:
    (folder / "run").mkdir()
    shutil.copy(finished / "recipe.json", folder / "run")


def damaged(folder: Path, finished: Path) -> None:
    truncated(Path(shutil.copytree(finished / "export", folder / "card")))
    one(folder, finished)


def empty_folder(folder: Path, finished: Path) -> None:
    (folder / "empty").mkdir()


Prepare = Callable[[Path, Path], None]
WRONG: dict[str, tuple[Prepare, list[str], str]] = {
    "list data set": (nothing, ["list", "--dataset", "digit"], "dataset=digit: no model has it; did you mean 'digits'"),
    "list method": (nothing, ["list", "--method", "fixmach"], "method=fixmach: no model has it; did you mean 'fixm"),
    "list method without weights": (
        nothing,
        ["list", "--method", "s4l"],
        "s4l: no model has it; `muscle-zoo train cnn4.s4l_",
    ),
    "list labels": (nothing, ["list", "--labels", "41"], "labels=41: no model has it; did you mean '40'"),
    "list arch": (nothing, ["list", "--arch", "cnn5"], "arch=cnn5: no model has it; did you mean "),
    "info unknown": (nothing, ["info", "cnn4.muscle_digit_10"], "did you mean 'digits'"),
    "info no path": (nothing, ["info", "runs/nope"], "runs/nope does not exist; give a run folder"),
    "info of weights": (nothing, ["info", "tf_efficientnet_lite0.pypy"], "did you mean 'tf_efficientnet_lite0.pypi'"),
    "info unfinished": (unfinished, ["info", "run"], "run is not finished"),
    "info no folder": (nothing, ["info", "local-dir:nowhere"], "nowhere is not a folder"),
    "predict nothing": (nothing, ["predict", NAME], "required: IMAGE"),
    "predict no path": (one, ["predict", NAME, "a.png", "b.png"], "b.png does not exist; give pictures"),
    "predict unknown": (one, ["predict", "cnn4.muscle_digits_11", "a.png"], "did you mean 'cnn4.muscle_digits_10'"),
    "verify a wrong name": (one, ["verify", "cnn4.muscle_digits_11"], "did you mean 'cnn4.muscle_digits_10'"),
    "download all and one": (one, ["download", NAME, "--all"], "NAME: give some checkpoints, or --all, and not both"),
    "train of an architecture": (one, ["train", "cnn4"], "it is an architecture; name a recipe of it, such as cnn4."),
    "train of a method": (one, ["train", "fixmatch"], "it is a method; name a recipe, such as cnn4.fixmatch_digits_10"),
    "info of no word": (one, ["info", "xyzzy"], "'xyzzy' is unknown: `muscle-zoo list` shows some"),
    "predict recipe": (one, ["predict", "cnn4.vat_digits_10", "a.png"], "cnn4.vat_digits_10 is "),
    "predict arch": (one, ["predict", "cnn4", "a.png"], "'cnn4' is an architecture; name a checkpoint of it: cnn4."),
    "predict damaged": (damaged, ["predict", "card", "a.png"], "truncated or damaged"),
    "predict topk": (one, ["predict", NAME, "a.png", "--topk", "0"], "--topk 0 is out of range; give 1 or more"),
    "predict batch": (one, ["predict", NAME, "a.png", "--batch-size", "-1"], "--batch-size -1 is out of range"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(
    case: str, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    prepare, words, says = WRONG[case]
    prepare(tmp_path, finished_run)
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(words, capsys)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and "Traceback" not in err and says in err
    assert listing(tmp_path) == before


def test_no_picture_at_all(tmp_path: Path, capsys: OUTPUT) -> None:
    code, out, err = run(["predict", NAME, str(tmp_path)], capsys)
    assert code == 2 and out == "" and err.splitlines()[-1].endswith("no pictures; give files, or folders of .jpg, ...")


def test_list_filters_as_timm_does() -> None:
    everything = list_models()
    tag = re.compile(r"[^.]+\.(.+)_(\d+(?:pct)?)(?:_[a-z]+)?")  # method and data set, budget; a variant may follow
    parts = {name: ((found := tag.fullmatch(name)) or pytest.fail(name)).groups() for name in everything}
    for labels in (10, "40"):
        assert list_models(labels=labels) == [n for n in everything if parts[n][1] == str(labels)] != []
    for method in ("muscle", "fixmatch"):
        found = list_models(method=method, dataset="digits", arch="cnn4")
        assert found == [name for name in everything if parts[name][0] == f"{method}_digits"] != []
    assert list_models(["*_10", "*_20"], exclude_filters="*muscle*") == [
        name for name in everything if name.endswith(("_10", "_20")) and "muscle" not in name
    ]
    assert list_models("cnn4") == [name for name in everything if name.startswith("cnn4.")] != everything
    assert list_models("") == list_models([]) == everything
    digits = list_models(method="fixmatch", dataset="digits")
    assert [int(parts[name][1]) for name in digits] == [10, 20, 40, 100]  # not 10, 100, 20
    assert list_models("*", True) == list_models(pretrained=True) != everything


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT) -> None:
    long = "wrn_28_2.muscle_temporal_ensembling_mini_imagenet_4000"
    infos = [muscle_zoo.model_info(name) for name in (*list_models(), long)]
    header, *lines = list_command.table(infos)
    assert len({len(line) for line in (header, *lines)}) == 1 and len(header) <= 95
    sizes: dict[tuple[str, int, tuple[int, ...]], int] = {}  # many names are of one network
    for info, line in zip(infos, lines, strict=True):
        name, millions, labels, top1 = line.split()
        network = (name.partition(".")[0], len(info.class_names), info.input_size)
        if network not in sizes:
            sizes[network] = sum(p.numel() for p in muscle_zoo.create_model(info.name).parameters())
        assert float(millions) == pytest.approx(sizes[network] / 1e6, abs=0.005)
        assert (name, labels) == (info.name, str(info.labels))
        assert top1 == ("-" if info.top1 is None else f"{100 * info.top1:.2f}")
    _, out, err = run(["list"], capsys)
    shown = out.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [x.split()[:3] for x in lines[:-1]]
    assert shown[0].split()[0] == "name" and err == (
        "top-1 is that of the weights; in brackets the mean of runs whose weights are not published; - no weights and "
        "no run yet\n"
    )
    by_name = {line.split()[0]: line.split()[-1] for line in shown[1:]}
    rows = runs_of(read_ledger(registry.shipped_cards() / "results.csv"), RUNS_ALONE, get_recipe(RUNS_ALONE).sha256)
    assert by_name[RUNS_ALONE] == f"({100 * np.mean([row.top1_ema for row in rows]):.2f})"
    assert by_name["resnet50.muscle_imagenet_1pct"] == "-"
    assert run(["list", "--quiet"], capsys)[1].splitlines() == [line.split()[0] for line in shown[1:]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digits"], "no model matches 'digits'; '*digits*' would match 16"),
        (["*fixmach_digits_100*"], "; the nearest are cnn4.fixmatch_digits_100, "),
        (["--method", "fixmatch", "--pretrained"], "with method=fixmatch and weights; without --pretrained "),
        (["cnn4.muscle_*", "--method", "fixmatch"], "; the nearest are cnn4.fixmatch_"),
    ],
)
def test_no_model_matches(words: list[str], says: str, capsys: OUTPUT) -> None:
    code, out, err = run(["list", *words], capsys)
    assert code == 0 and out == "" and says in err and err.count("\n") == 1
    assert run(["list", *words, "--json"], capsys)[:2] == (0, "[]\n")


def test_a_damaged_card_does_not_hide_the_others(card: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT) -> None:
    hub = card.parent / "hub"
    for name in ("cnn4.a_mine", "cnn4.b_mine"):
        shutil.copytree(card, hub / name)
    (hub / "cnn4.a_mine" / "config.json").write_text("{}")
    monkeypatch.setenv("MUSCLE_ZOO_HUB", str(hub))
    code, out, err = run(["list", "--pretrained"], capsys)
    assert code == 1 and [line.split()[0] for line in out.splitlines()[1:]] == [
        name for name in list_models(pretrained=True) if name != "cnn4.a_mine"
    ]
    assert err.count("\n") == 1 and "cnn4.a_mine/config.json" in err
    assert list_models(dataset="digits", pretrained=True)[:2] == ["cnn4.b_mine", NAME]


@pytest.mark.parametrize("which", [NAME, "cnn4.fixmatch_digits_20", "wrn_28_2.muscle_cifar100_400", "run"])
def test_info_is_a_page_and_json_where_it_is_asked_for(
    which: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    target = str(finished_run) if which == "run" else which
    facts = json.loads(run(["info", target, "--json"], capsys)[1])
    code, text, _ = run(["info", target], capsys)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["info", target], capsys)[:2] == (code, text) == (0, text)
    assert facts["name"] in text and f"{facts['parameters']:,} parameters" in text
    assert max(len(line) for line in text.splitlines() if str(finished_run) not in line) <= 100
    rows = read_ledger(registry.shipped_cards() / "results.csv")
    recipe = get_recipe(SHORT[0], parse_overrides(SHORT[1:])) if which == "run" else get_recipe(which)
    tops = [100 * row.top1_ema for row in rows if (row.name, row.recipe_sha256) == (recipe.name, recipe.sha256)]
    assert ("±" in text) == bool(tops)  # runs of other recipes do not count
    assert not tops or f"top-1 {np.mean(tops):.2f} ± {np.std(tops, ddof=1):.2f} %, {len(tops)} seeds" in text
    (train,) = [line.split() for line in text.splitlines() if line.startswith("  muscle-zoo train ")]
    told = get_recipe(train[2], parse_overrides(train[3:]))
    assert told.sha256 == recipe.sha256 and told.seed == (facts["seed"] or 0)
    (load,) = [line.strip() for line in text.splitlines() if "create_model" in line]
    names: dict[str, torch.nn.Module] = {}
    exec(load, {"muscle_zoo": muscle_zoo}, names)
    assert sum(p.numel() for p in names["model"].parameters()) == facts["parameters"]


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of another maker: three channels, three classes, random weights, no block of ours."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("colors")
    model = muscle_zoo.create_model("cnn4", num_classes=3, in_chans=3)
    torch.nn.init.normal_(model.get_classifier().weight, std=4)
    with torch.no_grad():  # or every picture would be of one class
        model.get_classifier().bias -= model.eval()(torch.randn(64, 3, 16, 16)).mean(dim=0)
    cfg = {"input_size": [3, 16, 16], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "crop_pct": 1.0}
    save_for_hf(
        model,
        folder,
        model_config={"label_names": ["cat", "dög", "owl"], "pretrained_cfg": cfg},
        safe_serialization=True,
    )
    return f"local-dir:{folder}"


def all_kinds(root: Path) -> None:
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (30, 20, 4), dtype=np.uint8), "RGBA")
    (root / "inside" / "ünter").mkdir(parents=True)
    for mode, suffix in (("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "gif"), ("1", "bmp")):
        base.convert("RGB" if mode == "RGB" else mode).save(root / "inside" / f"{mode}.{suffix}")
    base.convert("CMYK").resize((50, 40)).save(root / "猫.tiff")
    Image.fromarray(rng.integers(0, 2**16, (25, 40), dtype=np.uint16)).save(root / "sixteen.png")
    upright = base.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright.save(root / "inside" / "ünter" / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "inside" / "ünter" / "turned.png", exif=exif)
    (root / "notes.txt").write_text("no picture")


def test_predictions_are_the_models(colors: str, tmp_path: Path, capsys: OUTPUT) -> None:
    all_kinds(tmp_path / "in")
    extra = gray(tmp_path / "no_suffix.png", 3, (90, 40)).rename(tmp_path / "no_suffix")
    model = muscle_zoo.create_model(colors, pretrained=True).eval()
    transform = muscle_zoo.create_transform(model)
    before = listing(tmp_path)
    words = ["predict", colors, str(tmp_path / "in"), str(extra), str(extra), "--cpu"]
    for batch_size in ("1", "4", "64"):
        code, out, err = run([*words, "--json", "--batch-size", batch_size], capsys)
        found = json.loads(out)
        assert code == 0 and "1 file that is no picture is left out (./notes.txt)" in err and err.count("\n") == 1
        paths = [str(p) for p in (tmp_path / "in").rglob("*") if p.is_file() and p.suffix != ".txt"]
        assert sorted(entry["file"] for entry in found) == sorted([*paths, str(extra)]) and len(found) == 11
        assert found[-1]["file"] == str(extra)
        for entry in found:
            with Image.open(entry["file"]) as picture, torch.inference_mode():
                expected = model(transform(picture)[None]).softmax(dim=1)[0].tolist()
            values = {p["class"]: p["probability"] for p in entry["predictions"]}
            assert [values[name] for name in ("cat", "dög", "owl")] == pytest.approx(expected, abs=1e-5)
            assert list(values.values()) == sorted(values.values(), reverse=True)
    by_name = {Path(entry["file"]).name: entry["predictions"] for entry in found}
    assert len({tuple(p["class"] for p in found) for found in by_name.values()}) > 1
    assert by_name["turned.png"] == by_name["upright.png"]
    code, out, _ = run([*words, "--topk", "2"], capsys)
    lines = out.splitlines()
    assert lines[::3] == [entry["file"] for entry in found]
    for entry, first, second in zip(found, lines[1::3], lines[2::3], strict=True):
        best = [f"{100 * p['probability']:.2f} % {p['class']}" for p in entry["predictions"][:2]]
        assert [" ".join(line.split()) for line in (first, second)] == best
    assert listing(tmp_path) == before


def test_what_cannot_be_read_is_named_and_the_others_done(tmp_path: Path, capsys: OUTPUT) -> None:
    for i in range(5):
        gray(tmp_path / "in" / f"{i}.png", i, (20, 20))
    (tmp_path / "in" / "1.png").write_bytes((tmp_path / "in" / "0.png").read_bytes()[:150])
    (tmp_path / "in" / "3.png").write_bytes(b"")
    (tmp_path / "in" / "9.jpg").write_text("no picture")
    for batch_size in ("1", "2", "64"):
        code, out, err = run(["predict", NAME, str(tmp_path), "--json", "--batch-size", batch_size], capsys)
        assert code == 1 and [Path(e["file"]).name for e in json.loads(out)] == ["0.png", "2.png", "4.png"]
        assert [
            f"in/{n} cannot be read (" in line
            for n, line in zip(("1.png", "3.png", "9.jpg"), err.splitlines()[:-1], strict=True)
        ] and err.endswith("error: 3 of 6 pictures cannot be read\n")
    code, out, err = run(["predict", NAME, str(tmp_path / "in" / "9.jpg"), "--json"], capsys)
    assert (code, json.loads(out)) == (1, []) and err.count("\n") == 1


def test_a_checkpoint_by_every_name(finished_run: Path, tmp_path: Path, capsys: OUTPUT) -> None:
    picture = str(gray(tmp_path / "a.png"))
    export = finished_run / "export"
    outs = {run(["predict", t, picture], capsys)[1] for t in (str(finished_run), str(export), f"local-dir:{export}")}
    assert len(outs) == 1 and outs != {run(["predict", NAME, picture], capsys)[1]}


def test_pictures_are_read_a_batch_ahead_and_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(gray(tmp_path / f"{i:02}.png", i)) for i in range(40)]
    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, **how: opened.append(str(file)) or real(file, **how))
    found = predict_session.predict_files(muscle_zoo.create_model(NAME, pretrained=True).eval(), files, batch_size=4)
    for i, prediction in enumerate(found):
        assert prediction.file == files[i] and len(opened) <= 4 * (i // 4 + 2)
    assert sorted(opened) == files


def test_what_an_encoding_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("dög \udcff")
    sys.stdout.flush()
    assert printable("d\xf6g\n\x1b[2J\udcff") == "d\xf6g\\n\\x1b[2J\\udcff"
    assert raw.getvalue() == b"d\\xf6g \\udcff\n"


@pytest.mark.parametrize("error", [DownloadError("no network"), MissingDataError("not in data")])
def test_data_that_are_not_there_make_no_figure_wrong(
    error: MuscleZooError, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    def away(*_: object) -> None:
        raise error

    monkeypatch.setattr("muscle_zoo.sessions.evaluate.evaluate_checkpoint", away)
    code, out, _ = run(["verify", "cnn4.muscle_digits_10", "--accuracy"], capsys)
    assert code == 1 and out == f"cnn4.muscle_digits_10: accuracy NOT CHECKED: {error}\n"


def test_info_says_how_sure_and_in_which_precision(capsys: OUTPUT) -> None:
    def section(text: str, title: str) -> str:
        return text.partition(f"\n{title}\n")[2].partition("\n\n")[0]

    rows = read_ledger(registry.shipped_cards() / registry.LEDGER_FILE)
    runs = [row for row in rows if row.name == NAME]
    text = run(["info", NAME], capsys)[1]
    metrics = json.loads((registry.shipped_cards() / NAME / "config.json").read_text())["muscle_zoo"]["metrics"]
    assert f"nll {metrics['nll']:.3f} nats, calibration error {100 * metrics['ece']:.1f} points" in text
    assert f"mean of the seeds         nll {np.mean([row.nll for row in runs]):.3f} nats" in text
    assert "--mixed-precision" not in section(text, "Reproduce")
    name = "tf_efficientnet_lite0.fixmatch_cifar10_jpeg_250_finetuned"  # one run, in bf16, of which there is no card
    (row,) = (row for row in rows if row.name == name and row.seed == 0)
    text = run(["info", name], capsys)[1]
    assert "weights: not published; the ledger has its runs" in text and "seeds" not in text
    assert f"one run, seed 0   top-1 {100 * row.top1_ema:.2f} %, nll {row.nll:.3f} nats" in text
    assert (
        section(text, "Reproduce").strip().endswith(f"{name} seed=0 --mixed-precision {row.dtype}")
        and row.dtype == "bf16"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cnn4.supervised_digits_10", "is in the ledger, but its weights are not published; train it"),
        ("cnn4.muscle_digits_90", "is a recipe without weights; train it (python train.py cnn4.muscle_digits_90)"),
        ("cnn4.muscle_digits_90", "did you mean 'cnn4.muscle_digits_10', 'cnn4.muscle_digits_20', 'cnn4.muscle_dig"),
        ("cnn4.muscle_fashion_mnist_40", "did you mean 'test_resnet.muscle_fashion_mnist_40'"),
        ("cnn5.muscle_digits_10", "no weights for 'cnn5.muscle_digits_10'; did you mean 'cnn4.muscle_digits_10'?"),
    ],
)
def test_what_is_offered_instead_of_a_name_differs_least(name: str, says: str, capsys: OUTPUT) -> None:
    code, _, err = run(["eval", name, "--cpu"], capsys)
    assert code == 2 and says in err and err.count("\n") == 1


def test_a_folder_of_data_that_is_not_there(tmp_path: Path, capsys: OUTPUT) -> None:
    place = ["--data", str(tmp_path / "nowhere")]
    for words in (
        ["train", NAME],
        ["eval", NAME],
        ["data", "show", "digits"],
        ["embed", "tf_efficientnet_lite0.pypi", "--out", str(tmp_path / "a.npy")],
        ["study", "--methods", "supervised", "--datasets", "digits", "--labels", "10"],
        ["bench", "step", NAME],
        ["verify", NAME, "--accuracy"],
        ["calibrate", NAME],
        ["suggest", "runs/x"],
        ["report", "runs/x"],
    ):
        code, _, err = run([*words, *place], capsys)
        assert code == 2 and f"--data {tmp_path / 'nowhere'} does not exist; give" in err, (words, err)
        assert not list(tmp_path.iterdir())
