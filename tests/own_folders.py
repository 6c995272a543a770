"""What the one command makes of a folder of pictures, against ten lines of scikit-learn on the same embeddings.

``python -m tests.own_folders cifar10_jpeg --draws 0 1 2 3 4 --cpu --data DIR --out DIR [--time-limit 10m]`` makes a
folder for each draw: ten labeled training pictures of each class, 5,000 others without a label, and 200 test pictures
of each class. ``muscle-zoo train FOLDER`` runs on it in a process of its own, with every default and nothing embedded
before. Each draw leaves ``drawN.json``; the table is made of those that there are, so that the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from muscle_zoo.auto.findings import Comparison
from muscle_zoo.data import DataConfig, DataSet, load_dataset
from muscle_zoo.results.stats import gain_text
from muscle_zoo.results.tables import markdown_table

LABELED, UNLABELED, TEST = 10, 5000, 200  # of a class, in all, of a class
HEAD = (
    *("draw", "it chose", "it expected, % (95 %)", "test, %", "holds"),
    *("gain it promised (95 %)", "scikit-learn, %", "above it", "minutes"),
)


def make_folder(dataset: DataSet, root: Path, draw: int) -> None:
    """Writes ``CLASS/``, ``unlabeled/`` and ``test/CLASS/`` as PNG: the pixels stay what they are."""
    rng = np.random.default_rng(draw)
    names = dataset.info.class_names
    labels, test_labels = dataset.train.labels.numpy(), dataset.test.labels.numpy()
    order = rng.permutation(len(labels))
    taken: set[int] = set()
    for label, name in enumerate(names):
        chosen = [i for i in order.tolist() if labels[i] == label][:LABELED]
        taken.update(chosen)
        _write(dataset.train, chosen, root / _plain(name))
    _write(dataset.train, [i for i in order.tolist() if i not in taken][:UNLABELED], root / "unlabeled")
    for label, name in enumerate(names):
        chosen = rng.permutation(np.flatnonzero(test_labels == label))[:TEST].tolist()
        _write(dataset.test, chosen, root / "test" / _plain(name))


def _plain(name: str) -> str:
    """A class's name as a folder's: ``T-shirt/top`` would be two."""
    return name.replace("/", " or ")


def _write(images: Any, indices: list[int], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in indices:
        pixels = images.images[i].numpy()
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(folder / f"{i:05}.png")


def train(folder: Path, run: Path, time_limit: str, cpu: bool) -> float:
    """Seconds that ``muscle-zoo train`` takes, begun anew as long as its time limit stops it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "muscle_zoo", "train", str(folder), "--out", str(run)]
    command += ["--cpu"] if cpu else []
    command += ["--time-limit", time_limit] if time_limit else []
    for _ in range(5):
        code = subprocess.run(command, check=False).returncode
        if code != 75:
            break
    assert code == 0, f"muscle-zoo train ended with {code}"
    return time.monotonic() - began


def scikit_learn(folder: Path, run: Path, cpu: bool) -> float:
    """Share of the test pictures that logistic regression gets right, on the embeddings that the run has.

    What a user would write: embeddings standardized, its penalty chosen by cross-validation on the labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import muscle_zoo

    recipe = json.loads((run / "recipe.json").read_text())
    embedded = muscle_zoo.embed(recipe["init"], folder, image_size=recipe["image_size"], cpu=cpu)
    x, names, labels = embedded.embeddings.numpy(), embedded.names, np.asarray(embedded.labels.tolist())
    test = np.array([name.startswith("test/") for name in names])
    known = (labels >= 0) & ~test
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe = GridSearchCV(probe, {"logisticregression__C": np.logspace(-4, 1, 6)}, cv=5)
    return float(probe.fit(x[known], labels[known]).score(x[test], labels[test]))


def one_draw(dataset: DataSet, draw: int, out: Path, time_limit: str, cpu: bool) -> dict[str, Any]:
    """Makes the folder, trains, compares; what is found is left in ``drawN.json``."""
    folder, run = out / f"draw{draw}", out / f"run{draw}"
    for old in (folder, run):
        shutil.rmtree(old, ignore_errors=True)
    make_folder(dataset, folder, draw)
    cache = os.environ["MUSCLE_ZOO_CACHE"] = str(out / f"cache{draw}")  # empty: nothing was embedded before
    seconds = train(folder, run, time_limit, cpu)
    comparison = Comparison.read(run)
    assert comparison.expected is not None and comparison.gain is not None and comparison.test is not None
    facts = {
        "draw": draw,
        "chosen": comparison.chosen,
        "expected": [comparison.expected.value, comparison.expected.low, comparison.expected.high],
        "gain": [comparison.gain.value, comparison.gain.low, comparison.gain.high],
        "test": comparison.test.value,
        "scikit_learn": scikit_learn(folder, run, cpu),
        "seconds": round(seconds, 1),
    }
    (out / f"draw{draw}.json").write_text(json.dumps(facts))
    shutil.rmtree(cache)
    return facts


def row(facts: dict[str, Any]) -> list[str]:
    """A line of the table."""
    low, high = facts["expected"][1:]
    expected, gain = (_with_interval(facts[key], form) for key, form in (("expected", ".1f"), ("gain", "+.1f")))
    test, control = 100 * facts["test"], 100 * facts["scikit_learn"]
    holds = "yes" if low <= facts["test"] <= high else "no"
    words = [str(facts["draw"]), facts["chosen"], expected, f"{test:.1f}", holds, gain, f"{control:.1f}"]
    return [*words, f"{test - control:+.1f}", f"{facts['seconds'] / 60:.1f}"]


def _with_interval(values: list[float], form: str) -> str:
    value, low, high = (format(100 * value, form) for value in values)
    return f"{value} ({low} to {high})"


def table(found: list[dict[str, Any]]) -> str:
    """All draws, and their means."""
    test, control, seconds = (np.array([f[key] for f in found]) for key in ("test", "scikit_learn", "seconds"))
    means = ["mean", "", "", f"{100 * test.mean():.1f}", "", "", f"{100 * control.mean():.1f}"]
    return markdown_table(
        HEAD, [*map(row, found), [*means, gain_text(list(100 * (test - control))), f"{seconds.mean() / 60:.1f}"]]
    )


def main(arguments: list[str]) -> None:
    """Does the draws that are not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time-limit", default="")
    args = parser.parse_args(arguments)
    dataset = load_dataset(args.dataset, DataConfig(args.data))
    for draw in args.draws:
        if not (args.out / f"draw{draw}.json").exists():
            one_draw(dataset, draw, args.out, args.time_limit, args.cpu)
    files = sorted(args.out.glob("draw*.json"))
    print(table([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main(sys.argv[1:])
