"""One way to report trouble to operators: each change is logged once, and so is the recovery."""

from __future__ import annotations

import logging


class Troubles:
    """The present troubles of one service, by subject.

    Args:
        logger: takes the lines for operators.

    Attributes:
        current: the text of each present trouble, by subject.
    """

    __slots__ = ("_logger", "current")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.current: dict[str, str] = {}

    def begin(self, about: str, why: str, message: str, *args: object, level: int = logging.WARNING) -> bool:
        """Note a trouble; log it and return True if it is a new one, or another than before.

        Args:
            about: the subject of the trouble: a part of the service, or a peer.
            why: the text of the trouble. The same text again is no news.
            message: the line for operators, with its ``args``.
            level: the level of the line.
        """
        if self.current.get(about) == why:
            return False
        self.current[about] = why
        self._logger.log(level, message, *args, stacklevel=2)
        return True

    def end(self, about: str, message: str, *args: object, level: int = logging.INFO) -> bool:
        """Note that all is well; log it and return True if there was trouble before."""
        if self.current.pop(about, None) is None:
            return False
        self._logger.log(level, message, *args, stacklevel=2)
        return True
