"""The name of one process in the cluster, and the constant parts of its heartbeats."""

from __future__ import annotations

from collections.abc import Callable

from .._core.cluster.members import Heartbeat
from .._core.request_fields import Header
from .._core.structured_fields import node_field
from ..abc import Backend
from ..config import Settings
from ..models import KeyId, NodeId
from ..version import PROTOCOL, __version__


def new_node_id(settings: Settings, backend: Backend, random: Callable[[int], bytes]) -> NodeId:
    """Return the given name; with a random part where several processes share the settings, because each is a node."""
    given = settings.node_id
    if given is not None and not backend.takes_workers:
        return NodeId(given)
    return NodeId(f"{given or 'node'}-{random(4).hex()}")


def fields_naming(node_id: NodeId, backend: Backend, *, is_given: bool) -> tuple[Header, ...]:
    """Return the header field that names a node in its answers; none for a node alone that nobody has named."""
    return (node_field(node_id),) if is_given or backend.hears_others or backend.takes_workers else ()


def own_heartbeat(settings: Settings, node_id: NodeId, life: str, kids: tuple[KeyId, ...]) -> Heartbeat:
    """Return what each heartbeat of a process has in common.

    Args:
        settings: of the node.
        node_id: its name.
        life: random, new for each process, and each time that it opens the log.
        kids: the ids of its keys, the newest first.
    """
    return Heartbeat(
        member=node_id,
        life=life,
        url=settings.advertise_url or "",
        state="starting",
        sequence=0,
        wall_ms=0,
        kids=kids,
        freshness_limit_s=settings.freshness_limit,
        absolute_ms=int(settings.absolute_timeout * 1000),
        release=__version__,
        weight=settings.weight,
        protocol=PROTOCOL,
    )
