"""Calibration without labels: one temperature, found on unlabeled images and folded into the classifier.

A network that is trained on few labels is surer than it is right, and there are no labels left to measure by how much.
But its classes of two weak views of an image can be compared without any. Such views are much alike, so they differ
less often than the network is wrong; how much less often depends on how many labels there were, and hardly on the data.
The logits are divided by one temperature, so that the mean confidence equals the accuracy that the agreement promises.
Dividing all logits of an image by the same number changes no order among them: accuracy stays what it is.

:func:`calibrate` measures, :func:`expected_accuracy` is the rule, and classifier.py's ``fold_temperature`` writes the
temperature into the classifier, so that whoever loads the weights has calibrated probabilities and needs to know
nothing of it. Each takes any classifier, of timm or not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSetInfo, ImageSource, normalize
from ..data.augment import Policy
from ..data.splits import hash_order
from ..errors import CalibrationError, InputError
from ..methods.base import evaluation_mode

MAX_IMAGES = (
    10_000  # of so many the standard error of a rate is half a point at most; more would cost more than it says
)
LOWEST, HIGHEST = 0.05, 50.0  # temperatures: 0.05 makes nearly any guess certain, 50 nearly any a toss
DECIMALS = 4  # of a temperature: machines whose logits differ in their last bits mostly agree on so many
RULE = "mean confidence = 1/C + (1 - 1/C) * max(0, (agreement_weak - 1/C) / (1 - 1/C))^power, temperature >= 1"
_PIXELS = 2**25  # numbers in one batch: 128 MiB


@dataclass(frozen=True)
class Calibration:
    """What was measured on unlabeled images, by the network as it is.

    Attributes:
        temperature: What the logits are to be divided by, at least 1: a network is never made surer than it is.
        images: How many were looked at.
        labels_per_class: Labeled images that it was trained on, per class.
        saw_strong: Whether it was trained on strong views.
        confidence: Mean probability of the most probable class, of the images as they are.
        agreement_weak: Share of images that have the same class in two weak views.
        power: See :func:`power_of`.
        expected_accuracy: See :func:`expected_accuracy`.
    """

    temperature: float
    images: int
    labels_per_class: float
    saw_strong: bool
    confidence: float
    agreement_weak: float
    power: float
    expected_accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the temperature and the rule first, then the measurements."""
        values = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {"temperature": values.pop("temperature"), "rule": RULE, **values}


def power_of(labels_per_class: float, saw_strong: bool) -> float:
    """How many times as often a network is wrong as its classes of two weak views differ, where both are rare.

    Learning to agree on strong views makes weak ones agree although the class is wrong, the more so the fewer labels
    said otherwise: ``5 n^(-1/4)`` for such networks, but not below 1, and 1.5 for others. Chosen by the likelihood on
    the dev folds of the digits (10, 20, 40 and 100 labels) and of Fashion-MNIST (40 and 250).

    Args:
        labels_per_class: Labeled images per class, n.
        saw_strong: Whether the network was trained on strong views.

    Returns:
        1 or more.

    Example:
        >>> power_of(1, True), power_of(16, True), power_of(10_000, True), power_of(1, False)
        (5.0, 2.5, 1.0, 1.5)
    """
    if not saw_strong:
        return 1.5
    return max(1.0, 5.0 * max(labels_per_class, 1.0) ** -0.25)


def expected_accuracy(agreement_weak: float, num_classes: int, power: float) -> float:
    """The accuracy that an agreement of two weak views promises: both above chance, the one a power of the other.

    Args:
        agreement_weak: Share of images that have the same class in both, 0 to 1.
        num_classes: C; by guessing one in C is right, and two guesses agree as often.
        power: See :func:`power_of`.

    Returns:
        ``1/C + (1 - 1/C) max(0, (agreement - 1/C) / (1 - 1/C))^power``: 1 at full agreement, ``1/C`` at chance.

    Example:
        >>> expected_accuracy(1.0, 10, 5.0), expected_accuracy(0.1, 10, 5.0), round(expected_accuracy(0.98, 10, 5.0), 3)
        (1.0, 0.1, 0.904)
    """
    chance = 1.0 / num_classes
    above = max(0.0, (agreement_weak - chance) / (1.0 - chance)) if num_classes > 1 else 1.0
    return chance + (1.0 - chance) * above**power


