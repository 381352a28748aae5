"""Starlette's own tests of its session middleware, run against ours with nothing but the import changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SDIST = "starlette==1.10.*"
NEEDED = ("tests/__init__.py", "tests/conftest.py", "tests/types.py", "tests/middleware/__init__.py", "tests/middleware/test_session.py")
IMPORT = "from starlette.middleware.sessions import"
PASSING = 29


def download(folder: Path) -> Path:
    """Starlette's source distribution. Its tests are not in the wheel, and are not ours to keep."""
    options = ["--quiet", "--no-deps", "--no-binary=starlette", "--no-build-isolation", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, SDIST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = list(folder.glob("starlette-*.tar.gz"))
    if done.returncode or not found:
        pytest.fail(f"the source distribution of {SDIST} cannot be had, and without it nothing is proved:\n{done.stderr}")
    return found[0]


def unpack(sdist: Path, folder: Path) -> None:
    with tarfile.open(sdist) as archive:
        top = archive.getnames()[0].partition("/")[0]
        for name in NEEDED:
            source = archive.extractfile(f"{top}/{name}") if f"{top}/{name}" in archive.getnames() else None
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read() if source else b"")


@pytest.mark.long
def test_starlettes_own_session_tests_pass_with_only_the_import_changed(tmp_path: Path) -> None:
    unpack(download(tmp_path), tmp_path)
    tests = tmp_path / "tests/middleware/test_session.py"
    theirs = tests.read_text()
    assert theirs.count(IMPORT) == 1
    tests.write_text(theirs.replace(IMPORT, "from ha_session_mw import"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini", "tests/middleware/test_session.py"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert f"{PASSING} passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout
