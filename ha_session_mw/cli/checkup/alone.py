"""The checks that need nothing but the environment and the files of this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..._core.token.tokens import MAX_TOKEN_BYTES
from .findings import Finding

if TYPE_CHECKING:
    from ...config import Settings

NGINX_BUFFER = 4096
"""nginx's default for ``proxy_buffer_size`` on most machines: an answer with a longer header becomes 502."""
SQLITE = b"SQLite format 3\0"
"""The first bytes of each database of SQLite."""
_SECRET_FILES = ("secret_key_file", "secret_key_fallbacks_file", "cluster_password_file", "cluster_key_file", "peer_key_file")


def check_alone(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Return the findings in the settings of one node."""
    yield from _workers(settings, environ)
    yield from _secret_files(settings)
    yield from _folders(settings)
    yield from _memory_of_peers(settings)
    yield from _without_quorum(settings)
    yield from _cookie(settings)
    yield from _buffers(settings)


def _workers(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    for advice in settings.advice(environ):
        text, _, remedy = advice.partition(": ")
        yield Finding("advice" if "deprecated" in advice else "error", "settings", text, remedy or "see the text")


def _secret_files(settings: Settings) -> Iterator[Finding]:
    for name in _SECRET_FILES:
        file: Path | None = getattr(settings, name)
        if file is None:
            continue
        variable = f"HA_SESSION_{name.upper()}"
        try:
            found = file.stat()
        except OSError as exc:
            yield Finding("error", "secret", f"{variable}: cannot be read: {exc.strerror}", "name a file that the node can read")
            continue
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield Finding("error", "secret", f"{variable}: others may write the file", f"chmod go-w {file}")
        if found.st_mode & stat.S_IROTH:
            yield Finding("error", "secret", f"{variable}: every user of this machine may read the file", f"chmod o= {file}")
        if found.st_uid not in (0, os.geteuid()):
            yield Finding("error", "secret", f"{variable}: the file belongs to another user", f"chown it to root or to this user: {file}")


def _folders(settings: Settings) -> Iterator[Finding]:
    places = {"HA_SESSION_STATE_DIR": settings.state_dir}
    if settings.cluster.file is not None:
        places["HA_SESSION_CLUSTER"] = settings.cluster.file.parent
    for variable, folder in places.items():
        if folder is None:
            continue
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir():
            yield Finding("error", "files", f"{variable}: {nearest} is no folder", "name a path below a folder")
        elif not os.access(nearest, os.W_OK | os.X_OK):
            yield Finding("error", "files", f"{variable}: this user cannot write in {nearest}", "run this as the node's user")
    if settings.cluster.file is not None:
        yield from _file(settings.cluster.file)


def _file(path: Path) -> Iterator[Finding]:
    """Look at the first bytes alone: a node may be using the file."""
    try:
        with path.open("rb") as file:
            head = file.read(len(SQLITE))
    except (FileNotFoundError, NotADirectoryError):
        return  # the node makes it; a wrong folder is a finding of its own
    except OSError as exc:
        yield Finding("error", "files", f"HA_SESSION_CLUSTER: {path} cannot be read: {exc.strerror}", "run this as the node's user")
        return
    if head not in (b"", SQLITE):
        remedy = "name another path, or see Backup and restore for a file that was damaged"
        yield Finding("error", "files", f"HA_SESSION_CLUSTER: {path} is damaged, or is no database", remedy)


def _memory_of_peers(settings: Settings) -> Iterator[Finding]:
    if settings.cluster.scheme != "peers":
        return
    if settings.cluster.file is None and len(settings.peers) > 1:
        yield Finding(
            "error",
            "durability",
            "peers:// keeps log-outs in memory: if a majority of the nodes restarts at once, acknowledged log-outs are forgotten",
            "set HA_SESSION_CLUSTER=peers:///path/of/a/file, on a disk of each node's own",
        )
    if len(settings.peers) == 2:
        yield Finding("error", "quorum", "two members cannot lose one: a majority of two is two", "run three members, or one")
    elif len(settings.peers) % 2 == 0:
        yield Finding("advice", "quorum", f"{len(settings.peers)} members survive no more losses than one member less", "run an odd number")


def _without_quorum(settings: Settings) -> Iterator[Finding]:
    if settings.cluster.scheme in ("peers", "etcd", "etcds") and settings.no_quorum == "provisional" and settings.state_dir is None:
        yield Finding(
            "advice",
            "quorum",
            "a log-out without a majority gets 503, because there is no HA_SESSION_STATE_DIR to write it down in",
            "set HA_SESSION_STATE_DIR to a folder of this node alone, or HA_SESSION_NO_QUORUM=refuse to say that you want that",
        )


def _cookie(settings: Settings) -> Iterator[Finding]:
    may_be = settings.cookie_domain is None and settings.cookie_path == "/" and "cookie" in settings.transports
    if may_be and not settings.cookie_name.lower().startswith("__host-"):
        yield Finding(
            "advice",
            "cookie",
            f"other hosts below the same domain can plant a cookie named {settings.cookie_name}",
            "serve the app by https, and set HA_SESSION_COOKIE_NAME=__Host-session and HA_SESSION_COOKIE_HTTPS_ONLY=true",
        )


def _buffers(settings: Settings) -> Iterator[Finding]:
    if settings.data != "store":
        yield Finding(
            "advice",
            "proxy",
            f"a token has up to {MAX_TOKEN_BYTES} bytes; by default, nginx turns headers of more than {NGINX_BUFFER} bytes into 502",
            "behind nginx, set proxy_buffer_size 32k and large_client_header_buffers 4 32k, as ha-session lb-config nginx does",
        )


def check_drain(settings: Settings, kind: str | None, every_s: float | None, fall: int | None, grace_s: float | None) -> Iterator[Finding]:
    """Return what a planned restart behind a balancer lacks. It is advice unless the balancer was described."""
    from typing import Any, cast

    from ..leaving import leaving

    described = any(value is not None for value in (kind, every_s, fall, grace_s))
    if not described and settings.cluster.scheme not in ("peers", "etcd", "etcds"):
        return
    given: dict[str, Any] = {"check_every_s": every_s, "fall": fall, "grace_s": grace_s}
    needs = leaving(settings, kind=cast("Any", kind), **{name: value for name, value in given.items() if value is not None})
    for fact, remedy in needs.lacks:
        yield Finding("error" if described else "advice", "drain", fact, remedy)
