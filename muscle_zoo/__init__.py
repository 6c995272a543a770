"""A model zoo for learning from few labels: backbones trained with MUSCLE (after arXiv 2012.00150).

Importing it registers the backbones and their checkpoints with timm, and does nothing else.
"""

from . import backbones
from .api import evaluate, list_methods, predict, train
from .checkpoints.factory import create_model, create_transform
from .checkpoints.listing import ModelInfo, list_models, model_info
from .errors import DownloadError, InputError, MuscleZooError, TrainingError, WeightsError
from .losses import MutualInformationLoss, mutual_information
from .recipes import Recipe, get_recipe

__version__ = "0.1.0"

__all__ = [
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
    "evaluate",
    "get_recipe",
    "list_methods",
    "list_models",
    "model_info",
    "mutual_information",
    "predict",
    "train",
]
