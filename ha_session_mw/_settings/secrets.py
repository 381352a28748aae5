"""Read secrets, from settings or from files, and refuse the weak ones. No message contains a secret."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..exceptions import ConfigurationError
from .randomness import bits_of
from .setting import variable

MAKE_ONE = 'Make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'
MIN_SECRET_BYTES = 32
"""The length of SHA-256's output: a shorter HMAC key is weaker than the hash (RFC 2104 section 3)."""
MIN_DIFFERENT_BYTES = 8
"""A secret with fewer different bytes was typed, not drawn: 32 random bytes have about 30."""
MIN_BITS = 64
"""The least randomness, as estimated. 32 random digits have 106 bits by that estimate, and a repeated password about 50."""

MOST_FILE_BYTES = 65_536
"""The largest file of secrets. A larger one, or a device, was named by mistake, and reading it might take all memory."""

MIN_UI_PASSWORD_BYTES = 16
"""The length of a password that nobody guesses at the pace of :mod:`ha_session_mw.ops.credential`, drawn from any alphabet."""

_PLACEHOLDER = (
    r"(change|replace|insert|put|your|my|me|this|please|a|the|with|in|to|some|very|super|long|random|strong|secure|default|example|sample"
    r"|demo|test|dev|todo|fixme|secret|key|token|password|passphrase|session|string|value|here|django|starlette|flask|fastapi|256|bit|64"
    r"|bytes|chars|characters|must|be|at|least|of|and|production|abc|xyz|foo|bar|baz|0|1|2|3|x)+"
)


_PUBLISHED = frozenset(
    (
        "570dad43de1af4c9",  # FastAPI's tutorial
        "2598f7d6adc142d8",  # Flask's configuration handbook
        "4f2c8f384099179e",  # Flask-Security's quick start
        "a8ad80ab28ef698d",  # a Django tutorial
        "8b1b17a9740c068a",  # RFC 7515, appendix A.1
        "0330b11998cbc9ab",  # RFC 7520, section 3.5
        "465d9ad5d5528ebe",  # the debugger at jwt.io
    )
)
"""Keys that documentation shows, and that apps have copied: the first 16 hexadecimal digits of the SHA-256 of each."""


def weakness(secret: bytes) -> str | None:
    """Return why a secret must not sign; None for a strong secret. The reason never contains the secret."""
    text = re.sub(r"[^a-z0-9]", "", secret.decode("utf-8", "replace").lower())
    if not secret:
        return "is empty"
    if re.fullmatch(_PLACEHOLDER, text):
        return "is a well-known placeholder"
    if secret.startswith(b"django-insecure-"):
        return "is marked as insecure"
    if len(secret) < MIN_SECRET_BYTES:
        return f"is {len(secret)} bytes long, and {MIN_SECRET_BYTES} is the least"
    if len(set(secret)) < MIN_DIFFERENT_BYTES:
        return "repeats the same few characters"
    if hashlib.sha256(secret).hexdigest()[:16] in _PUBLISHED:
        return "is a key that documentation shows"
    if bits_of(secret) < MIN_BITS:
        return "counts or repeats itself"
    return None


_AROUND = " \t\r\n\f\v\ufeff"
"""Blanks and a byte order mark, which editors and shells leave around a secret."""


def content_of(file: Path) -> bytes:
    """Return what a file of secrets contains.

    Raises:
        OSError: it cannot be read, or is too large.
    """
    with file.open("rb") as opened:
        content = opened.read(MOST_FILE_BYTES + 1)
    if len(content) > MOST_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MOST_FILE_BYTES} bytes, and is to hold secrets alone")
    return content


def trimmed(text: str) -> str:
    """Return a secret without blanks and a byte order mark around it."""
    return text.strip(_AROUND)


def keys_in(text: str, *, separator: str = "\n") -> tuple[bytes, ...]:
    """Return the keys in the text of a variable or a file: one a line, without the characters that editors and shells leave around them."""
    lines = text.replace("\r", "\n").replace(separator, "\n").split("\n")
    return tuple(found.encode("utf-8", "surrogateescape") for line in lines if (found := trimmed(line)))


