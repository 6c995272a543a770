"""One's own run goes to a Hub as a card that is made for it, without the names of its pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from muscle_zoo.auto.findings import Comparison, Found, Interval, MethodScore
from muscle_zoo.auto.run_card import CardChoices, base_model_of, make_run_card, render_run_card
from muscle_zoo.checkpoints import registry
from muscle_zoo.errors import InputError
from muscle_zoo.recipes import get_recipe
from tests.conftest import run
from tests.hub_server import HubServer
from tests.test_pretraining import pretrained  # noqa: F401 - a fixture: a run of simclr
from tests.test_publish import Person, hub, person  # noqa: F401 - fixtures
from tests.test_suggest import made  # noqa: F401 - a fixture: the run of that file

WORDS = ["--namespace", "owner", "--license", "cc-by-4.0"]


def test_a_run_is_published_and_loads_elsewhere(
    made: Path,  # noqa: F811
    hub: HubServer,  # noqa: F811
    person: Callable[..., Person],  # noqa: F811
    tmp_path: Path,
) -> None:
    mine = Path(shutil.copytree(made / "run", tmp_path / "My pets"))
    author = person("author")
    code, out, _ = author.run("publish", str(mine), *WORDS, "--name", "my-pets", "--dry-run")
    assert code == 0 and "no names of pictures in it" in out and "would create owner/my-pets" in out and not hub.repos
    code, out, err = author.run("publish", str(mine), *WORDS, "--name", "my-pets", "--tag", "v1")
    assert code == 0, err
    card = mine / "card" / "my-pets"
    files = {name: hub.read("owner/my-pets", name) for name in registry.CARD_FILES}
    assert files == {name: (card / name).read_bytes() for name in registry.CARD_FILES}
    for name, content in files.items():  # neither pictures nor folders are named
        assert not any(word.encode() in content for word in (".png", "labeled/", str(made), "/mine")), name
    text = files["README.md"].decode()
    assert "\nlicense: cc-by-4.0\n" in text and "2 classes of pictures apart: cat, dog" in text
    assert text.count("hf-hub:owner/my-pets") == 2 and "ORG" not in text
    assert json.loads(files["config.json"])["pretrained_cfg"]["license"] == "cc-by-4.0"
    picture = str(made / "mine" / "test" / "cat" / "000.png")
    ours, theirs = (
        author.run("predict", name, picture, "--json", "--cpu")[1] for name in (str(mine), "hf-hub:owner/my-pets@v1")
    )
    assert ours == theirs and json.loads(ours)[0]["predictions"]
    code, out, _ = author.run("publish", str(mine), *WORDS, "--name", "my-pets", "--tag", "v1")
    assert code == 0 and "was up to date" in out


def test_what_goes_into_a_runs_card(made: Path, tmp_path: Path) -> None:  # noqa: F811
    mine = Path(shutil.copytree(made / "run", tmp_path / "pets"))
    names = json.loads((mine / "export" / "split.json").read_text())["names"]
    plain = make_run_card(mine, CardChoices("other"))
    split = json.loads((plain / "split.json").read_text())
    assert "names" not in split and split["names_sha256"] and plain.name == "pets"
    assert "By cross-validation" not in (plain / "README.md").read_text()
    scores = tuple(
        MethodScore(m, Interval(v, v - 0.1, v + 0.1), v, v, 0.5, (v,), m == "muscle", True, 1.0)
        for m, v in (("logistic", 0.5), ("muscle", 0.75))
    )
    found = Found("/secret/place", "/secret", (2, 2), 30, (2, 2), ("unlabeled/bad.png",))
    Comparison(found, ("cat", "dog"), "net", 0, 2, 3, scores, "muscle", "logistic", "muscle", Interval(0.7, 0.6, 0.8),
               Interval(0.2, 0.1, 0.3), 0.05, "why", ("few",), 9.0).write(mine)  # fmt: skip
    card = make_run_card(mine, CardChoices("other", with_names=True, base_model="timm/some.thing"))
    assert json.loads((card / "split.json").read_text())["names"] == names
    text = (card / "README.md").read_text()
    assert "and 30 without a label" in text and "base_model: timm/some.thing" in text and "secret" not in text
    assert "with 95 % intervals: with the unlabeled pictures 70.0 %, without 50.0: +20.0 (+10.0 to +30.0)." in text
    assert "| **muscle** | 75.0 (65.0 to 85.0) | 75.0 | 75.0 | 0.50 |" in text
    assert "To expect on new pictures like these: **70.0 (60.0 to 80.0) %**, less 5.0 points" in text
    assert set(asdict(found)["labeled"]) == {2} and not list((mine / "card").glob("*.part"))


def test_a_network_without_a_classifier_is_published_as_one(
    pretrained: Path,  # noqa: F811
    hub: HubServer,  # noqa: F811
    person: Callable[..., Person],  # noqa: F811
    tmp_path: Path,
) -> None:
    mine = Path(shutil.copytree(pretrained, tmp_path / "backbone"))
    author = person("author")
    code, _, err = author.run("publish", str(mine), *WORDS)
    assert code == 0, err
    text = hub.read("owner/backbone", "README.md").decode()
    assert "\nlicense: cc-by-4.0\n" in text and "- image-feature-extraction" in text and "model-index" not in text
    assert text.count("hf-hub:owner/backbone") == 3 and "ORG" not in text
    measured = json.loads((mine / "export" / "config.json").read_text())["muscle_zoo"]["neighbors"]
    assert f"for **{100 * measured['top1']:.2f} %** of {measured['n']} test pictures" in text
    assert "Training began with random weights. Recipe `cnn4.simclr_digits_20`, seed 0, 6 steps" in text
    assert str(tmp_path) not in text and "names" not in json.loads(hub.read("owner/backbone", "split.json"))
    code, _, err = author.run("embed", "hf-hub:owner/backbone", "--dataset", "digits", "--out", str(tmp_path / "a.npy"))
    assert code == 0 and (tmp_path / "a.npy").is_file(), err


def test_a_base_model_is_what_the_hub_calls_it() -> None:
    recipe = get_recipe("resnet18.muscle_folder_all_finetuned", {"init": "resnet18.a1_in1k"})
    for init, base in (
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("hf-hub:ORG/net@v1", "ORG/net"),
        ("tf_efficientnet_lite0.pypi", "timm/tf_efficientnet_lite0.in1k"),
        ("local-dir:runs/a/export", ""),
        ("", ""),
    ):
        assert base_model_of(replace(recipe, init=init)) == base


def test_wrong_input_of_publishing_a_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    mine = str(shutil.copytree(made / "run", tmp_path / "pets"))
    for words, message in (
        ([mine], "--license is missing: say under which license"),
        ([mine, "--license", "Apache 2"], "--license 'Apache 2' is none of the Hub's; did you mean 'apache-2.0'"),
        ([mine, "--license", "appache"], "did you mean 'apache-2.0'"),
        ([mine, "--license", "MIT"], "did you mean 'mit'"),
        ([mine, "--license", "other", "--name", "a/b"], "--name 'a/b' is no name of a repo"),
        ([mine, "--license", "other", "--base-model", "net"], "--base-model 'net' is no repo"),
        ([mine, "--license", "other", "--pin"], "--pin is for checkpoints of hub_cards/"),
        ([mine, "cnn4.muscle_digits_10", "--license", "other"], "is a run folder; give it alone"),
        (["cnn4.muscle_digits_10", "--license", "other"], "--license goes with your own run; give its folder"),
        ([str(tmp_path)], "is no run folder, but holds a run; give"),
    ):
        code, _, err = run(["publish", "--namespace", "owner", "--private", *words], capsys)
        assert code == 2 and message in err, err
    code, _, err = run(["publish", mine], capsys)
    assert code == 2 and err.startswith("error: --namespace and --license are missing: ") and err.count("\n") == 1
    assert not (Path(mine) / "card").exists()
    config = Path(mine) / "export" / "config.json"
    values = json.loads(config.read_text())
    values["muscle_zoo"]["recipe"]["init"] = "local-dir:/home/somebody/run/export"
    config.write_text(json.dumps(values))
    with pytest.raises(InputError, match="init=local-dir:/home/somebody/run/export names a path of this machine"):
        make_run_card(Path(mine), CardChoices("other"))


def test_pictures_that_it_was_trained_on_say_nothing_of_new_ones(made: Path) -> None:  # noqa: F811
    config = json.loads((made / "run" / "export" / "config.json").read_text())
    block = config["muscle_zoo"]
    block["metrics"] |= {"top1": 1.0, "n": 40}
    block["recipe"]["fold"] = "labeled"
    score = MethodScore("muscle", Interval(0.81, 0.7, 0.9), 0.8, 0.79, 0.6, (0.81,), True, True, 1.0)
    found = Found("/place", "/place", (20, 20), 9, (0, 0))
    compared = Comparison(found, ("cat", "dog"), "net", 0, 5, 3, (score,), "muscle", "logistic", "muscle",
                          Interval(0.7931, 0.644, 0.89), None, 0.0, "why", (), 9.0)  # fmt: skip
    text = render_run_card("pets", config, CardChoices("other"), compared)
    assert "held out" not in text and "value: 0.7931" in text and "cross-validation on 40 labeled pictures" in text
    good, known = (
        text.index("**79.3 (64.4 to 89.0) %**"),
        text.index("Top-1 on 40 labeled pictures that it was trained on"),
    )
    assert good < known and "100.00 %; " in text and "This says nothing of new pictures." in text
    text = render_run_card("pets", config, CardChoices("other"), None)
    assert "model-index" not in text and "**" not in text.split("## Use")[0]
    block["recipe"]["fold"] = "dev"
    assert "40 labeled pictures that were held out of training: **100.00 %**" in render_run_card(
        "pets", config, CardChoices("other"), None
    )
