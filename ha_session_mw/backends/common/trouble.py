"""One way to tell operators of trouble: each change is logged once, and so is the recovery."""

from __future__ import annotations

import logging


class Troubles:
    """The present troubles of one service, by what each concerns.

    Args:
        logger: where operators read of them.

    Attributes:
        current: what is wrong now, in words.
    """

    __slots__ = ("_logger", "current")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.current: dict[str, str] = {}

    def begin(self, about: str, why: str, message: str, *args: object, level: int = logging.WARNING) -> bool:
        """Note a trouble; log it and return True if it is a new one, or another than before.

        Args:
            about: what it concerns: a part of the service, a peer.
            why: what is wrong. The same words again are no news.
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
