"""The rules and the manager know no storage: they work where no backend of this package is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)


EACH_MODULE = """
import importlib
import pkgutil
import tests.without_backends
import ha_session_mw
names = [found.name for found in pkgutil.walk_packages(ha_session_mw.__path__, "ha_session_mw.", onerror=lambda name: None)]
for name in names:
    if not name.startswith("ha_session_mw.backends"):
        importlib.import_module(name)
print(len(names))
"""


def test_each_module_is_imported_without_any_backend() -> None:
    """``tests/test_layers.py`` shows that no function of the rules imports one later. ``make prove`` runs their tests without backends."""
    ran = python("-c", EACH_MODULE)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout) > 100


def test_the_tests_of_the_manager_pass_without_any_backend() -> None:
    ran = python(
        "-m", "pytest", "-q", "-p", "tests.without_backends", "-p", "no:cacheprovider", "-k", "not memory", "tests/test_manager.py"
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert " passed" in ran.stdout


NONE_IS_GIVEN = """
import tests.without_backends
from ha_session_mw import SessionManager, Settings
print("imported")
SessionManager(Settings(secret_key="N3vcRw8ZpTq5YhK1sXjG7bLd0FmUe2Ay"))
"""


def test_the_package_is_imported_and_a_backend_is_missed_only_where_none_is_given() -> None:
    ran = python("-c", NONE_IS_GIVEN)
    assert ran.stdout == "imported\n"
    assert "ha_session_mw.backends is left out" in ran.stderr
