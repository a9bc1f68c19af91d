"""The lanes of the tests: only `-m stress` runs tests/stress."""

import re

import pytest

from tests.support.programs import ROOT, python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "is_run"),
    [
        ([], False),
        (["-m", "not slow"], False),
        (["-m", "slow"], False),
        (["-m", "not slow or slow"], False),
        (["-m", "stress"], True),
        (["-m", "stress and not slow"], True),
    ],
)
def test_only_the_stress_lane_runs_the_stress_tests(flags: list[str], is_run: bool) -> None:
    done = python("-m", "pytest", "--collect-only", *flags, ROOT / "tests" / "stress" / "test_exits.py")
    count = len(re.findall("::test_", done.stdout))
    assert (done.returncode, count > 0) == ((0, True) if is_run else (5, False)), done.stdout  # 5: no tests
