"""`tune=head`: a classifier on cached embeddings, from its first weights to the exported network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from muscle_zoo import InputError, get_recipe, train
from muscle_zoo.data import DataSet, load_dataset, normalize
from muscle_zoo.data.embedded import EmbeddedBatches, EmbeddedImages
from muscle_zoo.engine import frozen
from muscle_zoo.engine.build import Data, prepare_data
from muscle_zoo.engine.evaluate import evaluate
from muscle_zoo.engine.head import Cosine, Head, SmallMLP, first_classifier, standardization
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.schedule import learning_rate
from muscle_zoo.engine.state import load_state
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.methods import METHODS, create_method, method_names, takes_embeddings, takes_steps
from muscle_zoo.methods.knn import KNN
from muscle_zoo.methods.label_propagation import spread_labels
from muscle_zoo.methods.logistic import logistic_regression
from muscle_zoo.recipes import Recipe

from .conftest import run

INIT = {"init": "cnn4.muscle_digits_10", "cpu_threads": 1}
SHORT = {**INIT, "steps": 12, "eval_every": 6, "batch_size": 16, "mu": 2, "embedding_views": 2}


def head_recipe(method: str = "muscle", **more: Any) -> Recipe:
    return get_recipe(f"cnn4.{method}_digits_40_frozen", {**SHORT, **more})


def embedded(recipe: Recipe, data: Data | None = None) -> Data:
    return frozen.embed_data(recipe, data or prepare_data(recipe), torch.device("cpu"))


def trainer(recipe: Recipe, data: Data, tmp_path: Path) -> Trainer:
    return Trainer(recipe, data, RunOptions(cpu=True).accelerator(RunFolder(tmp_path / "run")))


def test_logistic_regression_is_the_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    weight, bias = logistic_regression(x, y, 3, c=2.0)

    def objective(flat: np.ndarray) -> float:
        value = 0.0
        w, b = flat[:12].reshape(3, 4), flat[12:]
        for features, label in zip(x.numpy().astype(np.float64), y.tolist(), strict=True):
            logits = [sum(w[c, d] * features[d] for d in range(4)) + b[c] for c in range(3)]
            value -= 2.0 * (logits[label] - np.log(sum(np.exp(logit) for logit in logits)))
        return value + 0.5 * float((w**2).sum())

    found = minimize(objective, np.zeros(15), tol=1e-9)
    torch.testing.assert_close(weight.double().flatten(), torch.from_numpy(found.x[:12]), rtol=1e-3, atol=1e-3)
    logits = x @ weight.T + bias
    naive = x.double() @ torch.from_numpy(found.x[:12].reshape(3, 4)).T + torch.from_numpy(found.x[12:])
    torch.testing.assert_close(logits.softmax(1).double(), naive.softmax(1), rtol=1e-3, atol=1e-4)


def test_standardized_embeddings_have_mean_zero_equal_variances_and_mean_norm_one() -> None:
    x = torch.randn(500, 20) * torch.logspace(-1, 1, 20) + 3.0
    x[:, 4] = 7.0  # a feature that does not vary
    pool = torch.arange(100, 400)
    mean, std = standardization(x, pool)
    z = (x[pool].double() - mean) / std
    torch.testing.assert_close(z.mean(0), torch.zeros(20).double(), atol=1e-9, rtol=0)
    others = z.std(0, correction=0)[torch.arange(20) != 4]
    torch.testing.assert_close(others / others[0], torch.ones(19).double())
    assert float(z.norm(dim=1).mean()) == pytest.approx(1.0) and not z[:, 4].any()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_classifier_begins_as_logistic_regression(kind: str) -> None:
    x, y = torch.randn(20, 6), torch.arange(20) % 4
    weight, bias = logistic_regression(x, y, 4)
    torch.testing.assert_close(first_classifier(kind, x, y, 4)(x), x @ weight.T + bias)


def test_a_cosine_classifier_sees_no_norms() -> None:
    x, y = torch.randn(20, 6), torch.arange(20) % 4
    cosine = first_classifier("cosine", x, y, 4)
    torch.testing.assert_close(cosine(3.0 * x), cosine(x))
    one = cosine(x[:1])[0, 2] / cosine.scale
    torch.testing.assert_close(one, F.cosine_similarity(x[0], cosine.weight[2], dim=0))


def test_a_folded_classifier_takes_embeddings_as_they_are() -> None:
    mean, std = torch.randn(6), torch.rand(6) + 0.1
    head = Head(nn.Linear(6, 3), mean, std, "ab" * 32)
    x = 5.0 * torch.randn(10, 6)
    for layer, shape in ((nn.Linear(6, 3), (10, 6)), (nn.Conv2d(6, 3, 1), (10, 6, 1, 1))):
        head.fold_into(layer)
        torch.testing.assert_close(layer(x.view(shape)).flatten(1), head(((x - mean) / std)[:, :, None, None]))
    for other in (Cosine(torch.randn(3, 6)), SmallMLP(nn.Linear(6, 3))):
        with pytest.raises(InputError, match="give classifier=linear"):
            Head(other, mean, std, "ab" * 32).fold_into(nn.Linear(6, 3))


def made_up(draws: int = 3) -> EmbeddedImages:
    """Embeddings that say which image and which draw they are of: (image, draw)."""
    images = torch.arange(1437.0)
    views = tuple(torch.stack([images, torch.full_like(images, k)], dim=1).half() for k in range(draws))
    zero, one = torch.zeros(2), torch.ones(2)
    return EmbeddedImages(views[0].float(), torch.zeros(1437, dtype=torch.long), zero, one, {"weak": views})


@pytest.mark.parametrize("ready", [False, True])
def test_the_draws_of_a_step(ready: bool) -> None:
    recipe = head_recipe("muscle")
    data = prepare_data(recipe)
    images = made_up().prepared(torch.device("cpu"), 10**9) if ready else made_up()
    views = create_method("muscle", recipe.options).views
    assert (images.ready is not None) == ready
    batches = EmbeddedBatches(recipe, images, data.dataset.info, data.split, views)
    seen = set()
    for step, batch in enumerate(batches.steps(0, 30)):
        alone = batches.at(step)  # what some steps in a row see is worked out together
        assert all(batch.inputs[name].equal(alone.inputs[name]) for name in views)
        for part in ("labels", "indices", "labeled_rows"):
            assert getattr(batch, part).equal(getattr(alone, part))
        weak, second = (batch.inputs[name].flatten(1) for name in ("u_weak", "u_weak_2"))
        assert weak[:, 0].equal(second[:, 0]) and weak[:, 0].long().equal(batch.indices.half().long())
        assert (weak[:, 1] != second[:, 1]).all()  # never the same draw twice
        seen |= set(weak[:, 1].tolist())
    assert seen == {0.0, 1.0, 2.0}
    halves = [EmbeddedBatches(recipe, images, data.dataset.info, data.split, views, r, 2).at(4) for r in (0, 1)]
    whole = batches.at(4)
    for name in views:
        assert torch.cat([half.inputs[name] for half in halves]).equal(whole.inputs[name])


def test_too_few_draws_are_one_line() -> None:
    with pytest.raises(InputError, match=r"embedding_views=1: muscle compares 2 weak draws .*give 2 or more"):
        recipe = head_recipe("muscle", embedding_views=1)
        data = prepare_data(recipe)
        views = create_method("muscle", recipe.options).views
        EmbeddedBatches(recipe, made_up(1), data.dataset.info, data.split, views)


def test_head_training_equals_a_naive_loop(tmp_path: Path) -> None:
    recipe = head_recipe("muscle", lr=0.01, steps=8)
    data = embedded(recipe)
    classifier = nn.Linear(64, 10)
    first = data.head.state_dict()  # type: ignore[union-attr]
    weight, bias = first["classifier.weight"].clone(), first["classifier.bias"].clone()
    classifier.load_state_dict({"weight": weight, "bias": bias})
    trained = trainer(recipe, data, tmp_path)
    for step, batch in enumerate(trained.batches.steps(0, recipe.steps)):
        trained.step(step, batch)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.lr, weight_decay=0.0)
    images = data.dataset.train
    assert isinstance(images, EmbeddedImages)
    for step in range(recipe.steps):
        batch = trained.batches.at(step)
        logits = {name: classifier(batch.inputs[name].flatten(1)) for name in ("x_weak", "u_weak", "u_weak_2")}
        p, q = (torch.softmax(logits[name] / 0.5, dim=1) for name in ("u_weak", "u_weak_2"))
        joint = torch.zeros(10, 10)
        for i in range(len(p)):
            joint = joint + torch.outer(p[i], q[i]) / len(p)
        joint = (joint + joint.T) / 2
        mutual = (joint * (joint.log() - joint.sum(1, keepdim=True).log() - joint.sum(0, keepdim=True).log())).sum()
        loss = F.cross_entropy(logits["x_weak"], batch.labels) - recipe.options["muscle"]["weight"] * mutual
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = trained.network.state_dict()
    torch.testing.assert_close(state["classifier.weight"], classifier.weight.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state["classifier.bias"], classifier.bias.detach(), rtol=1e-3, atol=1e-4)
    assert not weight.equal(classifier.weight)


def test_hidden_labels_change_nothing(tmp_path: Path) -> None:
    recipe = head_recipe("muscle_fixmatch")
    data = prepare_data(recipe)
    labels = data.dataset.train.labels.clone()
    hidden = torch.tensor([i for i in range(len(labels)) if i not in set(data.split.labeled)])
    labels[hidden] = labels[hidden[torch.randperm(len(hidden))]]
    other = replace(data, dataset=replace(data.dataset, train=data.dataset.train.with_labels(labels)))
    states = []
    for one in (data, other):
        trained = trainer(recipe, embedded(recipe, one), tmp_path)
        for step, batch in enumerate(trained.batches.steps(0, 6)):
            trained.step(step, batch)
        states.append(trained.network.state_dict())
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


@pytest.mark.parametrize("method", [name for name in method_names() if takes_steps(name) and takes_embeddings(name)])
def test_every_method_takes_steps_on_embeddings(method: str, tmp_path: Path) -> None:
    recipe = head_recipe(method)
    trained = trainer(recipe, embedded(recipe), tmp_path)
    before = trained.network.state_dict()["classifier.weight"].clone()
    for step, batch in enumerate(trained.batches.steps(0, 2)):
        terms, _ = trained.step(step, batch)
    assert terms["loss"].isfinite()
    assert not trained.network.state_dict()["classifier.weight"].equal(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("frozen") / "run"
    return train("cnn4.muscle_digits_40_frozen", SHORT, out=out, cpu=True, progress=False)


def test_plain_timm_loads_the_whole_network(finished: Any) -> None:
    network = timm.create_model(f"local-dir:{finished.path / 'export'}", pretrained=True).eval()
    digits = load_dataset("digits")
    raw = next(digits.test.batches([torch.arange(40)]))
    parts, _ = load_state(finished.path / "state")  # type: ignore[misc]
    ema = parts["ema"]
    backbone = frozen.backbone_of(head_recipe(), digits)
    with torch.no_grad():
        images = normalize(raw, digits.info)
        embeddings = (backbone.embed(images) - ema["mean"]) / ema["std"]
        logits = F.linear(embeddings, ema["classifier.weight"], ema["classifier.bias"])
        exported = network(images)
    temperature = json.loads((finished.path / "export" / "config.json").read_text())["muscle_zoo"]["calibration"]
    torch.testing.assert_close(exported * temperature["temperature"], logits, rtol=2e-3, atol=2e-3)
    measured = evaluate(network, digits.test, digits.info)  # on the pictures, as a stranger would
    assert measured.top1 == finished.metrics.top1 and measured.nll == pytest.approx(finished.metrics.nll, rel=1e-4)
    assert finished.row.top1_ema > 0.7 and finished.metrics.n == 360
    # Of the pictures, by the weights that it starts from, and not of the embeddings, which are normalized already.
    said = RunFolder(finished.path).read_normalization(head_recipe())
    assert said == (digits.info.mean, digits.info.std) and finished.neighbors is None


def test_goes_on_from_its_state_with_the_same_backbone_only(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"out": out, "cpu": True, "progress": False, "save_every": 4}
    whole = train("cnn4.muscle_digits_40_frozen", SHORT, **{**options, "out": tmp_path / "whole"})  # type: ignore[arg-type]
    stopped = train("cnn4.muscle_digits_40_frozen", SHORT, time_limit=1e-3, **options)  # type: ignore[arg-type]
    assert not stopped.finished
    again = train("cnn4.muscle_digits_40_frozen", SHORT, **options)  # type: ignore[arg-type]
    assert again.row.weights_sha256 == whole.row.weights_sha256
    data = embedded(head_recipe())
    assert data.head is not None
    state = data.head.state_dict()
    other = {**state, "backbone_sha256": state["backbone_sha256"].flip(0)}
    with pytest.raises(InputError, match="other weights of the backbone"):
        data.head.load_state_dict(other)


def test_nearest_neighbors_equal_a_naive_loop() -> None:
    x, y, new = torch.randn(15, 5), torch.arange(15) % 3, torch.randn(6, 5)
    classifier = KNN(neighbors=4, temperature=0.2).fit(x, y, torch.empty(0, 5), 3)
    for i, logits in enumerate(classifier(new)):
        cosines = [float(F.cosine_similarity(new[i], x[j], dim=0)) for j in range(15)]
        nearest = sorted(range(15), key=lambda j: -cosines[j])[:4]
        votes = [sum(np.exp(cosines[j] / 0.2) for j in nearest if y[j] == c) for c in range(3)]
        naive = torch.tensor([0.99 * vote / sum(votes) + 0.01 / 3 for vote in votes])
        torch.testing.assert_close(logits.exp().float(), naive.float(), rtol=1e-4, atol=1e-5)


def test_label_spreading_equals_the_closed_form() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    seeds = torch.zeros(40, 2)
    seeds[0, 0] = seeds[1, 1] = 1.0
    unit = F.normalize(x)
    cosine = (unit @ unit.T).fill_diagonal_(-2.0)
    graph = torch.zeros(40, 40)
    for i in range(40):
        for j in cosine[i].topk(5).indices.tolist():
            graph[i, j] += 0.5
            graph[j, i] += 0.5
    degree = graph.sum(dim=1)
    matrix = graph / (degree[:, None] * degree[None]).sqrt()
    closed = 0.2 * torch.linalg.solve(torch.eye(40) - 0.8 * matrix, seeds)
    torch.testing.assert_close(spread_labels(x, seeds, 5, 0.8), closed, rtol=1e-2, atol=1e-3)


def test_methods_without_steps_give_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = train("cnn4.label_propagation_digits_40_frozen", INIT, out=tmp_path / "lp", cpu=True, progress=False)
    assert done.row is not None and done.row.step == 0 and done.row.top1_ema > 0.6
    assert done.model().num_classes == 10
    words = ["train", "cnn4.knn_digits_40_frozen", f"init={INIT['init']}", "--cpu", "--out", str(tmp_path / "knn")]
    for _ in range(2):  # the second time it is finished
        code, out, _ = run(words, capsys)
        assert code == 0 and "no network: method=knn is no linear layer" in out and "top-1" in out
    knn = train("cnn4.knn_digits_40_frozen", INIT, out=tmp_path / "knn", cpu=True, progress=False)
    assert knn.row is not None and knn.row.nll < 2.0 and knn.row.ece < 0.5 and knn.metrics.n == 360
    with pytest.raises(InputError, match=r"has no network to load: method=knn"):
        knn.model()


def test_a_classifier_that_no_network_holds_gives_a_row(tmp_path: Path) -> None:
    done = train(
        "cnn4.muscle_digits_40_frozen", {**SHORT, "classifier": "cosine"}, out=tmp_path, cpu=True, progress=False
    )
    assert done.row is not None and done.row.top1_ema > 0.6
    with pytest.raises(InputError, match="classifier=cosine is no linear layer"):
        done.model()


@pytest.mark.parametrize(
    ("name", "overrides", "part"),
    [
        ("cnn4.muscle_digits_40", {"classifier": "mlp"}, "give tune=head"),
        ("cnn4.muscle_digits_40", {"tune": "heads"}, "tune=heads"),
        ("cnn4.muscle_digits_40_frozen", {"classifier": "tree"}, "classifier=tree"),
        ("cnn4.muscle_digits_40_frozen", {"muscle.views": "strong_strong"}, "muscle.views=strong_strong"),
        ("cnn4.knn_digits_40_frozen", {"steps": 5}, "knn takes none: give 0"),
        ("cnn4.knn_digits_40", {"tune": "all"}, r"knn .*tune=head"),
        ("cnn4.muscle_knn_digits_40", {}, "unknown"),
        ("cnn4.muscle_digits_40_frozen", {"steps": 0}, "steps=0"),
        ("cnn4.simclr_digits_40_frozen", {}, "tune=head: simclr needs images.*give tune=all"),
        ("cnn4.muscle_distillation_digits_40", {"tune": "head"}, "tune=head: muscle_distillation needs images"),
        ("cnn4.muscle_digits_40_frozen", {"probe_steps": 2}, "probe_steps=2: tune=head .*; leave it out"),
        ("cnn4.muscle_digits_40_frozen", {"layer_decay": 0.5}, "layer_decay=0.5: tune=head"),
        ("cnn4.muscle_digits_40_frozen", {"frozen_batchnorm": True}, "frozen_batchnorm=True: tune=head"),
    ],
)
def test_wrong_recipes_are_one_line(name: str, overrides: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        recipe = get_recipe(name, overrides)
        create_method(recipe.method, recipe.options)
    assert "\n" not in str(caught.value)


def test_fields_that_came_later_leave_old_hashes_alone() -> None:
    before = "cnn4.muscle_digits_10"
    config = json.loads(Path(f"hub_cards/{before}/config.json").read_text())["muscle_zoo"]
    assert get_recipe(before).sha256 == config["recipe_sha256"]
    assert get_recipe(before, {"muscle.views": "weak_weak"}).sha256 != config["recipe_sha256"]
    assert get_recipe(before, {"tune": "head"}).sha256 != config["recipe_sha256"]


@pytest.mark.parametrize(
    ("method", "draws"), [("muscle", {"weak": 3}), ("fixmatch", {"weak": 3, "strong": 3}), ("knn", {"weak": 2})]
)
def test_what_a_method_does_not_look_at_is_not_embedded(method: str, draws: dict[str, int]) -> None:
    settings = {**(SHORT if takes_steps(method) else INIT), "embedding_views": 3}
    recipe = get_recipe(f"cnn4.{method}_digits_40_frozen", settings)
    _, _, by_policy = frozen.embed_views(recipe, prepare_data(recipe), torch.device("cpu"))
    assert {policy: len(views) for policy, views in by_policy.items()} == draws


def test_every_method_without_steps_makes_a_classifier() -> None:
    x = torch.randn(12, 4)
    for name in METHODS:
        made = create_method(name).fit(x, torch.arange(12) % 3, torch.randn(30, 4), 3)
        assert (made is None) == takes_steps(name)
        if made is not None:
            assert made(x).shape == (12, 3)


def test_a_data_set_in_place_of_embeddings_is_as_it_was() -> None:
    recipe = head_recipe()
    data = prepare_data(recipe)
    made = embedded(recipe, data)
    assert isinstance(made.dataset, DataSet) and isinstance(made.dataset.train, EmbeddedImages)
    plain = next(made.dataset.train.batches([torch.tensor(data.split.unlabeled)])).flatten(1)
    assert float(plain.norm(dim=1).mean()) == pytest.approx(1.0, abs=1e-3)
    assert isinstance(plain, Tensor) and len(made.evaluation) == 360
