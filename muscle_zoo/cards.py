"""Model cards and the README's tables, rendered from config.json and the ledger: no number is typed by hand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .data.datasets import DataSetInfo
from .errors import InputError
from .ledger import Row, mean_std, percent, runs_of
from .methods import method_names
from .recipes import get_recipe
from .registry import BLOCK

CHOSEN = "The recipe was chosen on a dev fold of the training images; its labels served nothing else."
NOT_CHOSEN = "This is a recipe of the user's own, not the one that is published under this name."
PAPER = "https://arxiv.org/abs/2012.00150"


def render_card(config: dict[str, Any], info: DataSetInfo, rows: Sequence[Row]) -> str:
    """Renders a checkpoint's README.md.

    Args:
        config: Its config.json.
        info: Its data set.
        rows: The ledger's rows of the same recipe; at least the checkpoint's own.

    Returns:
        Markdown with the Hub's metadata in front.
    """
    block = config[BLOCK]
    name, recipe = block["name"], block["recipe"]
    runs = runs_of(rows, name, block["recipe_sha256"])
    accuracies = [row.top1_ema for row in runs]
    mean, std = mean_std(accuracies)
    fold = "test images" if recipe["fold"] == "test" else "dev fold (held-out training images)"
    result = EvalResult(
        task_type="image-classification",
        dataset_type=info.name,
        dataset_name=f"{info.title}, {block['labels']} labels",
        metric_type="accuracy",
        metric_name="top-1",
        metric_value=round(block["metrics"]["top1"], 6),
    )
    data = ModelCardData(
        license="apache-2.0",
        library_name="timm",
        tags=["image-classification", "timm", "muscle_zoo", "semi-supervised-learning"],
        pipeline_tag="image-classification",
        model_name=name,
        eval_results=[result],
    )
    named = block["recipe_sha256"] == get_recipe(name).sha256
    source = name if named else "local-dir:export"
    words = [name, f"seed={block['seed']}", *_changed(recipe)]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"`{config['architecture']}` trained with `{block['method']}` on {info.title} with {block['labels']} labelled "
        f"images, after [arXiv 2012.00150]({PAPER}), reconstructed from its abstract; hyper-parameters are this "
        "project's.",
        "",
        "## Accuracy",
        "",
        f"Top-1 of these weights (seed {block['seed']}) on the {block['metrics']['n']} {fold}: "
        f"**{100 * block['metrics']['top1']:.2f} %**. "
        f"Negative log-likelihood {block['metrics']['nll']:.3f} nats, "
        f"expected calibration error {100 * block['metrics']['ece']:.1f} %.",
        "",
        f"Over {len(runs)} seed{'s' if len(runs) > 1 else ''}: mean {100 * mean:.2f} %"
        + (f", standard deviation {100 * std:.2f} points. These are the weights of the median seed" if std else "")
        + ". They are the averaged (EMA) weights of the last step, never of the best step.",
        "",
        "| seed | top-1, % |",
        "|---|---|",
        *[f"| {row.seed} | {100 * row.top1_ema:.2f} |" for row in runs],
        "",
        "![curves of the run](curves.png)",
        "",
        "## Use",
        "",
        "```python",
        "import muscle_zoo",
        "",
        f'model = muscle_zoo.create_model("{source}", pretrained=True).eval()',
        f"transform = muscle_zoo.create_transform(model)  # PIL image -> {_size(info)} tensor",
        "```",
        "",
        f'`timm.create_model("{source}", pretrained=True)` works too, after `import muscle_zoo`.',
        "",
        "## Reproduce",
        "",
        "```",
        f"python train.py {shlex.join(words)}",
        f"python eval.py {name if named else 'FOLDER'}",
        "```",
        "",
        f"{CHOSEN if named else NOT_CHOSEN} Recipe version "
        f"{recipe['version']}, sha256 `{block['recipe_sha256'][:16]}`; labelled split `{block['split_sha256'][:16]}` "
        f"(split.json); code `{block['git_sha'] or 'not a checkout'}`; torch {block['versions']['torch']}, "
        f"timm {block['versions']['timm']}; "
        f"{block['device']}, {_duration(block['hours'])}.",
        "",
        "## Data, licence, limits",
        "",
        f"{info.title}, {info.license}, {info.source}. The weights are Apache-2.0. Meant for research on learning from "
        "few labels; the number holds for these test images and this label budget, and another draw of the labelled "
        "images gives another number (see the seeds above).",
        "",
    ]
    return "\n".join(lines)


def _size(info: DataSetInfo) -> str:
    return "x".join(map(str, info.input_size))


def _duration(hours: float) -> str:
    return f"{3600 * hours:.0f} s" if hours < 0.1 else f"{hours:.1f} h"


def _changed(recipe: dict[str, Any]) -> list[str]:
    """The overrides that lead from the named recipe to this one, seed apart."""
    named = get_recipe(recipe["name"]).to_dict()
    words = [f"{k}={v}" for k, v in recipe.items() if k not in ("seed", "options", "version") and named[k] != v]
    for part, options in recipe["options"].items():
        words += [f"{part}.{k}={v}" for k, v in options.items() if named["options"][part].get(k) != v]
    return words


def render_table(rows: Sequence[Row], dataset: str, arch: str) -> str:
    """Renders the accuracy of every method at every label budget of a data set, with MUSCLE's paired gains.

    Only runs of the recipes as they are named now count.

    Args:
        rows: The ledger.
        dataset: The data set.
        arch: The backbone.

    Returns:
        A Markdown table: mean and standard deviation over seeds in per cent, and the gain in points over the same
        labels, seed by seed (mean, then the least).

    Raises:
        InputError: The ledger has no such runs.
    """
    pattern = re.compile(rf"{re.escape(arch)}\.({'|'.join(method_names())})_{re.escape(dataset)}_(\d+)")
    runs: dict[int, dict[str, dict[int, Row]]] = {}
    for row in rows:
        match = pattern.fullmatch(row.name)
        if match and row.recipe_sha256 == get_recipe(row.name).sha256:
            runs.setdefault(int(match[2]), {}).setdefault(match[1], {})[row.seed] = row
    methods = [m for m in method_names() if any(m in by_method for by_method in runs.values())]
    if not methods:
        raise InputError(f"the ledger has no runs of {arch} on {dataset}")
    bases = {"muscle": "supervised", **{f"muscle_{m}": m for m in method_names()}}
    pairs = [(m, bases[m]) for m in methods if bases.get(m) in methods]
    header = ["labels", "seeds", *methods, *(f"gain of {m} over {base}" for m, base in pairs)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for labels, by_method in sorted(runs.items()):
        seeds = sorted({seed for by_seed in by_method.values() for seed in by_seed})
        cells = [str(labels), str(len(seeds))]
        cells += [percent([r.top1_ema for r in by_method[m].values()]) if m in by_method else "" for m in methods]
        for m, base in pairs:
            shared = sorted(by_method.get(m, {}).keys() & by_method.get(base, {}).keys())
            gains = [100 * (by_method[m][s].top1_ema - by_method[base][s].top1_ema) for s in shared]
            cells.append(f"{mean_std(gains)[0]:+.1f} (least {min(gains):+.1f})" if gains else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render_readme(text: str, rows: Sequence[Row]) -> str:
    """Renders every ``<!-- ledger ARCH DATASET -->`` ... ``<!-- /ledger -->`` of the README anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{render_table(rows, match[3], match[2])}\n{match[4]}"

    return re.sub(r"(<!-- ledger (\S+) (\S+) -->)\n.*?(<!-- /ledger -->)", table, text, flags=re.S)


def render_all(root: Path, rows: Sequence[Row], info_of: Any) -> dict[Path, str]:
    """What every card and the README should say, by path, from hub_cards/ and the ledger."""
    import json

    rendered = {}
    for path in sorted((root / "hub_cards").glob("*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        rendered[path.with_name("README.md")] = render_card(config, info_of(config[BLOCK]["dataset"]), rows)
    readme = root / "README.md"
    if readme.is_file():
        rendered[readme] = render_readme(readme.read_text(encoding="utf-8"), rows)
    return rendered
