"""What takes a step: network, EMA, method and optimizer, on one process or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate

import torch
from accelerate import Accelerator
from accelerate.utils import reduce as reduce_over_processes
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import Batches
from ..data.batches import step_seed
from ..data.embedded import EmbeddedBatches
from ..errors import InputError
from ..methods import Batch, Group, Method, RunContext, create_method, has_own_backward, version_of
from ..methods.base import LOGITS, TEACHER, Outputs, frozen_statistics, same_dropout
from ..recipes import Recipe
from .batchnorm import synchronize_batchnorm
from .build import Data, build_model, build_optimizer, to_device
from .collectives import shared_errors
from .head import Head
from .nets import TrainedNets
from .network import with_parts
from .schedule import learning_rate
from .stage_timer import NoTimer
from .teacher import Teacher, load_teacher
from .tuning import Probe

__all__ = ["Trainer", "forward"]

NO_TIMER = NoTimer()


def forward(
    model: nn.Module, ema: nn.Module, method: Method, batch: Batch, step: int, teacher: nn.Module | None = None
) -> tuple[Outputs, Batch]:
    """Prepares a batch and runs it: one forward for all inputs of a group together, see :class:`Group`.

    Most methods have one group. One forward for all views is not only faster: BatchNorm then normalizes labeled and
    unlabeled images, weak and strong views with the same statistics, and the running ones, which evaluation uses, are
    those of all of them.

    Args:
        model: The network; one :func:`muscle_zoo.engine.network.with_parts` where the method needs more than logits.
        ema: Its averaged weights.
        method: What is needed of which input.
        batch: The views.
        step: Counted from 0.
        teacher: The recipe's, if the method needs one.

    Returns:
        Logits by name of the input, what else is needed of it by (name, what), and the prepared batch.
    """
    with torch.no_grad():
        # Without its wrapper: what the method runs here has no gradients for DistributedDataParallel to wait for.
        batch = method.prepare(batch, getattr(model, "module", model), ema, step)
    needs = {name: tuple(method.needs.get(name, (LOGITS,))) for name in batch.inputs}
    groups: dict[Group, dict[str, Tensor]] = {}
    for name, images in batch.inputs.items():
        if needs[name] != (TEACHER,):
            groups.setdefault(batch.groups.get(name, Group()), {})[name] = images
    outputs: Outputs = {}
    for number, (group, inputs) in enumerate(groups.items(), start=1):
        # What the last group draws is taken note of: a method with one group draws as if there were none.
        draws = same_dropout(batch.labels.device) if number < len(groups) else nullcontext()
        with draws, frozen_statistics(model) if group.still else nullcontext():
            outputs |= _forward_together(model, inputs, needs)
    if asked := {name: images for name, images in batch.inputs.items() if TEACHER in needs[name]}:
        assert teacher is not None
        predictions = teacher(_joined(asked)).split([len(images) for images in asked.values()])
        outputs |= {(name, TEACHER): logits for name, logits in zip(asked, predictions, strict=True)}
    return outputs, batch


def _forward_together(model: nn.Module, inputs: Mapping[str, Tensor], needs: Mapping[str, Sequence[str]]) -> Outputs:
    images = _joined(inputs)
    sizes = {name: len(view) for name, view in inputs.items()}
    own = {name: [what for what in needs[name] if what != TEACHER] for name in inputs}
    if all(what == [LOGITS] for what in own.values()):
        return dict(zip(inputs, model(images).split(list(sizes.values())), strict=True))
    ends = dict(zip(inputs, accumulate(sizes.values()), strict=True))
    kinds = dict.fromkeys(what for needed in own.values() for what in needed)
    names = {what: [name for name in inputs if what in own[name]] for what in kinds}
    wanted = {what: [(ends[name] - sizes[name], ends[name]) for name in names[what]] for what in kinds}
    outputs: Outputs = {}
    for what, rows in model(images, wanted).items():
        parts = rows.split([sizes[name] for name in names[what]])
        outputs |= {name if what == LOGITS else (name, what): p for name, p in zip(names[what], parts, strict=True)}
    return outputs


def _joined(inputs: Mapping[str, Tensor]) -> Tensor:
    # The convolutions' weights are channels last; images that are not would be copied by each of them.
    parts = list(inputs.values())
    return (parts[0] if len(parts) == 1 else _joined_rows(parts)).contiguous(memory_format=torch.channels_last)


def _joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """The rows of tensors one after the other; not copied where they lie so already, as embeddings do."""
    first, end = parts[0], parts[0].storage_offset()
    memory, strides = first.untyped_storage().data_ptr(), first.stride()
    for part in parts:
        together = part.untyped_storage().data_ptr() == memory and part.storage_offset() == end
        if not together or part.stride() != strides or part.shape[1:] != first.shape[1:] or part.requires_grad:
            return torch.cat(list(parts))
        end += len(part) * strides[0]
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), strides, first.storage_offset())


class Trainer:
    """The parts of a run that change from step to step, and how: :meth:`step`.

    Args:
        recipe: What to train.
        data: On what.
        accelerator: Where, and in which precision.
        compiled: torch.compile's mode; ``none`` leaves the network as it is.

    Attributes:
        network: The network itself, with the method's parts, in float32; evaluated and saved.
        model: The same network as the loop calls it: distributed, compiled.
        ema: The exponential moving average of the network's weights: the teacher, and what is published.
        method: The method, with what it keeps from step to step.
        teacher: The recipe's, if it has one; not saved.
        optimizer: Accelerate's.
        batches: Makes the batch of any step.

    Raises:
        InputError: The recipe does not fit the data set, the method or the number of processes.
    """

    def __init__(self, recipe: Recipe, data: Data, accelerator: Accelerator, compiled: str = "none") -> None:
        self.recipe, self.accelerator, self.device = recipe, accelerator, accelerator.device
        dataset, world = data.dataset, accelerator.num_processes
        with shared_errors():  # before DistributedDataParallel, which would wait for a process that is gone
            _require_this_version(recipe)
            model = build_model(recipe, dataset) if data.head is None else data.head
            context = _context(recipe, data)
            self.method = _without_parameters(create_method(recipe.method, recipe.options, context))
            _require_whole_steps(recipe, self.method)
            model = with_parts(model, self.method, context, recipe, dataset.info.input_size)
            teacher = load_teacher(recipe, self.method, dataset.info)
            self.teacher: Teacher | None = None if teacher is None else teacher.to(self.device)
            rank, views = accelerator.process_index, self.method.views
            images = to_device(dataset.train, self.device, {view.policy for view in views.values()})
            make_batches = Batches if data.head is None else EmbeddedBatches
            self.batches = make_batches(recipe, images, dataset.info, data.split, views, rank, world, self.device)
            if world > 1:  # before the EMA's copy: a teacher in training mode normalizes with the global batch too
                synchronize_batchnorm(model, recipe.arch)
            # The decay grows from 0 with the steps, for the first weights are random: with a decay of 0.999 from the
            # start, 4 % of them would still be in the average after 3,200 steps.
            self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True).to(self.device)
            # After synchronizing, so that it holds the parameters that are trained, whatever synchronizing replaces.
            optimizer = build_optimizer(recipe, model)
            self.method = self.method.to(self.device)
            self.probe = Probe(model, recipe, all_gradients=world > 1 or has_own_backward(self.method))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # The loop turns autocast on, and not Accelerate's wrapper: what is evaluated and saved is float32.
        self.network = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.nets = TrainedNets(self.network, accelerator)
        # A classifier's step takes two milliseconds: Accelerate's contexts that do nothing would be a twentieth of it.
        self._autocast = nullcontext if accelerator.mixed_precision == "no" else accelerator.autocast
        self._undivided = recipe.accumulate == 1 and accelerator.scaler is None
        self._is_head = isinstance(self.network, Head)
        self._averages = list(zip(self.ema.module.parameters(), self.network.parameters(), strict=True))
        if compiled != "none":
            self.model = torch.compile(self.model, mode=compiled, dynamic=False)
        true_labels = dataset.train.labels if data.true_labels is None else data.true_labels
        self._true_classes = true_labels.to(self.device)  # for the log: no method gets them

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
            # The optimizer steps after the last part.
            with nullcontext() if self._undivided else self.accelerator.accumulate(self.model):
                outputs, prepared = self.predict(part, step)
                timer.lap("forward")
                with self._autocast():
                    terms.append(self.method.loss(outputs, prepared, step))
                timer.lap("loss")
                self.method.backward(terms[-1], self.nets)
                self.probe.drop_gradients(step)
                timer.lap("backward")
                self._update()
                timer.lap("optimizer")
            if count_right:
                hits += self._right_pseudo_labels(outputs, prepared)
        self._average(step + 1)
        timer.lap("ema")
        if len(terms) == 1:
            return {name: value.detach() for name, value in terms[0].items()}, hits
        return {name: torch.stack([part[name].detach() for part in terms]).mean(0) for name in terms[0]}, hits

    @torch.no_grad()
    def _average(self, steps: int) -> None:
        """Moves the averaged weights, after so many steps.

        Of a classifier on embeddings its parameters alone: timm's would copy the constants beside them every time.
        """
        if not self._is_head:
            self.ema.update(self.network, step=steps)
            return
        weight = 1.0 - self.ema.get_decay(steps)
        for average, value in self._averages:
            average.lerp_(value, weight)

    def _update(self) -> None:
        """Moves the weights, after the last part of a step.

        Accelerate's wrapper, which fp16 needs, looks for packages on the disk at every step: a tenth of a classifier's.
        """
        if self.accelerator.scaler is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        elif self._undivided or self.accelerator.sync_gradients:
            self.optimizer.optimizer.step()
            self.optimizer.optimizer.zero_grad()

    def begin(self, step: int) -> None:
        """Sets the learning rate, what is trained, and the seed of what the network draws (dropout).

        Both are functions of the step alone: nothing has to be saved for a resumed run to draw the same.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step) * group.get("lr_scale", 1.0)
        self.nets.lr = learning_rate(self.recipe, step)
        self.probe.begin(step)
        seed = step_seed(self.recipe.seed, step, self.accelerator.process_index)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.8 ms: a stack trace for absent devices
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def predict(self, batch: Batch, step: int) -> tuple[Outputs, Batch]:
        """Prepares a batch and runs its forwards, see :func:`forward`."""
        with self._autocast():
            return forward(self.model, self.ema.module, self.method, batch, step, self.teacher)

    def row(self, terms: dict[str, Tensor], hits: Tensor) -> dict[str, float]:
        """What :meth:`step` returned as numbers, over all processes; it waits for the device."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        if self.accelerator.num_processes > 1:
            values = reduce_over_processes(values, reduction="mean")
            hits = reduce_over_processes(hits, reduction="sum")
        row = {name: float(f"{value:.6g}") for name, value in zip(terms, values.tolist(), strict=True)}
        right, counted = hits.tolist()
        return row | ({"pseudo_label_accuracy": round(right / counted, 6)} if counted else {})

    @torch.no_grad()
    def _right_pseudo_labels(self, outputs: Outputs, batch: Batch) -> Tensor:
        pseudo_labels = self.method.pseudo_labels(outputs, batch)
        if pseudo_labels is None:
            return torch.zeros(2, device=self.device)
        classes = self._true_classes[batch.indices]
        counted = pseudo_labels.mask & (classes >= 0)
        return torch.stack([(counted & (pseudo_labels.classes == classes)).sum(), counted.sum()]).float()


def _context(recipe: Recipe, data: Data) -> RunContext:
    """What a method may know of a run."""
    info = data.dataset.info
    labels = data.dataset.train.labels[torch.tensor(data.split.labeled, dtype=torch.int64)]
    return RunContext(
        steps=recipe.steps,
        images=len(data.dataset.train),
        num_classes=info.num_classes,
        labeled=len(data.split.labeled),
        unlabeled=len(data.split.unlabeled),
        mean=info.mean,
        std=info.std,
        label_counts=tuple(labels.bincount(minlength=info.num_classes).tolist()),
    )


def _require_this_version(recipe: Recipe) -> None:
    """Refuses a recipe of another version of its method's code: what came out would bear its name and be another thing.

    Raises:
        InputError: It is one.
    """
    if recipe.version != version_of(recipe.method):
        raise InputError(
            f"version={recipe.version}: this code trains version {version_of(recipe.method)} of {recipe.method}; leave "
            "version out, or check out the commit that the run's ledger row names"
        )


def _require_whole_steps(recipe: Recipe, method: Method) -> None:
    """Refuses parts of a step for a method whose gradients are of the whole one.

    Raises:
        InputError: It has an own way back, and the recipe accumulates.
    """
    if recipe.accumulate > 1 and has_own_backward(method):
        raise InputError(
            f"accumulate={recipe.accumulate}: {recipe.method} works out its gradients of a whole step; leave it out"
        )


def _without_parameters(method: Method) -> Method:
    """The method, if it has nothing that would have to be trained: only the network's parameters are.

    Raises:
        InputError: It has parameters of its own.
    """
    trainable = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    if trainable:
        raise InputError(
            f"method {type(method).__name__} has parameters of its own ({', '.join(trainable)}), which nothing would "
            "train; give what is to be trained as parts, and keep what lasts from step to step in buffers"
        )
    return method
