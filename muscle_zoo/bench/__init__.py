"""Speed, measured: warmed up, medians of several runs, with the shares that say what bounds it."""

from .cost import bench_methods
from .data import bench_data
from .evaluation import bench_eval
from .measure import measure, measure_race
from .race import bench_race, require_race
from .step import bench_step

__all__ = [
    "bench_data",
    "bench_eval",
    "bench_methods",
    "bench_race",
    "bench_step",
    "measure",
    "measure_race",
    "require_race",
]
