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
        passed: the number of tests that pass without our middleware, and so must pass with it.
        plugin: puts our middleware there: in the place of Starlette's, or around each app.
        needs: what the tests import besides.
        group: the dependency group of the package in which it names what its tests import.
        options: of pytest.
        without: tests that fail, or say nothing about a middleware.
    """

    release: str
    passed: int
    plugin: str = "swap"
    needs: tuple[str, ...] = ()
    group: str | None = None
    options: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


SUITES = [
    Suite(
        "starlette==1.10.0",
        1408,
        needs=("trio", "httpx", "jinja2", "itsdangerous", "pyyaml", "python-multipart", "opentelemetry-sdk"),
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
]


def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def require(command: list[str | Path]) -> None:
    done = run(command)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def environment(folder: Path, *packages: str | Path) -> Path:
    """Return the Python of an environment that has our package, what our tests need, and these packages."""
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        require([sys.executable, "-m", "venv", folder / "environment"])
    require([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"])
    ours = ["--editable", str(ROOT), "--group", f"{ROOT}/pyproject.toml:test"]
    require([python, "-m", "pip", "install", "--quiet", *ours, *packages])
    return python


def unpacked(suite: Suite, folder: Path) -> Path:
    """Return the folder with a package's source distribution, because wheels have no tests."""
    name = suite.release.partition("==")[0]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={name}"]
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


def passes(suite: Suite, folder: Path) -> bool:
    """Run a suite with our middleware, print its figure, and return whether it is the expected one."""
    folder.mkdir(exist_ok=True)
    source = unpacked(suite, folder)
    group = ["--group", f"{source}/pyproject.toml:{suite.group}"] if suite.group else []
    python = environment(folder, suite.release, *suite.needs, *group)
    settings = no_settings(folder)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(folder)])}
    (folder / "our_middleware.py").write_text((Path(__file__).parent / f"{suite.plugin}.py").read_text())
    options = ["-q", "-p", "our_middleware", "-p", "no:cacheprovider", "-c", str(settings), "--rootdir", str(source), *suite.options]
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
    results = [passes(suite, folder / suite.release) for suite in SUITES]
    results.append(page_runs(environment(folder, *LARGE), folder))
    raise SystemExit(not all(results))


if __name__ == "__main__":
    main()
