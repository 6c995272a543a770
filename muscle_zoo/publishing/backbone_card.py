"""The README.md of a network without a classifier: no ledger has it, so all that it says is in config.json."""

from __future__ import annotations

import shlex
from typing import Any

from huggingface_hub import ModelCardData

from ..checkpoints.card import BLOCK
from ..data import DataSetInfo
from ..recipes import Recipe, changes
from .card_metadata import base_model_of, library_of, license_of, lineage


def render_backbone_card(config: dict[str, Any], info: DataSetInfo) -> str:
    """Renders it.

    Args:
        config: Its config.json: the architecture and our block.
        info: Its data set.

    Returns:
        Markdown with the Hub's metadata in front.
    """
    block, arch = config[BLOCK], config["architecture"]
    recipe = Recipe.from_dict(block["recipe"])
    library = library_of(arch)
    tags = ["image-feature-extraction", *library["tags"][1:-1], "self-supervised-learning"]
    fields: dict[str, Any] = {**lineage(base_model_of(recipe), license_of(recipe)), **library, "tags": tags}
    if info.hub_id:
        fields["datasets"] = [info.hub_id]
    data = ModelCardData(**fields, pipeline_tag="image-feature-extraction", model_name=block["name"])
    measured = block["neighbors"]
    fold = "test images" if recipe.fold == "test" else f"images of the {recipe.fold} fold"
    began = f" Training began with `{recipe.init}`, whose licence, data and limits hold too." if recipe.init else ""
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {block['name']}",
        "",
        f"`{arch}` pre-trained with `{block['method']}` on the unlabeled images of {info.title}: no label was used, "
        "and there is no classifier.",
        "",
        f"The features' nearest neighbors among {measured['references']} labeled images have the right class for "
        f"**{100 * measured['top1']:.2f} %** of the {measured['n']} {fold}. The labels were used for this number "
        "alone; it is no accuracy of a classifier, and stands in no ledger.",
        "",
        "![curves of the run](curves.png)",
        "",
        *_use(arch, recipe),
        *_reproduction(block, recipe),
        "## Data, licence, limits",
        "",
        f"{info.title}, {info.license}, {info.homepage}.{began}",
        "",
    ]
    return "\n".join(lines)


def _use(arch: str, recipe: Recipe) -> list[str]:
    """How others begin with it."""
    return [
        "## Use",
        "",
        "On the Hub [start.ipynb](start.ipynb) beside this card goes through its first minutes.",
        "",
        "Begin another training with it, or take it for its features:",
        "",
        "```",
        f"python train.py {arch}.muscle_{recipe.dataset}_{recipe.labels} init=FOLDER",
        "```",
        "",
        "```python",
        "import muscle_zoo",
        "",
        'backbone = muscle_zoo.create_model("local-dir:FOLDER", pretrained=True).eval()  # images to features',
        'model = muscle_zoo.create_model("local-dir:FOLDER", pretrained=True, num_classes=7)  # a new classifier',
        "```",
        "",
    ]


def _reproduction(block: dict[str, Any], recipe: Recipe) -> list[str]:
    """The command that repeats the run, and what it was made with."""
    versions = block["versions"]
    return [
        "## Reproduce",
        "",
        "```",
        f"python train.py {shlex.join([recipe.name, f'seed={recipe.seed}', *changes(recipe)])}",
        "```",
        "",
        f"Recipe version {recipe.version}, sha256 `{block['recipe_sha256'][:16]}`; code "
        f"`{block['git_sha'] or 'not a checkout'}`; torch {versions['torch']}, timm {versions['timm']}; "
        f"{block['device']}, {block['dtype']}.",
        "",
    ]
