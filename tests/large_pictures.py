"""Memory and time that large pictures take, against a bare loop: ``python -m tests.large_pictures --number 200``."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (3000, 2000)
DISTINCT = 20  # pictures that are drawn; the others are links to these, for each takes a third of a second
NETWORK = "tf_efficientnet_lite0.pypi"
WAYS = ("bare", "embed", "predict")


def draw(folder: Path, number: int) -> None:
    """Writes pictures of photographs' size and weight: colors that change slowly, with grain."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(number):
        path = folder / f"{i:06}.jpg"
        if i >= DISTINCT:
            os.link(folder / f"{i % DISTINCT:06}.jpg", path)
            continue
        coarse = Image.fromarray(rng.integers(0, 255, (8, 12, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        grain = rng.integers(-12, 12, (SIZE[1], SIZE[0], 1))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def bare(folder: Path) -> None:
    """What anybody would write: torchvision's transform, batches of 64, the same network."""
    import torch
    from torchvision.transforms import v2

    import muscle_zoo

    model = muscle_zoo.create_model(NETWORK, pretrained=True).eval()
    steps = [v2.Resize(224, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.ToImage()]
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    files = sorted(folder.iterdir())
    with torch.inference_mode():
        for start in range(0, len(files), 64):
            model.forward_features(
                torch.stack([transform(Image.open(f).convert("RGB")) for f in files[start : start + 64]])
            )


def embed(folder: Path) -> None:
    """`embed`, which `train` on own pictures runs too."""
    import muscle_zoo

    muscle_zoo.embed(NETWORK, folder, cpu=True, progress=False)


def predict(folder: Path) -> None:
    """`predict` with a table, as for a folder of any size."""
    from muscle_zoo.cli import main

    assert main(["predict", NETWORK, str(folder), "--csv", str(folder.parent / "answers.csv"), "--cpu"]) == 0


def measure(way: str, folder: Path) -> dict[str, float]:
    """Peak memory and time of a way, in a process of its own; importing and loading the network included."""
    number = sum(1 for _ in folder.iterdir())
    began = time.perf_counter()
    {"bare": bare, "embed": embed, "predict": predict}[way](folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "peak_gib": round(peak, 3),
        "seconds": round(seconds, 1),
        "ms_per_picture": round(1000 * seconds / number, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--way", choices=WAYS, help="one of them, on the pictures in --folder")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.folder)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place) / "pictures"
        if args.folder is None:
            draw(folder, args.number)
        env = {**os.environ, "MUSCLE_ZOO_CACHE": f"{place}/cache"}
        for way in WAYS:
            words = [sys.executable, "-m", "tests.large_pictures", "--way", way, "--folder", str(folder)]
            done = subprocess.run(words, env=env, text=True, capture_output=True)
            print(
                way,
                done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else done.stderr[-2000:],
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
