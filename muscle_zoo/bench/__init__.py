"""Speed, measured: warmed up, medians of several runs, with the shares that say what bounds it."""

from .data import bench_data

__all__ = ["bench_data"]
