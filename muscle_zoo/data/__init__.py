"""Images, splits, views and batches."""

from .batches import Batches
from .catalog import DataSetInfo, dataset_info, dataset_names
from .datasets import DataConfig, DataSet, at_size, load_dataset, restrict
from .images import ImageFiles, ImageSource, LabeledImages
from .normalization import normalize
from .splits import Budget, Split, make_split

__all__ = [
    "Batches",
    "Budget",
    "DataConfig",
    "DataSet",
    "DataSetInfo",
    "ImageFiles",
    "ImageSource",
    "LabeledImages",
    "Split",
    "at_size",
    "dataset_info",
    "dataset_names",
    "load_dataset",
    "make_split",
    "normalize",
    "restrict",
]
