"""Measures the memory that `load` needs."""

from pathlib import Path

from tests.support.programs import python

PEAK = """
import sys
from fnn import load
import pickletools, zipfile, safetensors.numpy

def kilobytes():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])

before, _ = kilobytes(), load(sys.argv[1])
print(kilobytes() - before)
"""


def peak_of_load(path: Path) -> int:
    """Returns by how many bytes the memory of a new process grows at most while it loads the file."""
    done = python("-c", PEAK, path)
    assert done.stderr == ""
    return int(done.stdout) << 10
