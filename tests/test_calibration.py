"""Calibration without labels: the temperature that is found, and the weights it is folded into."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from muscle_zoo.checkpoints.factory import create_model
from muscle_zoo.data import LabeledImages, load_dataset
from muscle_zoo.data.augment import parse_policy
from muscle_zoo.engine import calibration, classifier
from muscle_zoo.engine.calibration import HIGHEST, LOWEST, agreement, calibrate, choose_images, temperature_for
from muscle_zoo.engine.classifier import fold_temperature
from muscle_zoo.errors import CalibrationError, InputError

WEAK = parse_policy("weak", "affine(8,0.08,0.05)")
DIGITS = load_dataset("digits")
INFO = DIGITS.info
OUTPUT = pytest.CaptureFixture[str]


def confidence(logits: Tensor, temperature: float) -> float:
    return float((logits.double() / temperature).softmax(dim=1).amax(dim=1).mean())


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_confidence_at_the_temperature_is_the_rate(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, classes = 50 + 100 * seed, 2 + 3 * seed
    logits = 3.0 ** (seed - 1) * torch.randn(n, classes, generator=generator) + 5.0 * seed
    last = 0.0
    for rate in (0.9, 0.8, 0.7, 0.55):
        temperature = temperature_for(logits, rate)
        assert confidence(logits, temperature) == pytest.approx(rate, abs=1e-7)
        assert temperature > last  # the less sure, the higher
        assert temperature_for(1.5 * logits + 1.0, rate) == pytest.approx(1.5 * temperature, rel=1e-5)
        last = temperature


def test_a_known_temperature() -> None:
    # Softmax of (log 9, 0) is 0.9; at twice the temperature it is that of (log 3, 0): 0.75.
    assert temperature_for(torch.tensor([[math.log(9), 0.0]] * 3), 0.75) == pytest.approx(2.0)
    assert temperature_for(torch.tensor([[math.log(9), 0.0]] * 3), 0.9) == pytest.approx(1.0)


def test_the_ends_are_defined() -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert temperature_for(logits, 1.0) == LOWEST
    for rate in (0.25, 0.1, 0.0):
        assert temperature_for(logits, rate) == HIGHEST
    for rate in (0.0, 0.25, 0.7, 1.0):
        assert temperature_for(torch.full((20, 4), 3.0), rate) == temperature_for(torch.ones(5, 1), rate) == 1.0
    assert temperature_for(1e30 * logits, 0.7) == HIGHEST and temperature_for(1e-30 * logits, 0.7) == LOWEST


@pytest.mark.parametrize(
    ("logits", "rate"),
    [
        (torch.ones(3), 0.5),
        (torch.ones(0, 3), 0.5),
        (torch.tensor([[1.0, math.nan]]), 0.5),
        (torch.tensor([[1.0, math.inf]]), 0.5),
        (torch.eye(3), 1.1),
        (torch.eye(3), -0.1),
        (torch.eye(3), math.nan),
    ],
)
def test_what_has_no_temperature_is_refused(logits: Tensor, rate: float) -> None:
    with pytest.raises(InputError, match=r"give (finite ones|0 to 1)"):
        temperature_for(logits, rate)


def test_agreement_is_a_share_of_images() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [0.0, 9.0]])
    assert agreement(a, a) == 1.0 and agreement(a, -a) == 0.0
    assert agreement(a, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])) == 0.5
    for other in (a[:3], torch.ones(4, 3)):
        with pytest.raises(InputError, match="two alike"):
            agreement(a, other)
    with pytest.raises(InputError):
        agreement(a[:0], a[:0])


def test_the_rule_never_makes_a_network_surer() -> None:
    logits = torch.tensor([[math.log(9), 0.0]] * 3)  # of confidence 0.9
    for accuracy in (0.9, 0.95, 1.0):
        assert calibration.choose_temperature(logits, accuracy) == 1.0
    assert calibration.choose_temperature(logits, 0.75) == 2.0


def test_a_network_is_as_often_wrong_as_its_views_differ_times_the_power_where_both_are_rare() -> None:
    for power in (1.0, 1.5, 2.5, 5.0):
        differ = 1e-5
        assert 1 - calibration.expected_accuracy(1 - differ, 10, power) == pytest.approx(power * differ, rel=1e-3)
        by_agreement = [calibration.expected_accuracy(rate / 20, 10, power) for rate in range(21)]
        assert by_agreement == sorted(by_agreement) and by_agreement[0] == by_agreement[2] == 0.1
        assert by_agreement[-1] == 1.0
    for agreement_weak, classes in ((0.3, 10), (0.75, 2), (0.99, 1000)):  # at power 1 they are equal
        assert calibration.expected_accuracy(agreement_weak, classes, 1.0) == pytest.approx(agreement_weak)
    assert calibration.expected_accuracy(0.75, 2, 2.0) == 0.625  # half of the way above chance, squared: a quarter
    assert calibration.expected_accuracy(1.0, 1, 5.0) == 1.0  # of one class, which is always right


def test_views_promise_the_less_the_fewer_labels_a_network_of_strong_views_had() -> None:
    by_labels = [calibration.power_of(n, True) for n in (0, 0.5, 1, 2, 4, 16, 10_000)]
    assert by_labels == pytest.approx([5.0, 5.0, 5.0, 4.2045, 3.5355, 2.5, 1.0], abs=1e-4)
    assert {calibration.power_of(n, False) for n in (0, 1, 100)} == {1.5}


class Brightness(nn.Module):
    """Logits of two classes by an image's mean; it writes down what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.dropout = nn.Dropout(0.9)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.clone())
        mean = self.dropout(images.mean(dim=(1, 2, 3)))
        return torch.stack([self.scale * mean, -self.scale * mean], dim=1)


