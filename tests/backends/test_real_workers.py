"""Four workers behind one port on etcd: once ``readyz`` passes, none of them is still starting. All waits have a limit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from ha_session_mw.testing import SECRET

from ..engines import Etcd
from ..waiting import LIMIT_S, end, until
from .test_real_gunicorn import APP, ROOT, url_of

pytestmark = pytest.mark.real

WORKERS = 4


def test_readyz_speaks_for_all_workers_behind_a_port(tmp_path: Path, one_etcd: Etcd) -> None:
    (tmp_path / "served.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener, httpx2.Client(trust_env=False, verify=False, timeout=LIMIT_S) as client:
        url, handle = url_of(listener), listener.fileno()
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")}
        ours = {"HA_SESSION_SECRET_KEY": SECRET, "HA_SESSION_CLUSTER": one_etcd.cluster("workers")}
        environ = {**outside, **ours, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        command = [sys.executable, "-m", "uvicorn", "served:app", "--fd", str(handle), "--workers", str(WORKERS), "--log-level", "warning"]
        process = subprocess.Popen(command, env=environ, pass_fds=[handle], start_new_session=True, cwd=tmp_path)

        def ask(path: str, **fields: str) -> httpx2.Response:
            return client.get(url + path, headers={"connection": "close", **fields})

        try:
            until(lambda: ask("/-/session/readyz").status_code == 200, "ready")
            answers = [ask("/-/session/readyz") for _ in range(8 * WORKERS)]
            assert {answer.status_code for answer in answers} == {200}
            token = client.post(url + "/login/ada", headers={"connection": "close", "session-transport": "bearer"}).headers["session-token"]
            seen: dict[str, set[int]] = {}

            def several_have_answered() -> bool:
                with ThreadPoolExecutor(4 * WORKERS) as threads:  # at once: requests one by one may all get to the same
                    for answer in threads.map(lambda _: ask("/private", authorization=f"Bearer {token}"), range(4 * WORKERS)):
                        seen.setdefault(answer.headers["x-worker"], set()).add(answer.status_code)
                return len(seen) > 1

            until(several_have_answered, "several workers have answered")
            assert set().union(*seen.values()) == {200}
        finally:
            end(process, LIMIT_S, with_group=True)
