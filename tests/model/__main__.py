"""``python -m tests.model``: every case within its wider bounds, and the consequence of each broken rule.

Fails if the right rules break an invariant, or if broken rules do not.
"""

from __future__ import annotations

import argparse
import sys
import time

from .questions import CASES, Question, model_of
from .search import Found, search
from .story import told


def searched(name: str, question: Question, most_states: int) -> Found:
    began = time.monotonic()
    model = model_of(question)
    found = search(model, most_states=most_states)
    print(f"{name}: {found.summary}, in {time.monotonic() - began:.0f} s", flush=True)
    if found.fault is not None:
        print(told(model, found), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--states", type=int, default=500_000, help="the most states of one question")
    parser.add_argument("--case", default="", help="only those whose name contains this")
    given = parser.parse_args()
    wrong = 0
    for case in (case for case in CASES if given.case in case.name):
        for question in (case.right, *case.wider):
            wrong += searched(f"{case.name}, by the rules as they are", question, given.states).fault is not None
        for variant, question in case.broken.items():
            wrong += searched(f"{case.name}, {variant}", question, given.states).fault is None
    print("no rule was seen broken, and each broken one was" if not wrong else f"{wrong} searches did not end as they should")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
