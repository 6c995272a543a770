"""Steps of a classifier on embeddings: fast, and what they would be the long way."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3

from muscle_zoo.data.embedded import EmbeddedBatches, EmbeddedImages
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.schedule import learning_rate
from muscle_zoo.engine.trainer import _joined
from muscle_zoo.methods import create_method
from tests.test_frozen import embedded, head_recipe, trainer


def test_views_that_lie_one_after_the_other_are_not_copied() -> None:
    recipe = head_recipe("muscle_fixmatch")
    draws = tuple(torch.randn(1437, 6).half() for _ in range(4))
    images = EmbeddedImages(torch.randn(1437, 6), torch.zeros(1437, dtype=torch.long), torch.randn(6), torch.rand(6))
    images = replace(images, draws={"weak": draws, "strong": draws[::-1]})
    data, views = prepare_data(recipe), create_method(recipe.method, recipe.options).views
    kept, ready = (
        EmbeddedBatches(recipe, source, data.dataset.info, data.split, views).at(3).inputs
        for source in (images, images.prepared(torch.device("cpu"), 10**9))
    )
    assert all(kept[name].equal(ready[name]) for name in views)  # to the last bit, whether or not there is memory
    copied = torch.cat(list(ready.values()))
    assert _joined(ready).equal(copied) and _joined(ready).data_ptr() == ready["x_weak"].data_ptr()
    backwards = dict(reversed(ready.items()))
    assert _joined(backwards).equal(torch.cat(list(backwards.values())))
    assert images.with_policies({"weak"}).draws.keys() == {"weak"}


@pytest.mark.parametrize("kind", ["linear", "cosine", "mlp"])
def test_a_step_of_a_classifier_is_what_torch_and_timm_do_the_long_way(kind: str, tmp_path: Path) -> None:
    """Against torch's linear layer, its unfused optimizer and timm's averages of all there is."""
    recipe = head_recipe("muscle_fixmatch", classifier=kind, optimizer="adamw", weight_decay=0.1, steps=9)
    data = embedded(recipe)
    own = trainer(recipe, data, tmp_path)
    naive = copy.deepcopy(own.network)
    average = ModelEmaV3(naive, decay=recipe.ema_decay, use_warmup=True)
    decays = [p for p in naive.parameters() if p.ndim > 1]
    others = [p for p in naive.parameters() if p.ndim < 2]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, fused=False, foreach=False)
    for step, batch in enumerate(own.batches.steps(0, 9)):
        logits = naive.classifier(torch.cat(list(batch.inputs.values())).flatten(1))
        outputs = dict(zip(batch.inputs, logits.split([len(x) for x in batch.inputs.values()]), strict=True))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad()
        own.method.loss(outputs, batch, step)["loss"].backward()
        optimizer.step()
        average.update(naive, step=step + 1)
        own.step(step, batch)
    for ours, theirs in ((own.network, naive), (own.ema.module, average.module)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)
