"""A model zoo for learning from few labels: backbones trained with MUSCLE (after arXiv 2012.00150).

Importing it registers the backbones and their checkpoints with timm, and does nothing else: for that it reads the
config.json of every card of ours, in ``MUSCLE_ZOO_HUB`` and hub_cards/. Set ``MUSCLE_ZOO_HUB`` before the import: the
functions here read it at every call, but ``timm.create_model`` and ``timm.list_models`` know the cards of then.
"""

from . import backbones
from .api import embed, evaluate, list_methods, predict, train
from .checkpoints.factory import create_model, load_model
from .checkpoints.listing import ModelInfo, list_models, model_info
from .checkpoints.transforms import create_transform
from .checkpoints.weights import Checkpoint
from .checkpoints.weights import resolve as resolve_checkpoint
from .errors import DownloadError, InputError, MuscleZooError, TrainingError, WeightsError
from .losses import MutualInformationLoss, mutual_information
from .recipes import Recipe, get_recipe

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "DownloadError",
    "InputError",
    "ModelInfo",
    "MuscleZooError",
    "MutualInformationLoss",
    "Recipe",
    "TrainingError",
    "WeightsError",
    "__version__",
    "backbones",
    "create_model",
    "create_transform",
    "embed",
    "evaluate",
    "get_recipe",
    "list_methods",
    "list_models",
    "load_model",
    "model_info",
    "mutual_information",
    "predict",
    "resolve_checkpoint",
    "train",
]
