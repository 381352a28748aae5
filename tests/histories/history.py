"""Users' actions with their node, times and answers. All times are of one monotonic clock, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

What = Literal["log in", "visit", "log out", "log out everywhere"]

NO_ANSWER = 0
"""The status of a request that was not answered: whether it did something is unknown."""
UNKNOWN_PROCESS = 0
"""The process of an answer that came while its node was restarted."""


@dataclass(frozen=True, slots=True)
class Act:
    """One request and its answer.

    Attributes:
        node, process: which node was asked, and the how manieth process of it.
        session: the name that the history gave it; of a log-out everywhere, the one that is kept, or empty.
        began_s, ended_s: from before the request was sent until after its answer had come.
        status: of the answer.
        code: of its problem document, if it is one.
        mode: how far a log-out has got: ``fenced``, ``provisional``, or empty where it was not acknowledged.
        hinted: whether a 503 says what to do next, when and where.
    """

    what: What
    node: str
    session: str
    subject: str
    began_s: float
    ended_s: float
    status: int = 200
    code: str = ""
    mode: str = ""
    process: int = 1
    hinted: bool = True

    def __str__(self) -> str:
        said = " ".join(filter(None, [str(self.status), self.code, self.mode]))
        return f"{self.what} of {self.session or self.subject} on {self.node} at {self.began_s:.3f} to {self.ended_s:.3f}: {said}"


@dataclass
class History:
    """All that was done.

    Attributes:
        nodes: all there are.
        healed_s: when the last fault was mended; None while there may be one.
        within_s: after how long from then on everything must be well again.
    """

    nodes: tuple[str, ...]
    acts: list[Act] = field(default_factory=list)
    healed_s: float | None = None
    within_s: float = 30.0

    @property
    def acknowledged_s(self) -> list[float]:
        """How long each fenced acknowledgement took."""
        return [act.ended_s - act.began_s for act in self.acts if act.mode == "fenced"]

    @property
    def accepted_for_s(self) -> list[float]:
        """From the sending of each fenced log-out until the last answer, anywhere, that still accepted the session."""
        accepted_s = {act.session: act.ended_s for act in self.acts if act.what == "visit" and act.status == 200}
        outs = [act for act in self.acts if act.what == "log out" and act.mode == "fenced"]
        return [max(0.0, accepted_s.get(out.session, 0.0) - out.began_s) for out in outs]
