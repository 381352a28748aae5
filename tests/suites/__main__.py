"""Run the suites: make the environments, fetch the sources, and compare the figures.

``python -m tests.suites FOLDER [--only NAME]... [--repository NAME=PATH]...``

A package whose source distribution lacks its tests has them from its repository at the tag of the release: a clone, a bare repository or
an unpacked archive at ``PATH``, or else a clone that this makes where the network permits it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LARGE = ["nicegui==3.18.0", "gradio==6.31.0", "marimo==0.25.2"]
PAGE = "docs/how-to/larger-apps-with-sessions.md"
CLONE_S = 300
"""Longest time that a clone may take, in seconds."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A package's own tests.

    Attributes:
        release: the package and its release.
        passed: the number of tests that pass at least. None may fail.
        repository: where the tests are, at the tag of the release, if the source distribution lacks them.
        tests: the files and folders of the tests.
        plugin: puts our middleware there: in the place of Starlette's, or around each app.
        needs: what the tests import besides.
        group: the dependency group of the package in which it names what its tests import.
        options: of pytest.
        without: tests that fail, or say nothing about a middleware.
    """

    release: str
    passed: int
    repository: str | None = None
    tests: tuple[str, ...] = ("tests",)
    plugin: str = "swap"
    needs: tuple[str, ...] = ()
    group: str | None = None
    options: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.release.partition("==")[0]

    @property
    def tag(self) -> str:
        return self.release.partition("==")[2]


class NotHere(Exception):
    """The tests of a package cannot be had."""


SUITES = [
    Suite(
        "starlette==1.10.0",
        1408,
        needs=("starlette[full]", "pytest", "trio", "httpx2[zstd]", "opentelemetry-sdk"),
        # Fails for root, who may read every folder.
        without=("tests/test_staticfiles.py::test_staticfiles_with_invalid_dir_permissions_returns_401",),
    ),
    Suite(
        "fastapi==0.165.0",
        5202,
        plugin="wrap",
        needs=("fastapi[all]",),
        group="tests",
        options=("-n", "auto", "--dist", "loadgroup", "-p", "no:sugar", "--ignore=tests/benchmarks", "--ignore=tests/memory_benchmarks"),
        # Starts processes, in which our middleware is not.
        without=("tests/test_telemetry/test_environment_integrations.py",),
    ),
    Suite(
        "marimo==0.24.0",
        226,
        repository="https://github.com/marimo-team/marimo",
        # Authentication, middleware, WebSockets and streams.
        tests=(
            *("tests/_server/api/test_auth.py", "tests/_server/api/test_middleware.py"),
            *(f"tests/_server/api/endpoints/test_{name}.py" for name in ("login", "resume_session", "kiosk", "terminal", "sse")),
            *(f"tests/_server/api/endpoints/test_ws{name}.py" for name in ("", "_message_loop", "_rtc", "_session_connector")),
            "tests/_server/api/endpoints/ws",
        ),
        needs=("pytest<9.1", "pytest-asyncio", "pytest-timeout", "httpx<0.29", "inline-snapshot", "dirty-equals"),
        options=("-o", "asyncio_mode=auto"),
    ),
    Suite(
        "starlette-login==1.0.2",
        39,
        repository="https://github.com/jockerz/Starlette-Login",
        needs=("pytest", "pytest-asyncio", "httpx", "python-multipart"),
        options=("-o", "asyncio_mode=auto"),
    ),
]


def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def require(command: list[str | Path]) -> None:
    done = run(command)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def environment(folder: Path, *packages: str | Path) -> Path:
    """Return the Python of an environment that has our package and these packages: one more may change how another's tests go."""
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        require([sys.executable, "-m", "venv", folder / "environment"])
    require([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"])
    require([python, "-m", "pip", "install", "--quiet", "--editable", str(ROOT), *packages])
    return python


def source_of(suite: Suite, folder: Path, repository: Path | None) -> Path:
    """Return the folder with a package's tests.

    Raises:
        NotHere: its repository cannot be cloned.
    """
    if suite.repository is None:
        return unpacked(suite, folder)
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    if repository is not None and (repository / "tests").is_dir():
        shutil.copytree(repository / "tests", source / "tests")
    else:
        # The tests alone: the package itself comes from its wheel, which has files that are built for it.
        archive = folder / "tests.tar"
        git = ["git", "-C", str(repository or cloned(suite, folder)), "archive", f"--output={archive}", suite.tag, "tests"]
        require([*git])
        with tarfile.open(archive) as opened:
            opened.extractall(source, filter="data")
    return source


def cloned(suite: Suite, folder: Path) -> Path:
    """Return a clone of a package's repository at the tag of its release."""
    clone = folder / "repository"
    if not clone.exists():
        git = ["git", "clone", "--quiet", "--depth=1", f"--branch={suite.tag}", str(suite.repository), str(clone)]
        try:
            done = run([*git], timeout=CLONE_S, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
        except subprocess.TimeoutExpired:
            raise NotHere(f"no clone of {suite.repository} within {CLONE_S} s") from None
        if done.returncode:
            raise NotHere(f"{suite.repository} cannot be cloned here: {done.stderr.strip()}")
    return clone


def unpacked(suite: Suite, folder: Path) -> Path:
    """Return the folder with a package's source distribution, because wheels have no tests."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={suite.name}"]
    require([*pip, "--dest", folder, suite.release])
    [archive] = folder.glob(f"{suite.release.replace('==', '-')}.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def no_settings(folder: Path) -> Path:
    """Return settings of pytest that say nothing: a package's own may name plugins that are not here, or make its warnings errors."""
    settings = folder / "pytest.ini"
    settings.write_text("[pytest]\n")
    return settings


def passes(suite: Suite, folder: Path, repository: Path | None) -> bool:
    """Run a suite with our middleware, print its figure, and return whether it is the expected one, or cannot be had."""
    folder.mkdir(exist_ok=True)
    try:
        source = source_of(suite, folder, repository)
    except NotHere as exc:
        print(f"{suite.release}: NOT RUN: {exc}. Give its repository: --repository {suite.name}=PATH", flush=True)
        return True
    group = ["--group", f"{source}/pyproject.toml:{suite.group}"] if suite.group else []
    python = environment(folder, suite.release, *suite.needs, *group)
    settings = no_settings(folder)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(folder)])}
    (folder / "our_middleware.py").write_text((Path(__file__).parent / f"{suite.plugin}.py").read_text())
    options = ["-q", "-p", "our_middleware", "-p", "no:cacheprovider", "-c", str(settings), "--rootdir", str(source), *suite.options]
    left_out = [f"--deselect={test}" for test in suite.without]
    done = run([python, "-m", "pytest", *options, *left_out, *suite.tests], cwd=source, env=environ)
    found = re.search(r"(\d+) passed", done.stdout)
    passed = int(found[1]) if found else 0
    print(f"{suite.release}: {passed} of {suite.passed} passed", flush=True)
    if done.returncode or passed < suite.passed:
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
    parser = argparse.ArgumentParser(prog="python -m tests.suites")
    parser.add_argument("folder", type=lambda path: Path(path).absolute(), help="of the environments and sources")
    parser.add_argument("--only", action="append", metavar="NAME", help="run the suite of this package, and none but those named so")
    parser.add_argument("--repository", action="append", default=[], metavar="NAME=PATH", help="where the tests of a package are")
    asked = parser.parse_args()
    repositories: Mapping[str, str] = dict(each.split("=", 1) for each in asked.repository)
    folder: Path = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for suite in SUITES:
        if asked.only is None or suite.name in asked.only:
            known = repositories.get(suite.name)
            results.append(passes(suite, folder / suite.release, None if known is None else Path(known).absolute()))
    if asked.only is None:
        results.append(page_runs(environment(folder, "--group", f"{ROOT}/pyproject.toml:test", *LARGE), folder))
    raise SystemExit(not all(results))


if __name__ == "__main__":
    main()
