"""Run the suites: make the environment, fetch the source distributions, and compare the figures. The only argument is a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LARGE = ["nicegui==3.18.0", "gradio==6.31.0", "marimo==0.25.2"]
PAGE = "docs/how-to/larger-apps-with-sessions.md"


@dataclass(frozen=True, slots=True)
class Suite:
    """A package's own tests.

    Attributes:
        release: the package and its release.
        needs: what the tests import besides.
        passed: the number of tests that pass with the package's original middleware, and so must pass with ours.
        without: tests that fail for reasons of their own.
    """

    release: str
    needs: tuple[str, ...]
    passed: int
    without: tuple[str, ...] = ()


SUITES = [
    Suite(
        "starlette==1.10.0",
        ("trio", "httpx", "jinja2", "itsdangerous", "pyyaml", "python-multipart", "opentelemetry-sdk"),
        1408,
        # Fails for root, who may read every folder.
        ("tests/test_staticfiles.py::test_staticfiles_with_invalid_dir_permissions_returns_401",),
    ),
]


def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def require(command: list[str | Path]) -> None:
    done = run(command)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def environment(folder: Path) -> Path:
    """Return the Python of an environment that has all packages, which is made if it is not there."""
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        require([sys.executable, "-m", "venv", folder / "environment"])
    needs = [need for suite in SUITES for need in (suite.release, *suite.needs)]
    require([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"])
    require([python, "-m", "pip", "install", "--quiet", "--editable", str(ROOT), "--group", f"{ROOT}/pyproject.toml:test", *needs, *LARGE])
    return python


def unpacked(suite: Suite, python: Path, folder: Path) -> Path:
    """Return the folder with a package's source distribution, because wheels have no tests."""
    name = suite.release.partition("==")[0]
    require([python, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={name}", "--dest", folder, suite.release])
    [archive] = folder.glob(f"{suite.release.replace('==', '-')}.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def no_settings(folder: Path) -> Path:
    """Return settings of pytest that say nothing: a package's own may name plugins that are not here, or make its warnings errors."""
    settings = folder / "pytest.ini"
    settings.write_text("[pytest]\n")
    return settings


def passes(suite: Suite, python: Path, folder: Path) -> bool:
    """Run a suite with our middleware, print its figure, and return whether it is the expected one."""
    settings = no_settings(folder)
    source = unpacked(suite, python, folder)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(folder)])}
    (folder / "swap_in_our_middleware.py").write_text((Path(__file__).parent / "swap.py").read_text())
    options = ["-q", "-p", "swap_in_our_middleware", "-p", "no:cacheprovider", "-c", str(settings), "--rootdir", str(source)]
    left_out = [f"--deselect={test}" for test in suite.without]
    done = run([python, "-m", "pytest", *options, *left_out, "tests"], cwd=source, env=environ)
    found = re.search(r"(\d+) passed", done.stdout)
    passed = int(found[1]) if found else 0
    print(f"{suite.release}: {passed} of {suite.passed} passed", flush=True)
    if done.returncode or passed != suite.passed:
        print(done.stdout[-5000:], done.stderr[-2000:], sep="\n")
        return False
    return True


def page_runs(python: Path, folder: Path) -> bool:
    """Run the page of the docs that needs large packages."""
    options = ["-q", "-p", "no:cacheprovider", "-c", str(no_settings(folder)), "--rootdir", str(ROOT)]
    done = run([python, "-m", "pytest", *options, "tests/test_docs.py", "-k", "larger-apps and python"], cwd=ROOT)
    runs = done.returncode == 0 and "1 passed" in done.stdout
    print(f"{PAGE}: {'runs' if runs else 'fails'}", flush=True)
    if not runs:
        print(done.stdout[-5000:], done.stderr[-2000:], sep="\n")
    return runs


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    python = environment(folder)
    results = [*(passes(suite, python, folder) for suite in SUITES), page_runs(python, folder)]
    raise SystemExit(not all(results))


if __name__ == "__main__":
    main()