def noise(n: int, seed: int = 0) -> LabeledImages:
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return LabeledImages(images, torch.full((n,), -1))


PLAIN = dataclasses.replace(INFO, mean=(0.5,), std=(0.02,))


@pytest.mark.parametrize(("saw_strong", "power"), [(True, 5.0 * 2.5**-0.25), (False, 1.5)])
def test_a_calibration_is_what_its_views_say(saw_strong: bool, power: float) -> None:
    """Against a second implementation, of the images that the network was shown."""
    model, images = Brightness(), noise(60)
    found = calibrate(model, images, PLAIN, WEAK, seed=3, labels_per_class=2.5, saw_strong=saw_strong, batch_size=25)
    shown = [torch.cat([model.shown[part * 3 + view] for part in range(3)]) for view in range(3)]
    assert all(len(view) == 60 for view in shown)
    assert torch.allclose(shown[0], (images.images / 255 - 0.5) / 0.02, atol=1e-4)
    assert not shown[1].equal(shown[2])  # two weak views of the same images
    with torch.no_grad():
        logits = [Brightness().eval()(view) for view in shown]
    same = float((logits[1].argmax(1) == logits[2].argmax(1)).double().mean())
    assert found.images == 60 and found.labels_per_class == 2.5 and found.saw_strong is saw_strong
    assert found.confidence == pytest.approx(confidence(logits[0], 1.0))
    assert found.agreement_weak == same < 1.0
    assert found.expected_accuracy == pytest.approx(0.5 + 0.5 * (2 * same - 1) ** power)
    assert found.temperature > 1.0
    assert confidence(logits[0], found.temperature) == pytest.approx(found.expected_accuracy, abs=1e-4)


def test_views_are_of_the_policies_that_were_given() -> None:
    model, images = Brightness(), noise(30)
    calibrate(model, images, PLAIN, parse_policy("weak", "flip"), 0, 1.0, True)
    clean, *weak = model.shown
    assert len(weak) == 2
    for view in weak:  # each image as it is or mirrored, and of both kinds some
        mirrored = (view == clean.flip(3)).flatten(1).all(dim=1)
        assert (mirrored | (view == clean).flatten(1).all(dim=1)).all() and 0 < int(mirrored.sum()) < 30


def test_a_calibration_is_a_function_of_the_seed() -> None:
    def found(seed: int, **words: Any) -> calibration.Calibration:
        return calibrate(Brightness(), noise(40), PLAIN, WEAK, seed, 1.0, True, **words)

    assert found(0) == found(0) == found(0, batch_size=7) == found(0, pool=range(40))
    assert found(0) != found(1)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found(0)
    assert torch.get_rng_state().equal(before)  # whoever trains on afterwards draws what it would have drawn


def test_the_mode_of_every_part_and_the_weights_stay_as_they_are() -> None:
    model = create_model("cnn4.muscle_digits_10", pretrained=True).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()
    modes, state = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    calibrate(model, noise(20), INFO, WEAK, seed=0, labels_per_class=1, saw_strong=True)
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    fold_temperature(model, 2.0, torch.randn(4, 1, 8, 8))
    assert [module.training for module in model.modules()] == modes


def test_of_a_large_pool_some_images_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = range(100, 400)
    some = choose_images(0, pool, 50)
    assert some == sorted(set(some)) and len(some) == 50 and set(some) <= set(pool)
    assert choose_images(0, [*reversed(pool)], 50) == some != choose_images(1, pool, 50)
    assert choose_images(0, pool, 300) == list(pool)
    assert set(choose_images(0, pool, 10)) < set(some)
    monkeypatch.setattr(calibration, "choose_images", lambda seed, pool: choose_images(seed, pool, 30))
    found = calibrate(Brightness(), noise(500), PLAIN, WEAK, seed=0, labels_per_class=1, saw_strong=True, pool=pool)
    assert found.images == 30


def test_no_label_is_looked_at() -> None:
    images = noise(40)
    true = images.with_labels(torch.arange(40) % 2)
    both = [calibrate(Brightness(), source, PLAIN, WEAK, 0, 1.0, True) for source in (images, true)]
    assert both[0] == both[1]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no unlabeled image"):
        calibrate(Brightness(), noise(3), INFO, WEAK, 0, 1.0, True, pool=[])
    broken = Brightness()
    with torch.no_grad():
        broken.scale.fill_(math.nan)
    with pytest.raises(CalibrationError, match="not finite"):
        calibrate(broken, noise(3), INFO, WEAK, 0, 1.0, True)


