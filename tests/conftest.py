"""Two lanes: `pytest -m "not slow"` takes less than 45 s on two cores, `pytest` less than three minutes.

A third one, `pytest -m stress`, repeats random trials; `--trials` says how many. The other lanes leave it out.

Hypothesis takes few examples in the quick lane and more in the full one, the same each time. With
`--hypothesis-profile=hunt` it looks for new ones.
"""

import os
import shutil

# Read when NumPy is imported, here and in the programs that tests run. With more threads BLAS has other bits.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# Temporary files in memory: the tests open 10,000 files for writing, which takes 0.5 ms each on a disk.
MEMORY_FOLDER = "/dev/shm"
if os.access(MEMORY_FOLDER, os.W_OK) and shutil.disk_usage(MEMORY_FOLDER).free > 1 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY_FOLDER)

import pytest
from hypothesis import HealthCheck, settings

common = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", common, derandomize=True, max_examples=5)
settings.register_profile("full", common, derandomize=True, max_examples=30)
settings.register_profile("hunt", common, max_examples=500)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of the stress lane."""
    add = parser.getgroup("stress lane", "options of pytest -m stress").addoption
    text = "trials of each kind (default: 10); twice as many exits and edits, 1000 times as many mutations"
    add("--trials", type=int, default=10, metavar="N", help=text)
    add("--seed", type=int, metavar="N", help="seed of the trials (default: a new one, which is printed)")


def pytest_configure(config: pytest.Config) -> None:
    """Loads the hypothesis profile of the lane, unless the command line names one, and leaves out the stress lane."""
    marks = config.option.markexpr
    if config.getoption("--hypothesis-profile") is None:
        settings.load_profile("quick" if "not slow" in marks else "full")
    if "stress" not in marks:
        config.option.markexpr = f"({marks}) and not stress" if marks else "not stress"
