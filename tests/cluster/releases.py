"""Trees of the package as other releases than the present one: one of the repository, and later ones that are made of the present code."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from ha_session_mw.version import PROTOCOL, Stored, Versions

ROOT = Path(__file__).parents[2]
BEFORE_A_RELEASE = "938fc80"
"""The build to compare with until there is a tag: the last one that was finished before this one. ``PREVIOUS`` names another."""

LATER_FORM = """

# The form of later versions: only the opening stands where it did.

from ...version import UNTOLD
from msgspec import msgpack

_encode, _decode_poll, _decode_answer, _decode_push = encode, decode_poll, decode_answer, decode_push


def _later(fields):
    return [*fields[:4], {"rest": fields[4:]}] if fields[0] > UNTOLD.highest else fields


def _present(fields):
    return [*fields[:4], *fields[4]["rest"]] if fields[0] > UNTOLD.highest and type(fields[4]) is dict else fields


def encode(message):
    body = _encode(message)
    if isinstance(message, Batch):
        return body
    fields = msgpack.decode(body)
    return msgpack.encode([_later(fields[0]), *fields[1:]] if isinstance(message, Push) else _later(fields))


def _whole(body):
    return msgpack.encode(_present(msgpack.decode(body)))


def decode_poll(body):
    return _decode_poll(_whole(body))


def decode_answer(body):
    return _decode_answer(_whole(body))


def decode_push(body):
    answer, *rest = msgpack.decode(body)
    return _decode_push(msgpack.encode([_present(answer), *rest]))
"""


def last_release() -> str:
    """Return the commit of the last release.

    Raises:
        OSError, subprocess.CalledProcessError: this copy of the repository has no history.
    """
    tags = git("tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD").decode().split()
    return os.environ.get("PREVIOUS") or (tags[0] if tags else BEFORE_A_RELEASE)


def former(folder: Path, commit: str) -> Path:
    """Unpack the package as it was at a commit; return the folder.

    Raises:
        OSError, subprocess.CalledProcessError: this copy of the repository has no such commit.
    """
    archive = git("archive", "--format=tar", commit, "ha_session_mw")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(folder, filter="data")
    return folder


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def later(folder: Path, *, protocol: Versions, stored: Stored) -> Path:
    """Make a release of the present code that differs in its versions alone; return the folder.

    Args:
        folder: to make it in.
        protocol: the versions of the protocol that it reads. Those after the first have another form.
        stored: the versions of all that stays.
    """
    package = shutil.copytree(ROOT / "ha_session_mw", folder / "ha_session_mw", ignore=shutil.ignore_patterns("__pycache__"))
    versions = package / "version.py"
    text, found = re.subn(r"^PROTOCOL = .*$", f"PROTOCOL = {protocol!r}", versions.read_text(), flags=re.M)
    assert found == 1
    text, found = re.subn(r"^([A-Z_]+) = Stored\(.*\)$", rf"\1 = {stored!r}", text, flags=re.M)
    assert found > 5
    versions.write_text(text)
    with (package / "_core" / "quorum" / "messages.py").open("a") as messages:
        messages.write(LATER_FORM)
    return folder


FIRST = Stored(Versions(1, 1), writes=1)
"""The versions in which the first release keeps what stays."""
NEXT = (Versions(PROTOCOL.lowest, PROTOCOL.highest + 1), Stored(Versions(1, 2), writes=1))
"""The versions of the next release, which reads and writes another version of the protocol, and reads another one of all that stays."""
AFTER_NEXT = (Versions(PROTOCOL.highest + 1, PROTOCOL.highest + 2), Stored(Versions(1, 2), writes=2))
"""Of the one after it, which has given up the present version of the protocol, and writes the other one of all that stays."""
