"""A client for a cluster: finds a node that is well, obeys the hints of refusals, and logs in again.

The transports work with httpx and httpx2 alike. ``client.requests`` has an adapter for requests.
"""

from .connect import connect, connect_async
from .problems import LogInAgain, Problem, ProblemAnswered, RequestRefused, TryLater, problem_of, raise_for_problem
from .transport import AsyncNodesTransport, NodesTransport

__all__ = [
    "AsyncNodesTransport",
    "LogInAgain",
    "NodesTransport",
    "Problem",
    "ProblemAnswered",
    "RequestRefused",
    "TryLater",
    "connect",
    "connect_async",
    "problem_of",
    "raise_for_problem",
]
