"""What each method's step costs, next to a supervised step on as many images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..data import DataSet
from ..engine.options import RunOptions
from ..methods import default_options, learns_from_teacher, method_names, takes_steps, version_of
from ..recipes import Recipe
from .step import Stepper, bare_step, mi_seconds
from .timing import median_seconds


@dataclass(frozen=True)
class Cost:
    """A method's step.

    Attributes:
        method: Its name.
        images: Images of a step that go through the gradient forward.
        ms: Milliseconds of a step.
        ratio: To a supervised step on as many images.
        of_bare: To the bare network's forward and backward on as many images.
    """

    method: str
    images: int
    ms: float
    ratio: float
    of_bare: float


def bench_methods(recipe: Recipe, dataset: DataSet, options: RunOptions) -> tuple[list[Cost], float]:
    """Measures a step of every method; of those that learn from a teacher only where the recipe has one.

    Args:
        recipe: Backbone, batch size, mu and teacher are its; its method is not.
        dataset: The images.
        options: How.

    Returns:
        The methods in the order of their table, alone and with MUSCLE; and the milliseconds of the mutual information
        term itself.
    """
    costs = []
    device = None
    with tempfile.TemporaryDirectory() as folder:
        for method in filter(takes_steps, method_names()):
            taught = learns_from_teacher(method)
            if taught and not recipe.teacher:
                continue
            version, teacher = version_of(method), recipe.teacher if taught else ""
            own = replace(recipe, method=method, options=default_options(method), version=version, teacher=teacher)
            step = Stepper(own, dataset, options, Path(folder) / method)
            control = replace(
                recipe,
                teacher="",
                method="supervised",
                options=default_options("supervised"),
                version=version_of("supervised"),
                batch_size=step.images,
            )
            device = step.trainer.device
            work: dict[str, Callable[[], object]] = {
                "own": step,
                "supervised": Stepper(control, dataset, options, Path(folder) / f"{method}-control"),
                "bare": bare_step(recipe, dataset, step.trainer.accelerator, step.images),
            }
            seconds = median_seconds(work, device)
            own_ms = 1000 * seconds["own"]
            ratios = own_ms / (1000 * seconds["supervised"]), own_ms / (1000 * seconds["bare"])
            costs.append(Cost(method, step.images, own_ms, *ratios))
        assert device is not None
        return costs, 1000 * mi_seconds(recipe, dataset.info.num_classes, device)
