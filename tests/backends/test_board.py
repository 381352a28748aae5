"""The contracts run against the backend of the page, as its author runs them."""

from __future__ import annotations

import pytest

from .board import BLOCKS, page

pytestmark = pytest.mark.anyio

TestBoardLog = page.TestBoardLog
TestShelfStore = page.TestShelfStore


def test_a_whole_backend_has_less_than_a_hundred_lines() -> None:
    whole = BLOCKS[0]
    assert "class BoardBackend(Backend)" in whole
    assert "(ClusterLog)" in whole
    assert len([line for line in whole.splitlines() if line.strip()]) < 100
