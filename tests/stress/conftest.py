"""What the tests of the stress lane share: a number of trials, a seed, and counts that are printed at the end."""

import os
import random
from collections import Counter

import pytest

COUNTS: dict[str, Counter[str]] = {}
SEED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Chooses the seed, and fails if a test of this folder lacks the mark."""
    seed = config.getoption("--seed")
    config.stash[SEED] = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    here = os.path.dirname(__file__)
    assert all(item.get_closest_marker("stress") for item in items if str(item.path).startswith(here))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the seed, and what each test did."""
    if COUNTS:
        terminalreporter.section(f"trials, --seed {config.stash[SEED]}")
        for name, counts in COUNTS.items():
            terminalreporter.line(f"{name}:")
            terminalreporter.line(f"    {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}")


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int:
    """How many trials of each kind."""
    n: int = request.config.getoption("--trials")
    return n


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the seed and on the name of the test."""
    return random.Random(f"{request.config.stash[SEED]} {request.node.name}")


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Counter[str]:
    """Counts by outcome, which are printed at the end."""
    return COUNTS.setdefault(request.node.name.removeprefix("test_"), Counter())
