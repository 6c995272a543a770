"""What a person sees while pictures are embedded: how many, how long, and that it may be interrupted."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from ..data import DataSetInfo
from .processes import is_main_process

MEASURED = 3.0  # seconds of work after which it is known how long the rest takes
PATIENCE = 60.0  # seconds that are waited for without a word where none is wanted


class EmbeddingProgress:
    """Says on stderr how much there is to do, soon how long it takes, and how far it is.

    Args:
        arch: The backbone.
        info: The size of the images.
        pictures: How many.
        views: Of each.
        begun: Pictures that were embedded before.
        show: Say it from the beginning; otherwise nothing is said, unless it takes longer than a minute. A study's
            runs are quiet, and the first of them may embed for half an hour.
    """

    def __init__(self, arch: str, info: DataSetInfo, pictures: int, views: int, begun: int, show: bool) -> None:
        self.show = show
        self.pictures, self._done, self._begun = pictures, begun, begun
        self._bar: tqdm[Any] | None = None
        self._measured = False
        size = "x".join(map(str, info.input_size[1:]))
        what = f"{pictures:,} pictures" if views == 1 else f"{pictures:,} pictures in {views} views each"
        before = f", {begun:,} of them are done" if begun else ""
        self.told = f"embedding {what} of {size} with {arch}{before};\nCtrl-C is safe: the same command goes on"

    def __enter__(self) -> EmbeddingProgress:
        self._start = time.monotonic()
        if self.show:
            self._begin()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _begin(self) -> None:
        if is_main_process():
            print(self.told, file=sys.stderr, flush=True)
            self._bar = tqdm(total=self.pictures, initial=self._done, unit="picture", disable=None, leave=False)

    def done(self, pictures: int) -> None:
        """So many more are embedded."""
        before, self._done = self._done, self._done + pictures
        tenth = before * 10 // self.pictures < self._done * 10 // self.pictures
        spent = time.monotonic() - self._start
        if not self._measured and spent >= MEASURED and self._done < self.pictures:
            self._measured = True
            left = spent / (self._done - self._begun) * (self.pictures - self._done)
            if self._bar is None and left > PATIENCE:
                self._begin()
            if self._bar is not None:
                print(f"it takes about {in_words(left)} more", file=sys.stderr, flush=True)
        elif self._measured and self._bar is not None and self._bar.disable and tenth:
            print(f"embedded {self._done:,} of {self.pictures:,}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)


def in_words(seconds: float) -> str:
    """A time as a person says it.

    Example:
        >>> in_words(40), in_words(300), in_words(9000)
        ('40 seconds', '5 minutes', '2.5 hours')
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5700 else f"{seconds / 3600:.1f} hours"
