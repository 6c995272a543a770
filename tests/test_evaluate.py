from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from muscle_zoo import InputError
from muscle_zoo.data import DataSetInfo, LabeledImages, dataset_info
from muscle_zoo.engine.evaluate import ECE_BINS, Metrics, count, evaluate, summarize


def example(n: int = 500, classes: int = 10, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = sharpness * (torch.randn(n, classes, generator=generator) + nn.functional.one_hot(labels, classes))
    return logits, labels


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 8.0])
def test_metrics_against_torchmetrics(classes: int, sharpness: float) -> None:
    reference = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = example(classes=classes, sharpness=sharpness)
    metrics = summarize(count(logits, labels))
    probabilities = logits.double().softmax(dim=1)
    assert metrics.top1 == pytest.approx(
        reference.multiclass_accuracy(logits, labels, classes, average="micro").item(), abs=1e-6
    )
    top5 = reference.multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes)).item()
    assert metrics.top5 == pytest.approx(top5, abs=1e-6)
    ece = reference.multiclass_calibration_error(probabilities, labels, classes, n_bins=ECE_BINS, norm="l1").item()
    assert metrics.ece == pytest.approx(ece, abs=1e-5)
    per_class = reference.multiclass_accuracy(logits, labels, classes, average="none")
    assert metrics.per_class == pytest.approx(per_class.tolist(), abs=1e-6)
    assert metrics.nll == pytest.approx(nn.functional.cross_entropy(logits.double(), labels).item(), abs=1e-9)
    assert metrics.n == 500


def test_calibration_by_hand() -> None:
    """Two images at confidence 0.9, one right: |0.9 - 0.5|; one at 0.6, right: |0.6 - 1|."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    metrics = summarize(count(p.log(), torch.tensor([0, 1, 0])))
    assert metrics.ece == pytest.approx((2 * 0.4 + 0.4) / 3)


def test_a_class_without_images() -> None:
    assert summarize(count(torch.eye(3), torch.tensor([0, 0, 1]))).per_class == [0.5, 0.0, None]


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.layer(x.flatten(1)))


def images(n: int = 101) -> LabeledImages:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return LabeledImages(pixels, torch.randint(10, (n,), generator=generator))


def close(a: Metrics, b: Metrics) -> bool:
    return (a.top1, a.top5, a.per_class, a.n) == (b.top1, b.top5, b.per_class, b.n) and a.nll == pytest.approx(b.nll)


def test_batches_and_processes_add_up() -> None:
    info: DataSetInfo = dataset_info("digits")
    model, data = Linear(), images()
    whole = evaluate(model, data, info)
    assert close(evaluate(model, data, info, batch_size=7), whole)
    shares: list[Tensor] = []
    for rank in range(3):
        evaluate(model, data, info, rank=rank, world_size=3, reduce=lambda c: shares.append(c) or c)
    assert close(summarize(sum(shares)), whole)


def test_large_images_are_taken_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = Linear(), []
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    for room, expected in ((20 * 64, [20] * 5 + [1]), (64, [8] * 12 + [5]), (1000 * 64, [50, 50, 1])):
        monkeypatch.setattr("muscle_zoo.engine.evaluate._PIXELS", room)
        sizes.clear()
        evaluate(model, images(), dataset_info("digits"), batch_size=50)
        assert sizes == expected


def test_fewer_images_than_processes_are_refused_by_every_process() -> None:
    few = LabeledImages(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    for rank in range(2):
        with pytest.raises(InputError, match=r"1 images to evaluate are fewer than processes \(2\)"):
            evaluate(Linear(), few, dataset_info("digits"), rank=rank, world_size=2)


def test_the_mode_is_left_as_it_was() -> None:
    model, data = Linear(), images()
    model.train()
    assert evaluate(model, data, dataset_info("digits")) == evaluate(model, data, dataset_info("digits"))  # no dropout
    assert model.training
    model.eval()
    evaluate(model, data, dataset_info("digits"))
    assert not model.training
