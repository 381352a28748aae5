"""The demo's users. The log-in page shows their passwords, and says that this is a demo."""

from __future__ import annotations

import hmac
from typing import NamedTuple


class User(NamedTuple):
    name: str
    password: str


USERS = {
    "ada": User("Ada Lovelace", "analytical"),
    "grace": User("Grace Hopper", "nanosecond"),
    "leslie": User("Leslie Lamport", "happened-before"),
}


def check(username: str, password: str) -> bool:
    """Return whether the password is this user's. Every wrong answer takes the same time.

    A real app stores password hashes (argon2, scrypt) and limits the number of attempts.
    """
    user = USERS.get(username)
    expected = user.password if user else ""
    same = hmac.compare_digest(password.encode(), expected.encode())
    return same and user is not None


def display_name(subject: str) -> str:
    return USERS[subject].name if subject in USERS else subject
