"""The demo's users. Their passwords stand on the log-in page: this is a demo, and it says so there."""

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
    """Whether a user of this name has this password, in the same time for every wrong answer.

    A real app keeps password hashes (argon2, scrypt) and limits how often one may try.
    """
    user = USERS.get(username)
    expected = user.password if user else ""
    same = hmac.compare_digest(password.encode(), expected.encode())
    return same and user is not None


def display_name(subject: str) -> str:
    return USERS[subject].name if subject in USERS else subject
