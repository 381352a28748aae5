"""The page on security names tests that exist, and has each requirement of its four chapters of the ASVS once."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text()

SECTIONS = {
    "3.1": 1,
    "3.2": 3,
    "3.3": 5,
    "3.4": 8,
    "3.5": 8,
    "3.6": 1,
    "3.7": 5,
    "7.1": 3,
    "7.2": 4,
    "7.3": 2,
    "7.4": 5,
    "7.5": 3,
    "7.6": 2,
    "9.1": 3,
    "9.2": 4,
    "16.1": 1,
    "16.2": 5,
    "16.3": 4,
    "16.4": 3,
    "16.5": 4,
}
"""How many requirements each section of ASVS 5.0 has."""

ROWS = re.findall(r"^\| (\d+\.\d+\.\d+) \| (.+?) \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)))


@cache
def source(file: str) -> str:
    return (ROOT / file).read_text()


def test_a_test_that_the_page_names_exists() -> None:
    assert len(TESTS) > 40
    assert [(file, name) for file, name in TESTS if not re.search(rf"^(async )?def {name}\(", source(file), re.MULTILINE)] == []


def test_each_requirement_of_the_four_chapters_has_one_row() -> None:
    required = {f"{section}.{number}" for section, count in SECTIONS.items() for number in range(1, count + 1)}
    listed = [number for number, *_ in ROWS]

    assert sorted(listed) == sorted(required)


def test_each_row_has_a_test_or_a_reason() -> None:
    for number, _, met, why in ROWS:
        assert met in ("yes", "part", "app", "no"), number
        named = re.sub(r"`tests/[^`]+`(, )?", "", why).strip(". ")
        if met in ("yes", "part"):
            assert "`tests/" in why, number
        if met in ("part", "app", "no"):
            assert named, number
