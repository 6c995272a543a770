"""What takes a step: network, EMA, method and optimizer, on one process or many."""

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
from .collectives import shared_errors
from .schedule import learning_rate
from .stage_timer import NoTimer

__all__ = ["Trainer", "forward"]

NO_TIMER = NoTimer()


def forward(
    model: nn.Module, teacher: nn.Module, method: Method, batch: Batch, step: int
) -> tuple[dict[str, Tensor], Batch]:
    """Prepares a batch and runs it: one forward on all inputs together.

    One forward for all views is not only faster: BatchNorm then normalizes labeled and unlabeled images, weak and
    strong views with the same statistics, and the running ones, which evaluation uses, are those of all of them.

    Returns:
        Logits by name of the input, and the prepared batch.
    """
    with torch.no_grad():
        # Without its wrapper: what the method runs here has no gradients for DistributedDataParallel to wait for.
        batch = method.prepare(batch, getattr(model, "module", model), teacher, step)
    # The convolutions' weights are channels last; images that are not would be copied by each of them.
    images = torch.cat(list(batch.inputs.values())).contiguous(memory_format=torch.channels_last)
    logits = model(images)
    return dict(zip(batch.inputs, logits.split([len(view) for view in batch.inputs.values()]), strict=True)), batch


class Trainer:
    """The parts of a run that change from step to step, and how: :meth:`step`.

    Args:
        recipe: What to train.
        data: On what.
        accelerator: Where, and in which precision.
        compiled: torch.compile's mode; ``none`` leaves the network as it is.

    Attributes:
        network: The network itself, in float32; evaluated and saved.
        model: The same network as the loop calls it: distributed, compiled.
        ema: The exponential moving average of the network's weights: the teacher, and what is published.
        method: The method, with what it keeps from step to step.
        optimizer: Accelerate's.
        batches: Makes the batch of any step.

    Raises:
        InputError: The recipe does not fit the data set, the method or the number of processes.
    """

    def __init__(self, recipe: Recipe, data: Data, accelerator: Accelerator, compiled: str = "none") -> None:
        self.recipe, self.accelerator, self.device = recipe, accelerator, accelerator.device
        dataset, world = data.dataset, accelerator.num_processes
        with shared_errors():  # before DistributedDataParallel, which would wait for a process that is gone
            model = build_model(recipe, dataset)
            context = RunContext(recipe.steps, len(dataset.train), dataset.info.num_classes)
            self.method = create_method(recipe.method, recipe.options, context)
            images = to_device(dataset.train, self.device)
            rank, views = accelerator.process_index, self.method.views
            self.batches = Batches(recipe, images, dataset.info, data.split, views, rank, world, self.device)
            if world > 1:  # before the EMA's copy: a teacher in training mode normalizes with the global batch too
                synchronize_batchnorm(model, recipe.arch)
            # The decay grows from 0 with the steps, for the first weights are random: with a decay of 0.999 from the
            # start, 4 % of them would still be in the average after 3,200 steps.
            self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True).to(self.device)
            # After synchronizing, so that it holds the parameters that are trained, whatever synchronizing replaces.
            optimizer = build_optimizer(recipe, model)
            self.method = self.method.to(self.device)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # The loop turns autocast on, and not Accelerate's wrapper: what is evaluated and saved is float32.
        self.network = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if compiled != "none":
            self.model = torch.compile(self.model, mode=compiled, dynamic=False)
        self._true_classes = dataset.train.labels.to(self.device)  # for the log: no method gets them

    def step(
        self, step: int, batch: Batch, count_right: bool = False, timer: NoTimer = NO_TIMER
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer update.

        Args:
            step: Counted from 0.
            batch: Of this process.
            count_right: Compare the method's pseudo-labels with the true classes, for the log.
            timer: Times the forward, loss, backward, optimizer and EMA.

        Returns:
            The method's terms, on the device; and ``(2,)``: how many of the pseudo-labels that were used are right, and
            how many of those that were used have a known class.
        """
        self.begin(step)
        terms, hits = [], torch.zeros(2, device=self.device)
        for part in batch.micro_batches(self.recipe.accumulate):
            with self.accelerator.accumulate(self.model):  # the optimizer steps after the last part
                outputs, prepared = self.predict(part, step)
                timer.lap("forward")
                with self.accelerator.autocast():
                    terms.append(self.method.loss(outputs, prepared, step))
                timer.lap("loss")
                self.accelerator.backward(terms[-1]["loss"])
                timer.lap("backward")
                self.optimizer.step()
                self.optimizer.zero_grad()
                timer.lap("optimizer")
            if count_right:
                hits += self._right_pseudo_labels(outputs, prepared)
        self.ema.update(self.network, step=step + 1)
        timer.lap("ema")
        return {name: torch.stack([part[name].detach() for part in terms]).mean(0) for name in terms[0]}, hits

    def begin(self, step: int) -> None:
        """Sets the learning rate and the seed of what the network draws (dropout).

        Both are functions of the step alone: nothing has to be saved for a resumed run to draw the same.
        """
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
