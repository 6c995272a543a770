"""Calibration without labels: one temperature, found on unlabeled images and folded into the classifier.

A network that is trained on few labels is surer than it is right, and there are no labels left to measure by how much.
But its classes of two views of an image can be compared without any: where they often differ, it cannot be right as
often as its probabilities say. The logits are divided by one temperature, so that the mean confidence equals a rate of
agreement. Dividing all logits of an image by the same number changes no order among them: accuracy stays what it is.

:func:`calibrate` measures, :func:`choose_temperature` is the rule, and classifier.py's ``fold_temperature`` writes the
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
from .classifier import evaluation_mode

MAX_IMAGES = (
    10_000  # of so many the standard error of a rate is half a point at most; more would cost more than it says
)
LOWEST, HIGHEST = 0.05, 50.0  # temperatures: 0.05 makes nearly any guess certain, 50 nearly any a toss
DECIMALS = 4  # of a temperature: machines whose logits differ in their last bits mostly agree on so many
RULE = "max(1, t_weak_weak^(1-strength) * t_geometric^strength)"
_PIXELS = 2**25  # numbers in one batch: 128 MiB


@dataclass(frozen=True)
class Calibration:
    """What was measured on unlabeled images, by the network as it is.

    Attributes:
        images: How many.
        labels_per_class: Labeled images that it was trained on, per class.
        saw_strong: Whether it was trained on strong views.
        confidence: Mean probability of the most probable class, of the images as they are.
        agreement_weak: Share of images that have the same class in two weak views.
        agreement_clean_weak: The same of the image as it is and a weak view.
        agreement_clean_strong: The same of the image as it is and a strong view.
        t_weak_weak: Temperature at which the mean confidence equals ``agreement_weak``.
        t_geometric: Geometric mean of the temperatures for ``agreement_clean_weak`` and ``agreement_clean_strong``.
    """

    images: int
    labels_per_class: float
    saw_strong: bool
    confidence: float
    agreement_weak: float
    agreement_clean_weak: float
    agreement_clean_strong: float
    t_weak_weak: float
    t_geometric: float

    @property
    def temperature(self) -> float:
        """What the logits are to be divided by, see :func:`choose_temperature`."""
        return choose_temperature(self.t_weak_weak, self.t_geometric, self.strength)

    @property
    def strength(self) -> float:
        """How far between the two temperatures, see :func:`strength`."""
        return strength(self.labels_per_class, self.saw_strong)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the temperature, the rule and its strength first, then the measurements."""
        measured = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {"temperature": self.temperature, "rule": RULE, "strength": round(self.strength, 6), **measured}


def strength(labels_per_class: float, saw_strong: bool) -> float:
    """How far the rule goes from the careful temperature (0) to the bold one (1): ``n^(-1/4)``, or 0.

    Two weak views of an image are much alike, so their agreement says less than all of how unsure a network should be:
    its temperature is a floor. The geometric one is nearly the best for networks that learned to agree on strong views,
    the more so the fewer labels there were. For those that never saw a strong view it is far too high: they disagree
    there because such images are new to them. Chosen on the dev fold of the digits at 10, 20 and 40 labels.

    Args:
        labels_per_class: Labeled images per class, n.
        saw_strong: Whether the network was trained on strong views.

    Returns:
        0 to 1.

    Example:
        >>> strength(1, True), strength(16, True), strength(1, False)
        (1.0, 0.5, 0.0)
    """
    return min(1.0, labels_per_class**-0.25) if saw_strong and labels_per_class > 0 else 0.0


def choose_temperature(t_weak_weak: float, t_geometric: float, a: float) -> float:
    """The rule: what the logits are divided by, of what was measured. It never makes a network surer than it is.

    Args:
        t_weak_weak: See :class:`Calibration`.
        t_geometric: As there.
        a: How far from the one to the other, 0 to 1, see :func:`strength`.

    Returns:
        1 or more, rounded to four decimals.

    Example:
        >>> choose_temperature(1.5, 3.0, 0.0), choose_temperature(1.5, 3.0, 1.0), choose_temperature(0.8, 1.2, 0.0)
        (1.5, 3.0, 1.0)
    """
    return round(max(1.0, t_weak_weak ** (1 - a) * t_geometric**a), DECIMALS)


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
    strong: Policy,
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
        strong: Makes the strong view.
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
        >>> weak, strong = (parse_policy("", text) for text in ("affine(8,0.08,0.05)", "affine(30,0.2,0.2)+cutout"))
        >>> found = calibrate(model, digits.train, digits.info, weak, strong, 0, labels_per_class=1, saw_strong=True)
        >>> found.temperature >= 1
        True
    """
    positions = choose_images(seed, range(len(images)) if pool is None else pool)
    if not positions:
        raise CalibrationError("there is no unlabeled image to find a temperature on")
    policies = {"clean": Policy(()), "weak": weak, "weak again": weak, "strong": strong}
    batch_size = min(batch_size, max(8, _PIXELS // math.prod(info.input_size)))
    logits = _logits_by_view(model, images, info, policies, seed, torch.tensor(positions), batch_size)
    return calibrate_logits(logits, labels_per_class, saw_strong)


def calibrate_logits(logits: dict[str, Tensor], labels_per_class: float, saw_strong: bool) -> Calibration:
    """What :func:`calibrate` measures.

    Args:
        logits: ``(n, C)`` of the views ``clean``, ``weak``, ``weak again`` and ``strong``.
        labels_per_class: Labeled images per class that the network was trained on.
        saw_strong: Whether it was trained on strong views.

    Raises:
        CalibrationError: They are not finite.
    """
    if not all(values.isfinite().all() for values in logits.values()):
        raise CalibrationError("its logits of some unlabeled images are not finite")
    clean = logits["clean"]
    rates = {view: agreement(clean, logits[view]) for view in ("weak", "strong")}
    agreement_weak = agreement(logits["weak"], logits["weak again"])
    return Calibration(
        images=len(clean),
        labels_per_class=labels_per_class,
        saw_strong=saw_strong,
        confidence=float(clean.double().softmax(dim=1).amax(dim=1).mean()),
        agreement_weak=agreement_weak,
        agreement_clean_weak=rates["weak"],
        agreement_clean_strong=rates["strong"],
        t_weak_weak=temperature_for(clean, agreement_weak),
        t_geometric=math.prod(temperature_for(clean, rate) for rate in rates.values()) ** 0.5,
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
