"""Lists of ``path label`` with blanks between, as many published sets have them in train.txt and test.txt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SUFFIXES = (".txt", ".lst", ".list")

Lines = list[tuple[int, list[str]]]


def pairs_of_lines(lines: Sequence[str], is_file: Callable[[str], bool]) -> Lines | None:
    """The path and the label of each line, with its number; None where the lines are no such list.

    A path may have blanks in it: the label is the last word, or the first where what follows it is a file.

    Args:
        lines: Of the file.
        is_file: Whether a path is a picture's.

    Example:
        >>> pairs_of_lines(["my cats/1.jpg cat", "", "dog.jpg dog"], lambda path: path.endswith(".jpg"))
        [(1, ['my cats/1.jpg', 'cat']), (3, ['dog.jpg', 'dog'])]
        >>> pairs_of_lines(["cat my cats/1.jpg"], lambda path: path.endswith(".jpg"))
        [(1, ['my cats/1.jpg', 'cat'])]
    """
    said = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    said = [(number, line) for number, line in said if line and not line.startswith("#")]
    if not said or any(len(line.split()) < 2 for _, line in said):
        return None
    label_last = [(number, [_plain(part) for part in line.rsplit(None, 1)]) for number, line in said]
    label_first = [(number, [_plain(part) for part in line.split(None, 1)[::-1]]) for number, line in said]
    sample = range(min(len(said), 20))
    first = sum(is_file(label_first[i][1][0]) for i in sample)
    last = sum(is_file(label_last[i][1][0]) for i in sample)
    return label_first if first > last else label_last


def _plain(part: str) -> str:
    """A path or label without the quotes around it."""
    part = part.strip()
    return part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "\"'" else part