def choose_temperature(logits: Tensor, accuracy: float) -> float:
    """The temperature at which the mean confidence equals an accuracy, but at least 1, rounded to four decimals.

    Args:
        logits: ``(n, C)``, of the images as they are.
        accuracy: 0 to 1.

    Example:
        >>> choose_temperature(torch.tensor([[2.0, 0.0]]), 0.9), choose_temperature(torch.tensor([[8.0, 0.0]]), 0.982)
        (1.0, 2.0004)
    """
    return round(max(1.0, temperature_for(logits, accuracy)), DECIMALS)


def temperature_for(logits: Tensor, rate: float) -> float:
    """The temperature T at which the mean of max softmax(logits / T) equals a rate.

    The mean falls as T rises, so there is one T or none. Where there is none it is the nearest bound: :data:`LOWEST`
    for a rate above any confidence, such as 1, and :data:`HIGHEST` for one below all of them, such as 1 / C.

    Args:
        logits: ``(n, C)``.
        rate: 0 to 1.

    Returns:
        T; 1 for logits without any difference between classes, which no temperature changes.

    Raises:
        InputError: There are no logits, they are not finite, or the rate is none.

    Example:
        >>> round(temperature_for(torch.tensor([[2.0, 0.0]]), torch.tensor(1.0).sigmoid().item()), 4)
        2.0
    """
    if logits.ndim != 2 or not logits.numel() or not logits.isfinite().all():
        raise InputError(f"logits of shape {list(logits.shape)}: give finite ones, (n, C)")
    if not 0.0 <= rate <= 1.0:
        raise InputError(f"rate={rate} is out of range; give 0 to 1")
    from scipy.optimize import brentq  # slow to import

    below = logits.cpu().double()
    below = below - below.amax(dim=1, keepdim=True)
    if not below.any():
        return 1.0

    def excess(log_temperature: float) -> float:
        # The largest logit is 0, so 1 / (sum of exponentials) is the probability of its class.
        return float((below / math.exp(log_temperature)).exp().sum(dim=1).reciprocal().mean()) - rate

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if excess(low) <= 0.0:
        return LOWEST
    if excess(high) >= 0.0:
        return HIGHEST
    return math.exp(brentq(excess, low, high, xtol=1e-9))


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Share of images whose most probable class is the same in both, 0 to 1.

    Args:
        logits_a: ``(n, C)``, of one view of the images.
        logits_b: ``(n, C)``, of another view of the same images in the same order.

    Raises:
        InputError: They are not of as many images, or of none.
    """
    if logits_a.shape != logits_b.shape or not logits_a.numel():
        raise InputError(f"logits of shapes {list(logits_a.shape)} and {list(logits_b.shape)}: give two alike, (n, C)")
    return float((logits_a.argmax(dim=1) == logits_b.argmax(dim=1)).double().mean())


def choose_images(seed: int, pool: Sequence[int], most: int = MAX_IMAGES) -> list[int]:
    """The images of a pool that a calibration looks at: all of them, or as many as ``most``, chosen by hash.

    Args:
        seed: Of the run.
        pool: Positions.
        most: How many at most.

    Returns:
        Sorted positions.
    """
    return sorted(pool if len(pool) <= most else hash_order(f"{seed}/calibration", pool)[:most])


def calibrate(
    model: nn.Module,
    images: ImageSource,
    info: DataSetInfo,
    weak: Policy,
    seed: int,
    labels_per_class: float,
    saw_strong: bool,
    pool: Sequence[int] | None = None,
    batch_size: int = 1024,
) -> Calibration:
    """Measures how sure a classifier is of unlabeled images, and how much their views agree.

    It is run in evaluation mode and float32; its mode and its weights stay as they are. Which images are looked at, and
    their views, are pure functions of the seed.

    Args:
        model: Images ``(n, C, H, W)`` to logits.
        images: Where the images are; no label of theirs is looked at.
        info: Mean and standard deviation.
        weak: Makes the weak views.
        seed: Of the run.
        labels_per_class: Labeled images per class that it was trained on.
        saw_strong: Whether it was trained on strong views.
        pool: Positions of the unlabeled images; all by default. At most :data:`MAX_IMAGES` of them are looked at.
        batch_size: Images per forward, at most; large ones are fewer.

    Returns:
        The measurements, and the temperature that follows from them.

    Raises:
        CalibrationError: There is no image, or the logits are not finite.

    Example:
        >>> from muscle_zoo import create_model
        >>> from muscle_zoo.data import load_dataset
        >>> from muscle_zoo.data.augment import parse_policy
        >>> model, digits = create_model("cnn4.muscle_digits_10", pretrained=True), load_dataset("digits")
        >>> weak = parse_policy("weak", "affine(8,0.08,0.05)")
        >>> found = calibrate(model, digits.train, digits.info, weak, seed=0, labels_per_class=1, saw_strong=True)
        >>> found.temperature >= 1
        True
    """
    positions = choose_images(seed, range(len(images)) if pool is None else pool)
    if not positions:
        raise CalibrationError("there is no unlabeled image to find a temperature on")
    policies = {"clean": Policy(()), "weak": weak, "weak again": weak}
    batch_size = min(batch_size, max(8, _PIXELS // math.prod(info.input_size)))
    logits = _logits_by_view(model, images, info, policies, seed, torch.tensor(positions), batch_size)
    return calibrate_logits(logits, labels_per_class, saw_strong)


def calibrate_logits(logits: dict[str, Tensor], labels_per_class: float, saw_strong: bool) -> Calibration:
    """What :func:`calibrate` measures.

    Args:
        logits: ``(n, C)`` of the views ``clean``, ``weak`` and ``weak again``.
        labels_per_class: Labeled images per class that the network was trained on.
        saw_strong: Whether it was trained on strong views.

    Raises:
        CalibrationError: They are not finite.
    """
    if not all(values.isfinite().all() for values in logits.values()):
        raise CalibrationError("its logits of some unlabeled images are not finite")
    clean, agreed = logits["clean"], agreement(logits["weak"], logits["weak again"])
    power = power_of(labels_per_class, saw_strong)
    accuracy = expected_accuracy(agreed, clean.shape[1], power)
    return Calibration(
        temperature=choose_temperature(clean, accuracy),
        images=len(clean),
        labels_per_class=labels_per_class,
        saw_strong=saw_strong,
        confidence=float(clean.double().softmax(dim=1).amax(dim=1).mean()),
        agreement_weak=agreed,
        power=power,
        expected_accuracy=accuracy,
    )


@torch.inference_mode()
def _logits_by_view(
    model: nn.Module,
    images: ImageSource,
    info: DataSetInfo,
    policies: dict[str, Policy],
    seed: int,
    positions: Tensor,
    batch_size: int,
) -> dict[str, Tensor]:
    """``(n, C)`` float32 on the CPU for each view; each image is read and decoded once."""
    device = next(model.parameters()).device
    numbers = {view: _draw(seed, view, len(positions), policy.num_random) for view, policy in policies.items()}
    logits: dict[str, list[Tensor]] = {view: [] for view in policies}
    parts = torch.arange(len(positions)).split(batch_size)
    with evaluation_mode(model):
        for rows, raw in zip(parts, images.batches(positions[rows] for rows in parts), strict=True):
            batch = raw.to(device, non_blocking=True)
            for view, policy in policies.items():
                inputs = normalize(policy(batch, numbers[view][rows]), info)
                logits[view].append(model(inputs.contiguous(memory_format=torch.channels_last)).float().cpu())
    return {view: torch.cat(batches) for view, batches in logits.items()}


def _draw(seed: int, view: str, n: int, count: int) -> Tensor:
    """Uniform numbers ``(n, count)`` for one view of all images, of a key that the training draws nothing from."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/calibration/{view}".encode()).digest()[:8], "big") >> 1
    return torch.rand(n, count, generator=torch.Generator().manual_seed(key))
