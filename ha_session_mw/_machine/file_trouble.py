"""The one error of a file on this machine. It has a module of its own so that a node without files loads no SQLite."""

from __future__ import annotations


class FileTrouble(Exception):
    """The file cannot be used. The text is a predicate, such as ``is damaged``.

    Attributes:
        passing: whether the trouble may end without an operator: the file is locked or was replaced, or the disk is full.
    """

    def __init__(self, what: str, *, passing: bool = False) -> None:
        super().__init__(what)
        self.passing = passing


class FileDamaged(FileTrouble):
    """The content of the file cannot be what this package wrote."""