def conv_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.Flatten())


NETWORKS = {
    "cnn4": lambda: timm.create_model("cnn4", num_classes=7),
    "wrn_16_2": lambda: timm.create_model("wrn_16_2", num_classes=3, in_chans=1),
    "test_resnet": lambda: timm.create_model("test_resnet", num_classes=5, in_chans=1),
    "test_vit": lambda: timm.create_model("test_vit", num_classes=4, in_chans=1, img_size=32),
    "two heads": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=4, in_chans=1, img_size=32, depth=1
    ),
    "a last linear layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 9), nn.ReLU(), nn.Linear(9, 3)),
    "without bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 3, bias=False)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_folding_divides_the_logits_and_changes_no_order(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = NETWORKS[name]().eval()
    half_rounded(model)
    state, images = copy.deepcopy(model.state_dict()), torch.randn(64, 1, 32, 32)
    temperature = math.exp(float(torch.empty(()).uniform_(math.log(0.3), math.log(HIGHEST))))
    with torch.no_grad():
        before = model(images)
        names = fold_temperature(model, temperature, images[:8])
        after = model(images)
    assert torch.allclose(
        after.double() * temperature, before.double(), rtol=1e-4, atol=1e-5 * float(before.abs().max())
    )
    assert after.argsort(dim=1, stable=True).equal(before.argsort(dim=1, stable=True))
    for key, value in model.state_dict().items():
        assert value.equal(state[key] / temperature if key in names else state[key]), key
    biases = 0 if name == "without bias" else len(names) // 2
    assert len(names) in (1, 2, 4) and sum(key.endswith("bias") for key in names) == biases


def half_rounded(model: nn.Module) -> None:
    """Gives a network random weights as float16 holds them, and biases that are not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.half())


def test_the_layer_may_be_named() -> None:
    model, images = conv_head().eval(), torch.randn(4, 1, 8, 8)
    before = model(images)
    with pytest.raises(CalibrationError, match="there is no classifier"):
        fold_temperature(model, 2.0, images)
    assert fold_temperature(model, 2.0, images, classifier="3") == ("3.weight", "3.bias")
    assert torch.allclose(2.0 * model(images), before)
    assert fold_temperature(model, 0.5, images, classifier=["3"]) and torch.allclose(model(images), before)
    with pytest.raises(CalibrationError, match="no layer of that name"):
        fold_temperature(model, 2.0, images, classifier="head")
    with pytest.raises(CalibrationError, match="is ReLU, no plain linear layer"):
        fold_temperature(model, 2.0, images, classifier="1")


class Cosine(nn.Linear):
    """Logits are cosines, whatever the length of the weights."""

    def forward(self, images: Tensor) -> Tensor:
        return 5.0 * nn.functional.linear(images, nn.functional.normalize(self.weight))


class Broken(nn.Linear):
    """Fails once its weights are other ones."""

    def forward(self, images: Tensor) -> Tensor:
        if self.weight.abs().max() < 0.5:
            raise RuntimeError("broken")
        return super().forward(images)


def refused() -> dict[str, nn.Module]:
    tied = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    tied[2].weight = tied[1].weight
    return {
        "classifier is Identity": timm.create_model("cnn4", num_classes=0),
        "not the old ones": nn.Sequential(nn.Flatten(), Cosine(16, 3)),
        "not the old ones ": nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh()),
        "not the old ones  ": tied,
        "no plain linear layer": nn.Sequential(
            nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 3, bias=False))
        ),
        "only float32 holds": nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16(),
        "there is no classifier": nn.Flatten(),
    }


@pytest.mark.parametrize("why", refused())
def test_a_network_whose_classifier_cannot_be_divided_keeps_its_weights(why: str) -> None:
    torch.manual_seed(0)
    model = refused()[why].eval()
    state, side = copy.deepcopy(model.state_dict()), 8 if "Identity" in why else 4
    images = torch.randn(6, 1, side, side).to(next(iter(model.state_dict().values()), torch.zeros(1)).dtype)
    with pytest.raises(CalibrationError, match=why.strip()):
        fold_temperature(model, 3.0, images)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_weights_are_put_back_when_the_network_fails() -> None:
    model = nn.Sequential(nn.Flatten(), Broken(4, 3))
    nn.init.ones_(model[1].weight)
    with pytest.raises(RuntimeError, match="broken"):
        fold_temperature(model, 3.0, torch.randn(2, 1, 2, 2))
    assert model[1].weight.eq(1.0).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_a_number_above_0(temperature: float) -> None:
    with pytest.raises(InputError, match="give a number above 0"):
        fold_temperature(nn.Linear(2, 2), temperature, torch.ones(1, 2))


def test_the_examples_run() -> None:
    for module in (calibration, classifier):
        assert doctest.testmod(module, extraglobs={"torch": torch, "nn": nn}).failed == 0
