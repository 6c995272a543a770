"""Which loader loads which kind of checkpoint from where, and whether with the same probabilities: by hand.

``python -m tests.loaders`` builds a wheel, publishes four checkpoints to the tests' own Hub, and loads each by
muscle_zoo, timm, transformers and ONNX Runtime: fresh from the Hub, offline from the cache, and from a folder. Every
loader and place is a process of its own, which sees the wheel and not this checkout. It takes some minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from muscle_zoo.checkpoints.registry import CARD_FILES, shipped_cards
from muscle_zoo.results.tables import markdown_table
from tests.hub_server import OWNER, HubServer

ROOT = Path(__file__).resolve().parent.parent
VIT = "test_vit.muscle_digits_10"
KINDS = {
    "stock CNN": "test_resnet.muscle_fashion_mnist_40",
    "stock ViT": VIT,
    "frozen head": "tf_efficientnet_lite0.muscle_cifar10_jpeg_250_frozen",
    "ours": "cnn4.muscle_digits_10",
}
LOADERS, PLACES = ("muscle_zoo", "timm", "transformers", "ONNX Runtime"), ("online", "offline", "folder")
COMMON = """
import json, sys
import numpy as np
from PIL import Image
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
def picture(gray):
    return NOISE.convert("L") if gray else NOISE
def told(targets, look):
    for kind, target in targets.items():
        try:
            probabilities = np.asarray(look(kind, target)).tolist()
        except Exception as error:
            probabilities = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps([kind, probabilities]), flush=True)
targets = json.loads(sys.argv[1])
"""
CODE = {
    "muscle_zoo": """
import muscle_zoo, torch
@torch.no_grad()
def look(kind, target):
    model = muscle_zoo.create_model(target, pretrained=True).eval()
    return model(muscle_zoo.create_transform(model)(NOISE)[None]).softmax(1)[0]
told(targets, look)
""",
    "timm": """
import timm, torch
@torch.no_grad()
def look(kind, target):
    if kind == "ours":
        import muscle_zoo
    assert (kind == "ours") == ("muscle_zoo" in sys.modules)
    model = timm.create_model(target, pretrained=True).eval()
    data = timm.data.resolve_data_config({}, model=model)
    return model(timm.data.create_transform(**data)(picture(data["input_size"][0] == 1))[None]).softmax(1)[0]
told(targets, look)
""",
    "transformers": """
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
@torch.no_grad()
def look(kind, target):
    if kind == "ours":
        import muscle_zoo
    assert (kind == "ours") == ("muscle_zoo" in sys.modules)
    target = target.partition(":")[2]
    model = AutoModelForImageClassification.from_pretrained(target).eval()
    processor = AutoImageProcessor.from_pretrained(target)
    gray = processor.data_config["input_size"][0] == 1
    return model(**processor(picture(gray))).logits.softmax(1)[0]
told(targets, look)
""",
    "ONNX Runtime": """
import subprocess, tempfile
import onnxruntime
def look(kind, target):
    file = tempfile.mkdtemp() + "/model.onnx"
    words = [sys.executable, "-m", "muscle_zoo", "export", target, "--onnx", file]
    subprocess.run(words, check=True, capture_output=True)
    session = onnxruntime.InferenceSession(file)
    facts = session.get_modelmeta().custom_metadata_map
    channels, height, width = json.loads(facts["input_size"])
    image = picture(channels == 1)
    scale = max(height, width) / min(image.size)  # torchvision's resize and center crop, by hand
    image = image.resize([int(scale * side) for side in image.size], Image.Resampling.BICUBIC)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    values = np.asarray(image, np.float32).reshape(height, width, channels)
    mean, std = (np.array(json.loads(facts[key]), np.float32) for key in ("mean", "std"))
    logits = session.run(["logits"], {"images": ((values / 255 - mean) / std).transpose(2, 0, 1)[None]})[0][0]
    powers = np.exp(logits - logits.max())
    assert "torch" not in sys.modules
    return powers / powers.sum()
told(targets, look)
""",
}


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="loaders"))
    try:
        with HubServer(work / "hub") as hub:
            print(table(work, hub))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def table(work: Path, hub: HubServer) -> str:
    """All of it as Markdown."""
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "MUSCLE_ZOO", "PYTHON"))}
    env = {**clean, **quiet, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(_install_wheel(work))}
    folders = _prepare(work, env)
    _publish(folders, env)
    targets = {"hub": {kind: f"hf-hub:muscle-zoo/{name}" for kind, name in KINDS.items()}}
    targets["folder"] = {kind: f"local-dir:{folder}" for kind, folder in folders.items()}
    expected = _load("muscle_zoo", targets["folder"], {**env, "HF_HOME": str(work / "none"), "HF_HUB_OFFLINE": "1"})
    rows = []
    for loader in LOADERS:
        home = {"HF_HOME": str(work / f"home {loader}")}
        for place in PLACES:
            where = {**env, **home, **({} if place == "online" else {"HF_HUB_OFFLINE": "1"})}
            seen = _load(loader, targets["folder" if place == "folder" else "hub"], where)
            rows.append([loader, place, *(_verdict(seen.get(kind, "nothing"), expected[kind]) for kind in KINDS)])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return markdown_table(["loader", "from", *KINDS], rows)


def _install_wheel(work: Path) -> Path:
    site = work / "site"
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(ROOT)]
    subprocess.run(words, check=True, cwd=work)
    return site


def _prepare(work: Path, env: dict[str, str]) -> dict[str, Path]:
    """A folder of each kind, outside the checkout; the vision transformer's is trained for two steps."""
    folders = {kind: work / "cards" / name for kind, name in KINDS.items()}
    run = work / "run"
    words = ["train", VIT, "steps=2", "eval_every=2", "batch_size=8", "mu=1", "image_size=32", "--cpu"]
    subprocess.run([sys.executable, "-m", "muscle_zoo", *words, "--out", str(run)], check=True, cwd=work, env=env)
    for kind, name in KINDS.items():
        shutil.copytree(run / "export" if name == VIT else shipped_cards() / name, folders[kind])
    return folders


def _publish(folders: dict[str, Path], env: dict[str, str]) -> None:
    code = "import sys\nfrom huggingface_hub import HfApi\napi = HfApi()\n"
    code += "for folder in sys.argv[1:]:\n    repo = 'muscle-zoo/' + folder.rpartition('/')[2]\n"
    code += "    api.create_repo(repo)\n"
    code += f"    api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns={CARD_FILES!r})"
    words = [sys.executable, "-c", code, *map(str, folders.values())]
    subprocess.run(words, check=True, env={**env, "HF_TOKEN": OWNER}, capture_output=True)


def _load(loader: str, targets: dict[str, str], env: dict[str, str]) -> dict[str, list[float] | str]:
    words = [sys.executable, "-c", COMMON + CODE[loader], json.dumps(targets)]
    done = subprocess.run(words, env=env, text=True, capture_output=True, cwd=tempfile.gettempdir())
    lines = [line for line in done.stdout.splitlines() if line.startswith('["')]
    if not lines:
        return dict.fromkeys(targets, f"rc {done.returncode}: {done.stderr[-300:]}")
    return dict(map(json.loads, lines))


def _verdict(seen: list[float] | str, expected: list[float] | str) -> str:
    if isinstance(seen, str) or isinstance(expected, str):
        return f"FAILS: {seen if isinstance(seen, str) else expected}"
    off = max(abs(a - b) for a, b in zip(seen, expected, strict=True))
    return f"{'equal' if off <= 1e-5 else 'DIFFERS'} ({off:.0e})"


if __name__ == "__main__":
    main()
