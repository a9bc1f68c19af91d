"""Python ends quietly while a daemon thread starts more threads."""

import random
import subprocess
from collections import Counter

import pytest

from tests.support.exits import PROGRAMS
from tests.support.programs import python

pytestmark = pytest.mark.stress


def test_python_ends_quietly_while_a_daemon_thread_uses_new_numbers_of_workers(
    trials: int, rng: random.Random, counts: Counter[str]
) -> None:
    for number in range(2 * trials):
        name = list(PROGRAMS)[number % len(PROGRAMS)]
        code = PROGRAMS[name].format(delay=rng.choice([0.0, rng.uniform(0, 0.002), rng.uniform(0, 0.02)]))
        try:
            done = python("-W", "error", "-c", code)
        except subprocess.TimeoutExpired:
            counts[f"{name}: no end within 300 s"] += 1
            continue
        is_quiet = (done.returncode, done.stdout, done.stderr) == (0, "", "")
        counts[f"{name}: {'quiet ends' if is_quiet else f'status {done.returncode}, {done.stderr[-300:]!r}'}"] += 1
    assert sum(n for what, n in counts.items() if what.endswith("quiet ends")) == 2 * trials
