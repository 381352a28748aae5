"""The drill behind a load balancer: all nodes are restarted, one after the other, while users click on."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import httpx2

from ha_session_mw import Settings

from . import balancer
from .balancer import Balancer
from .drill import WHOAMI, log_in, was_refused
from .processes import READY_WITHIN_S, running
from .servers import Server, new_secret
from .story import Story
from .visitor import Visitor, expect, told

USERS = 8
POSTS = 0.3
THINKS_S = 0.15


def tell(story: Story, nodes: Sequence[Server]) -> None:
    """Run the drill if a balancer is installed. All nodes are up when it ends."""
    kind = balancer.installed()
    if kind is None:
        story.say()
        story.say(f"  A rolling restart needs HAProxy or nginx, and neither is here: {balancer.HOW_TO_INSTALL}", "soft")
        return
    story.chapter(f"A rolling restart behind {balancer.TITLES[kind]}, while {USERS} users click on")
    with tempfile.TemporaryDirectory(prefix="ha-session-balancer-") as directory, ExitStack() as held:
        front = Balancer(kind, Settings(secret_key=new_secret()), [node.url for node in nodes], Path(directory))
        with story.step(f"{kind}, with the file of ha-session lb-config") as step:
            held.enter_context(running(front))
            step.told = f"listens at {front.url}"
        users = [held.enter_context(Visitor(front.url)) for _ in range(USERS)]
        with story.step("each user logs in, and stays on one node") as step:
            step.told = _each_at_its_node(users)
        began = time.perf_counter()
        with _clicking(users) as seen:
            for node in nodes:
                with story.step(f"{node.name}: SIGTERM, drained, and started again") as step:
                    step.told = _restarted(node)
        with story.step("the users, meanwhile") as step:
            failed = {kind: count for kind, count in seen.items() if kind not in ("GET 200", "POST 200")}
            expect(f"no failed request, not {failed}", not failed)
            step.took_s = time.perf_counter() - began
            step.told = f"{seen.total()} requests, {seen['POST 200']} of them POST: 0 failed, nobody logged out"
        _log_out(story, users[0], nodes)


def _each_at_its_node(users: Sequence[Visitor]) -> str:
    for user in users:
        log_in(user, "ada")
    places = [{str(user.get(WHOAMI).json()["answered_by"]) for _ in range(3)} for user in users]
    expect("one node for each user", all(len(place) == 1 for place in places))
    counts = Counter(name for place in places for name in place)
    return ", ".join(f"{count} on {name}" for name, count in sorted(counts.items()))


@contextmanager
def _clicking(users: Sequence[Visitor]) -> Iterator[Counter[str]]:
    """Have users click while the context is open; give the count of each kind of answer."""
    over = Event()

    def click(user: Visitor) -> Counter[str]:
        seen: Counter[str] = Counter()
        while not over.wait(random.uniform(0, 2 * THINKS_S)):
            method = "POST" if random.random() < POSTS else "GET"
            try:
                answer = user.post("/private/notes/0/toggle") if method == "POST" else user.get(WHOAMI)
            except httpx2.TransportError as failure:
                seen[f"{method} {type(failure).__name__}"] += 1
            else:
                seen[f"{method} {answer.status_code}"] += 1
        return seen

    found: Counter[str] = Counter()
    with ThreadPoolExecutor(len(users)) as aside:
        clicks = [aside.submit(click, user) for user in users]
        try:
            yield found
        finally:
            over.set()
        for one in clicks:
            found += one.result()


def _restarted(node: Server) -> str:
    began = time.perf_counter()
    node.end(READY_WITHIN_S)
    ended_s = time.perf_counter() - began
    node.start()
    node.wait_until_ready()
    return f"ended after {ended_s:.1f} s, ready {time.perf_counter() - began - ended_s:.1f} s later"


def _log_out(story: Story, user: Visitor, nodes: Sequence[Server]) -> None:
    copy = user.token
    with story.step("one logs out; a copy of the cookie, on all") as step:
        response = user.post("/logout")
        told(response, 200)
        expect("fenced", response.headers["session-revocation"] == "fenced")
        for node in nodes:
            with Visitor(node.url, copy) as thief:
                answer = thief.get(WHOAMI)
                expect("no accepted copy", was_refused(answer))
                step.told = f"fenced; {told(answer, 401, 'session_revoked')}"
