"""A folder for a Space of the Hugging Face Hub: a page to drop a picture on, with the export that it asks."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import requires, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

from ..checkpoints import registry, weights
from ..checkpoints.card import CONFIG_FILE
from ..checkpoints.factory import is_own_architecture
from ..checkpoints.registry import WEIGHTS_FILE
from ..checkpoints.target import checkpoint_name
from ..errors import InputError
from ..files import read_json, write_text

GRADIO = "5.49.1"  # the front matter's sdk_version: the Hub installs just this one


def export_space(target: str, folder: Path) -> list[str]:
    """Writes ``app.py``, ``requirements.txt``, ``README.md`` and ``export/``.

    Of architectures of our own the package is copied beside them, for plain timm does not know these.

    Args:
        target: A run folder, a card folder or the name of a card that is here.
        folder: Where to; it must not be there, or be empty.

    Returns:
        What was written, in words.

    Raises:
        InputError: The checkpoint is not here or has no classifier, or there is something in the folder.
    """
    export = _export_of(target)
    config = read_json(export / CONFIG_FILE)
    if not config.get("num_classes") or not config.get("label_names"):
        raise InputError(f"{target} has no classifier or no names of its classes, so a page could show nothing")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--space {folder} is there already; give another folder, or remove it")
    is_own = is_own_architecture(config["architecture"])
    (folder / "export").mkdir(parents=True)
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copyfile(export / file, folder / "export" / file)
    write_text(folder / "app.py", _app(is_own))
    write_text(folder / "requirements.txt", "\n".join(_requirements(is_own)) + "\n")
    write_text(folder / "README.md", _readme(target, config))
    if is_own:
        with as_file(files("muscle_zoo")) as package:
            left_out = shutil.ignore_patterns("__pycache__", "hub_cards")
            shutil.copytree(package, folder / "muscle_zoo", ignore=left_out)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    return [f"{folder}: {size:.1f} MiB; try it: pip install -r requirements.txt gradio=={GRADIO} && python app.py"]


def _export_of(target: str) -> Path:
    name = checkpoint_name(target)
    card = registry.find_card(name)
    folder = Path(name.removeprefix(weights.LOCAL_DIR)) if name.startswith(weights.LOCAL_DIR) else card
    if folder is None or not (folder / WEIGHTS_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        raise InputError(f"{target}: its weights are not here; give a run folder, or a folder with {WEIGHTS_FILE}")
    return folder


def _app(is_own: bool) -> str:
    text = files(__package__).joinpath("space_app.py").read_text(encoding="utf-8")
    own = "import muscle_zoo  # noqa: F401  registers its architectures with timm\n"
    return text.replace("import timm\n", f"{own}import timm\n") if is_own else text


def _requirements(is_own: bool) -> list[str]:
    """The versions that the export was made with, so that it gives there what it gives here."""
    exact = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision", "timm", "pillow")]
    if not is_own:
        return exact
    others = [line for line in requires("muscle_zoo") or () if "extra ==" not in line]
    known = {line.partition("==")[0] for line in exact}
    return exact + [line for line in others if re.split(r"[^\w-]", line)[0].lower() not in known]


def _readme(target: str, config: dict[str, Any]) -> str:
    title = Path(target).resolve().name if Path(target).exists() else target
    front = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=GRADIO,
        python_version="3.12",
        app_file="app.py",
        license=config.get("pretrained_cfg", {}).get("license") or "other",
    )
    names = ", ".join(map(str, config["label_names"]))
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {title}\n\nDrop a picture: `{config['architecture']}` "
        f"tells {len(config['label_names'])} classes apart, {names}. It knows no others.\n\n"
        "    hf repo create NAME --repo-type space --space_sdk gradio\n    hf upload ME/NAME . --repo-type space\n"
    )
