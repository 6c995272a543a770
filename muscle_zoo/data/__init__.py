"""Images, splits, views and batches."""

from .batches import Batches, normalise
from .datasets import DataSet, DataSetInfo, LabelledImages, dataset_info, dataset_names, load_dataset
from .splits import Split, make_split

__all__ = [
    "Batches",
    "DataSet",
    "DataSetInfo",
    "LabelledImages",
    "Split",
    "dataset_info",
    "dataset_names",
    "load_dataset",
    "make_split",
    "normalise",
]
