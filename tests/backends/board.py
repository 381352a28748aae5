"""The backend that the page on backends writes: one that knows nothing of this package's."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-backend.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)

page = ModuleType("add_a_backend")
sys.modules[page.__name__] = page
for block in BLOCKS:
    exec(compile(block, str(PAGE), "exec"), vars(page))
