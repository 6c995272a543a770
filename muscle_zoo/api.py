"""Training, evaluation, prediction and embeddings from Python: what the commands of these names do.

The engine is imported when it is needed: ``import muscle_zoo`` alone brings torch and timm, not accelerate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .auto.choices import Choices, is_own_pictures
from .checkpoints.factory import create_model
from .checkpoints.target import checkpoint_name
from .data import DataConfig
from .data.addresses import local_pictures
from .errors import InputError, one_line
from .methods import list_methods
from .recipes import Recipe, get_recipe

if TYPE_CHECKING:
    from .engine.options import RunOptions
    from .sessions.embed import Embeddings
    from .sessions.evaluate import Evaluation
    from .sessions.predict import Prediction
    from .sessions.train import RunResult

__all__ = ["embed", "evaluate", "list_methods", "predict", "train"]

AnyPath = str | PathLike[str]


def train(
    recipe: Recipe | AnyPath,
    overrides: Mapping[str, str | int | float | bool] | None = None,
    *,
    out: AnyPath | None = None,
    data: AnyPath | None = None,
    methods: Sequence[str] = (),
    folds: int | None = None,
    backbone: str | None = None,
    cpu: bool = False,
    mixed_precision: str | None = None,
    compile: str = "none",
    time_limit: float | None = None,
    save_every: int = 500,
    tracker: str = "none",
    workers: int = 0,
    stream: bool | None = None,
    strict: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> RunResult:
    """Trains a recipe, or the best method on your own pictures, or goes on; the same as ``python train.py``.

    Ctrl-C and the time limit stop it after the step it is at, with the state saved: it returns with ``finished`` False,
    which a loop over seeds should look at; a second Ctrl-C raises KeyboardInterrupt. The same call goes on. A run that
    is finished already is not trained again.

    Args:
        recipe: A recipe, or its name ``ARCH.METHOD_DATASET_LABELS``; or a folder or CSV of your own pictures, see
            :func:`muscle_zoo.auto.session.train_pictures`, on whose labels methods are compared first; or a data set of
            the Hugging Face Hub, ``hf:ORG/NAME``, or WebDataset's shards, ``wds:SHARDS``.
        overrides: What to change of it, see :func:`muscle_zoo.get_recipe`: ``{"seed": 1, "muscle.weight": 0.5}``.
        out: The run folder; ``runs/NAME/seedS`` by default, of your own pictures ``runs/FOLDER``.
        data: Where data sets are; for the data set ``folder`` your own pictures, a folder, a CSV, ``hf:ORG/NAME`` or
            ``wds:SHARDS``.
        methods: For your own pictures: what is compared; by default six methods.
        folds: For your own pictures: of the cross-validation.
        backbone: For your own pictures: the weights that embed them, named as a recipe's ``init``.
        cpu: Stay on the CPU.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; Accelerate's configuration by default.
        compile: torch.compile's mode; ``none`` for none.
        time_limit: Seconds after which it saves its state and stops.
        save_every: Steps between two saved states.
        tracker: One of Accelerate's, such as ``tensorboard``; a JSONL log is always written.
        workers: Processes that read pictures.
        stream: True to read pictures whenever they are needed, False to hold them in memory, None to decide by size.
        strict: Of your own pictures: refuse what cannot be read or contradicts itself, rather than leave it out.
        fresh: Start over; the old run folder is renamed, never overwritten.
        progress: Say on stderr what is done, how long it takes and how far it is; on a terminal with a bar.

    Returns:
        The run: ``metrics``, ``path``, ``model()``, ``checkpoint``, ``finished`` and its ledger ``row``.

    Raises:
        InputError: The recipe, an option, the data or the folder do not fit; nothing was written.
        TrainingError: Training could not go on, e.g. because the loss is not finite.

    Example:
        >>> run = train("cnn4.muscle_digits_10", {"steps": 20, "eval_every": 20}, out=tmp, cpu=True, progress=False)
        >>> run.finished, run.metrics.n, run.path == tmp
        (True, 360, True)
        >>> run.model().num_classes
        10
    """
    from .engine.build import fold_to_measure
    from .engine.options import RunOptions
    from .sessions.train import train_run

    named = isinstance(recipe, str)
    own = _own_pictures(recipe, data)
    chosen = {"methods": tuple(methods), "folds": folds, "backbone": backbone}
    asked = {name: value for name, value in chosen.items() if value}
    if own is None:
        if asked:
            raise InputError(f"{next(iter(asked))} is for a folder of your own pictures; leave it out")
        assert not isinstance(recipe, PathLike)
        recipe = _recipe(recipe, overrides)
    _require_number("save_every", save_every, at_least=1)
    if time_limit is not None and (not isinstance(time_limit, (int, float)) or time_limit <= 0):
        raise InputError(f"time_limit={time_limit!r} is no time; give seconds, such as 540")
    options = RunOptions(
        mixed_precision=mixed_precision,
        tracker=tracker,
        time_limit=time_limit,
        save_every=save_every,
        cpu=cpu,
        fresh=fresh,
        progress=progress,
        data=_data(own or data, stream, workers, progress, strict),
        compile=compile,
    )
    folder = None if out is None else _path("out", out)
    if own is not None:
        return _train_pictures(own, asked, _overrides(overrides), options, folder)
    assert isinstance(recipe, Recipe)
    if named and "fold" not in (overrides or {}):
        recipe = fold_to_measure(recipe, options.data)
    return train_run(recipe, folder or Path("runs") / recipe.name / f"seed{recipe.seed}", options)


def _own_pictures(recipe: object, data: AnyPath | None) -> Path | None:
    """The folder or CSV, if that is what was given in the place of a recipe."""
    if isinstance(recipe, Recipe) or not isinstance(recipe, (str, PathLike)):
        return None
    if isinstance(recipe, str) and not is_own_pictures(recipe):
        return None
    if data is not None:
        raise InputError(f"pictures are given twice, {recipe} and data={data}; keep one")
    return local_pictures(Path(recipe))


def _train_pictures(
    root: Path,
    chosen: Mapping[str, Any],
    overrides: Mapping[str, str | int | float | bool],
    options: RunOptions,
    out: Path | None,
) -> RunResult:
    from .auto.session import train_pictures

    say = print if options.progress else _say_nothing
    return train_pictures(root, Choices(**chosen, overrides=overrides), options, out, say=say)


def _say_nothing(text: str) -> None:
    """In the place of print."""


def evaluate(
    checkpoint: AnyPath | RunResult,
    *,
    data: AnyPath | None = None,
    source: str | None = None,
    cpu: bool = False,
    workers: int = 0,
    stream: bool | None = None,
    attack: str = "",
) -> Evaluation:
    """Evaluates a checkpoint on the images its recipe names; the same as ``python eval.py``.

    Args:
        checkpoint: A name of :func:`muscle_zoo.list_models`, what :func:`train` returned, a run folder,
            ``local-dir:PATH`` or ``hf-hub:REPO``.
        data: Where data sets are; for a model of your own pictures, their folder or CSV.
        source: ``hub`` to take a name's weights from the Hugging Face Hub although they are on disk.
        cpu: Stay on the CPU.
        workers: Processes that read pictures.
        stream: As in :func:`train`.
        attack: ``pgd:8/255``, say, to change every pixel by up to so much of 0 to 1, to mislead it; ``pgd:8/255:50``
            for 50 iterations instead of 20. The result's ``attacked_top1`` says how often it is right all the same.

    Returns:
        The ``metrics``, the accuracy ``per_class``, the published figure, and whether it was ``reproduced``.

    Raises:
        InputError: There is no such checkpoint, or the data are missing or have other classes.

    Example:
        >>> result = evaluate("cnn4.muscle_digits_10", cpu=True)
        >>> result.reproduced, result.metrics.n
        (True, 360)
    """
    from .sessions.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(_target(checkpoint), _data(data, stream, workers, False), source, cpu, attack)


def predict(
    checkpoint: AnyPath | RunResult | nn.Module,
    pictures: AnyPath | Sequence[AnyPath],
    *,
    topk: int = 5,
    threshold: float = 0.0,
    batch_size: int = 64,
    cpu: bool = False,
) -> list[Prediction]:
    """The classes of pictures; the same as ``muscle-zoo predict``.

    Args:
        checkpoint: As in :func:`evaluate`; or a model of :func:`muscle_zoo.create_model`, which stays where it is.
        pictures: Files, and folders whose pictures are all taken.
        topk: Classes of each, the most probable ones.
        threshold: The ``label`` of a picture whose most probable class is less probable than this is ``unsure``.
        batch_size: Pictures taken together.
        cpu: Stay on the CPU.

    Returns:
        For each picture its ``file``, its ``classes`` with their probabilities and its ``label``; or an ``error`` where
        it cannot be read.

    Raises:
        InputError: There is no such checkpoint, or there are no pictures.

    Example:
        >>> predict("cnn4.muscle_digits_10", "my_pictures")[0].label  # doctest: +SKIP
        '7'
    """
    from .engine.processes import device_for
    from .sessions.predict import list_pictures, predict_files

    for name, value in (("topk", topk), ("batch_size", batch_size)):
        _require_number(name, value, at_least=1)
    if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise InputError(f"threshold={threshold!r} is no probability; give 0 to 1, such as 0.8")
    files = list_pictures(_paths(pictures))
    if isinstance(checkpoint, nn.Module):
        model, training = checkpoint, checkpoint.training
        try:
            return list(predict_files(model.eval(), files, topk, batch_size, threshold))
        finally:
            model.train(training)
    model = create_model(checkpoint_name(_target(checkpoint)), pretrained=True).eval().to(device_for(cpu))
    return list(predict_files(model, files, topk, batch_size, threshold))


def embed(
    checkpoint: AnyPath | RunResult,
    data: AnyPath | None = None,
    *,
    dataset: str = "folder",
    image_size: int = 0,
    out: AnyPath | None = None,
    cpu: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> Embeddings:
    """Embeddings of pictures: a network's features before its classifier; the same as ``muscle-zoo embed``.

    They are kept in a cache (``MUSCLE_ZOO_CACHE``, by default ~/.cache/muscle_zoo): the same call reads them from
    there, and goes on where it was interrupted.

    Args:
        checkpoint: As in :func:`evaluate`; or a name of timm's pretrained networks.
        data: Your pictures, a folder (of classes, or not) or a CSV; with a ``dataset``, where data sets are.
        dataset: A data set's name: its training images, then its test images.
        image_size: Side in pixels that pictures become; 0 for the network's own.
        out: A ``.safetensors`` or ``.npy`` file to write, too.
        cpu: Stay on the CPU.
        workers: Processes that read pictures.
        progress: Say how long it takes.

    Returns:
        ``embeddings`` ``(N, D)``, ``labels`` (negative where there is none), ``names`` and ``class_names``.

    Raises:
        InputError: There are no such weights or pictures, or the cache or ``out`` cannot be written.
        TrainingError: A picture cannot be read.

    Example:
        >>> found = embed("cnn4.muscle_digits_10", dataset="digits", cpu=True, progress=False)
        >>> found.embeddings.shape, found.names[0]
        (torch.Size([1797, 64]), 'train/0')
    """
    from .sessions.embed import check_suffix, embed_checkpoint

    if out is not None:
        check_suffix(_path("out", out))
    _require_number("image_size", image_size, at_least=0)
    found = embed_checkpoint(
        _target(checkpoint), _data(data, None, workers, progress), dataset, image_size, cpu, progress
    )
    if out is not None:
        found.save(_path("out", out))
    return found


def _target(checkpoint: AnyPath | RunResult) -> str:
    """What was given for a checkpoint, as a command line would have it."""
    if isinstance(checkpoint, (str, PathLike)):
        return str(checkpoint)
    if isinstance(path := getattr(checkpoint, "path", None), Path):  # of a RunResult, whose class is slow to import
        return str(path)
    raise InputError(f"{type(checkpoint).__name__} is no checkpoint; give a name, a run folder, or what train returned")


def _overrides(
    overrides: Mapping[str, str | int | float | bool] | None,
) -> dict[str, str | int | float | bool]:
    """What was given to change of a recipe."""
    if not isinstance(overrides or {}, Mapping) or not all(isinstance(key, str) for key in overrides or {}):
        raise InputError(f'overrides={overrides!r}: give a dictionary of fields and values, such as {{"seed": 1}}')
    values = dict(overrides or {})
    for key in ("init", "teacher"):
        if isinstance(values.get(key), str):
            values[key] = checkpoint_name(str(values[key]))  # a run folder will do
    return values


def _recipe(recipe: Recipe | str, overrides: Mapping[str, str | int | float | bool] | None) -> Recipe:
    values = _overrides(overrides)
    if isinstance(recipe, str):
        return get_recipe(recipe, values)
    if values:
        raise InputError("overrides go with a recipe's name; change a Recipe by dataclasses.replace")
    if not isinstance(recipe, Recipe):
        raise InputError(f"recipe={one_line(repr(recipe))} is no recipe; give its name, or a muscle_zoo.Recipe")
    return recipe


def _data(root: AnyPath | None, stream: bool | None, workers: int, progress: bool, strict: bool = False) -> DataConfig:
    _require_number("workers", workers, at_least=0)
    where = None if root is None else local_pictures(_path("data", root))
    return DataConfig(where, stream, workers, progress, strict=strict)


def _path(name: str, value: object) -> Path:
    if not isinstance(value, (str, PathLike)):
        raise InputError(f"{name}={one_line(repr(value))} is no path; give a string or a pathlib.Path")
    return Path(value)


def _paths(pictures: object) -> list[str]:
    """The paths that were given for pictures."""
    remedy = "give paths of pictures, or of folders of them"
    if isinstance(pictures, (str, PathLike)):
        return [str(pictures)]
    if not isinstance(pictures, Iterable):
        raise InputError(f"pictures: {type(pictures).__name__} is no path; {remedy}")
    given = list(pictures)
    if not given:
        raise InputError(f"pictures={pictures!r} has none; {remedy}")
    if wrong := [type(item).__name__ for item in given if not isinstance(item, (str, PathLike))]:
        raise InputError(f"pictures: {wrong[0]} is no path; {remedy}")
    return [str(item) for item in given]


def _require_number(name: str, value: object, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name}={one_line(repr(value))} is no whole number; give {at_least} or more")
    if value < at_least:
        raise InputError(f"{name}={value} is out of range; give {at_least} or more")