class Keys(msgspec.Struct, frozen=True):
    """One setting of keys, with its ``…_FILE``.

    Attributes:
        name: the setting.
        given: the keys in the setting itself.
        file: the file of keys, one a line.
    """

    name: str
    given: tuple[bytes, ...]
    file: Path | None

    def read(self, faults: list[str]) -> tuple[bytes, ...]:
        """Return the keys as they are now. Faults are added to ``faults``."""
        if self.file is None:
            return self.given
        # A secret that was put here by mistake most likely contains no separator. It must not be shown.
        source = f"{variable(self.name)}_FILE={str(self.file)!r}" if os.sep in str(self.file) else f"{variable(self.name)}_FILE"
        if self.given:
            faults.append(f"{source}: {variable(self.name)} is set too; set one of them")
            return ()
        try:
            text = content_of(self.file).decode("utf-8", "surrogateescape")
        except OSError as exc:
            faults.append(f"{source}: cannot be read: {exc.strerror}")
            return ()
        found = keys_in(text)
        if not found and self.name == "secret_key":
            faults.append(f"{source}: is empty. {MAKE_ONE}")
        return found


def read_keys(signing: Keys, fallbacks: Keys, *, may_be_weak: bool, cookie_name: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the keys that sign, and the keys that only verify.

    Raises:
        ConfigurationError: a file cannot be read, no key signs, a key is weak, or the public cookie name is one of the keys.
    """
    faults: list[str] = []
    found, old = signing.read(faults), fallbacks.read(faults)
    if not found and not faults:
        faults.append(f"{variable(signing.name)}: is not set, and without a key no token can be signed. {MAKE_ONE}")
    if not may_be_weak:
        faults += [*weaknesses(signing.name, found), *weaknesses(fallbacks.name, old)]
    if cookie_name.encode() in found:
        faults.append(f"{variable('cookie_name')}: holds the secret key, and a cookie's name is public")
    if faults:
        raise ConfigurationError(faults)
    return found, old


def weaknesses(name: str, secrets: tuple[bytes, ...]) -> Iterator[str]:
    """Return a fault for each weak key of one setting."""
    for secret in secrets:
        if why := weakness(secret):
            yield f"{variable(name)}: {why}. {MAKE_ONE}"


def read_password(given: str | None, file: Path | None) -> str:
    """Return the password as it is now, from the file if there is one; empty if there is none.

    Raises:
        OSError: the file cannot be read.
    """
    return given or "" if file is None else trimmed(content_of(file).decode())


def password_faults(given: str | None, file: Path | None, *, name: str = "cluster_password") -> Iterator[str]:
    """Return a fault if the password's file cannot be read."""
    try:
        read_password(given, file)
    except OSError as exc:
        # A password that was put here by mistake most likely contains no separator. It must not be shown.
        named = f": {str(file)!r}" if os.sep in str(file) else ""
        yield f"{variable(f'{name}_file')}: cannot be read: {exc.strerror}{named}"
    except UnicodeDecodeError:
        yield f"{variable(f'{name}_file')}: is no text in UTF-8"


def ui_password_faults(given: str | None, file: Path | None, *, is_on: bool) -> Iterator[str]:
    """Return a fault if the page for operators is on without a password, or with one that can be guessed."""
    name = "ui_password"
    if given is not None and file is not None:
        yield f"{variable(name)}: {variable(name + '_file')} is set too; set one of them"
    elif given is None and file is None:
        if is_on:
            yield f"{variable('ui')}='on': the page needs a password of its own; set {variable(name)} or {variable(name + '_file')}"
    elif unreadable := [*password_faults(given, file, name=name)]:
        yield from unreadable
    elif why := _ui_password_weakness(read_password(given, file)):
        yield f"{variable(name if file is None else name + '_file')}: {why}. {MAKE_ONE}"


def _ui_password_weakness(password: str) -> str | None:
    secret = password.encode("utf-8", "surrogatepass")
    if len(secret) < MIN_UI_PASSWORD_BYTES:
        return f"is {len(secret)} bytes long, and {MIN_UI_PASSWORD_BYTES} is the least" if secret else "is empty"
    if re.fullmatch(_PLACEHOLDER, re.sub(r"[^a-z0-9]", "", password.lower())):
        return "is a well-known placeholder"
    return "repeats the same few characters" if len(set(secret)) < MIN_DIFFERENT_BYTES else None
