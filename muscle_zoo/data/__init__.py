"""Images, splits, views and batches."""

from .batches import Batches, normalise
from .catalog import dataset_info, dataset_names
from .datasets import DataSet, Source, load_dataset, restrict
from .images import ImageFiles, ImageSource, LabelledImages
from .info import DataSetInfo
from .splits import Budget, Split, make_split

__all__ = [
    "Batches",
    "Budget",
    "DataSet",
    "DataSetInfo",
    "ImageFiles",
    "ImageSource",
    "LabelledImages",
    "Source",
    "Split",
    "dataset_info",
    "dataset_names",
    "load_dataset",
    "make_split",
    "normalise",
    "restrict",
]
