"""What takes a step: network, averaged weights, method and optimizer, on one process or many."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import reduce as reduce_over_processes
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import Batches
from ..data.batches import step_seed
from ..methods import Batch, Method, RunContext, create_method
from ..recipes import Recipe
from .batchnorm import synchronize_batchnorm
from .build import Data, build_model, build_optimizer, to_device
from .schedule import learning_rate

__all__ = ["Trainer", "forward"]


def forward(
    model: nn.Module, teacher: nn.Module, method: Method, batch: Batch, step: int
) -> tuple[dict[str, Tensor], Batch]:
    """Prepares a batch and runs it: one forward on all inputs together.

    Returns:
        Logits by name of the input, and the prepared batch.
    """
    with torch.no_grad():
        batch = method.prepare(batch, getattr(model, "module", model), teacher, step)
    images = torch.cat(list(batch.inputs.values())).contiguous(memory_format=torch.channels_last)
    logits = model(images)
    return dict(zip(batch.inputs, logits.split([len(view) for view in batch.inputs.values()]), strict=True)), batch


class Trainer:
    """The parts of a run that change from step to step, and how.

    :meth:`step` is a whole step; the methods that it calls in turn are public, so that each can be timed.

    Args:
        recipe: What to train.
        data: On what.
        accelerator: Where, and in which precision.
        compiled: torch.compile's mode; ``none`` leaves the network as it is.

    Attributes:
        network: The network itself, in float32; evaluated and saved.
        model: The same network as the loop calls it: distributed, compiled.
        ema: The averaged weights.
        method: The method, with what it keeps from step to step.
        optimizer: Accelerate's.
        batches: Makes the batch of any step.

    Raises:
        InputError: The recipe does not fit the data set, the method or the number of processes.
    """

    def __init__(self, recipe: Recipe, data: Data, accelerator: Accelerator, compiled: str = "none") -> None:
        self.recipe, self.accelerator, self.device = recipe, accelerator, accelerator.device
        dataset, world = data.dataset, accelerator.num_processes
        model = build_model(recipe, dataset)
        context = RunContext(recipe.steps, len(dataset.train), dataset.info.num_classes)
        self.method = create_method(recipe.method, recipe.options, context)
        images = to_device(dataset.train, self.device)
        rank = accelerator.process_index
        self.batches = Batches(recipe, images, dataset.info, data.split, self.method.views, rank, world, self.device)
        if world > 1:  # before the copy: a teacher in training mode normalizes with the global batch too
            synchronize_batchnorm(model, recipe.arch)
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True).to(self.device)
        optimizer = build_optimizer(recipe, model)
        self.method = self.method.to(self.device)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # The loop turns autocast on; what is evaluated is float32.
        self.network = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if compiled != "none":
            self.model = torch.compile(self.model, mode=compiled, dynamic=False)
        self._true_classes = dataset.train.labels.to(self.device)  # for the log: no method gets them

    def step(self, step: int, batch: Batch, count_right: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer update.

        Args:
            step: Counted from 0.
            batch: Of this process.
            count_right: Compare the method's pseudo-labels with the true classes, for the log.

        Returns:
            The method's terms, on the device; and ``(2,)``: how many of the pseudo-labels that were used are right, and
            how many of those that were used have a known class.
        """
        self.begin(step)
        terms, hits = [], torch.zeros(2, device=self.device)
        for part in batch.micro_batches(self.recipe.accumulate):
            with self.accelerator.accumulate(self.model):  # the optimizer steps after the last part
                outputs, prepared = self.predict(part, step)
                terms.append(self.loss(outputs, prepared, step))
                self.backward(terms[-1])
                self.update()
            if count_right:
                hits += self._right_pseudo_labels(outputs, prepared)
        self.update_ema(step)
        return {name: torch.stack([part[name].detach() for part in terms]).mean(0) for name in terms[0]}, hits

    def begin(self, step: int) -> None:
        """Sets the learning rate and the seed of what the network draws (dropout)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        seed = step_seed(self.recipe.seed, step, self.accelerator.process_index)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.8 ms: a stack trace for absent devices
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def predict(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], Batch]:
        """Prepares a batch and runs the one forward, see :func:`forward`."""
        with self.accelerator.autocast():
            return forward(self.model, self.ema.module, self.method, batch, step)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """The method's terms."""
        with self.accelerator.autocast():
            return self.method.loss(outputs, batch, step)

    def backward(self, terms: dict[str, Tensor]) -> None:
        """The gradients."""
        self.accelerator.backward(terms["loss"])

    def update(self) -> None:
        """The optimizer's step."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update_ema(self, step: int) -> None:
        """The averaged weights of a step, counted from 0."""
        self.ema.update(self.network, step=step + 1)

    def row(self, terms: dict[str, Tensor], hits: Tensor) -> dict[str, float]:
        """What :meth:`step` returned as numbers, over all processes; it waits for the device."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        if self.accelerator.num_processes > 1:
            values = reduce_over_processes(values, reduction="mean")
            hits = reduce_over_processes(hits, reduction="sum")
        row = {name: float(f"{value:.6g}") for name, value in zip(terms, values.tolist(), strict=True)}
        right, counted = hits.tolist()
        return row | ({"pseudo_label_accuracy": round(right / counted, 6)} if counted else {})

    def _right_pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        pseudo_labels = self.method.pseudo_labels(outputs, batch)
        if pseudo_labels is None:
            return torch.zeros(2, device=self.device)
        classes = self._true_classes[batch.indices]
        counted = pseudo_labels.mask & (classes >= 0)
        return torch.stack([(counted & (pseudo_labels.classes == classes)).sum(), counted.sum()]).float()
