"""Information about the machine and this process: cores, memory, other programs. Only Linux provides all of it."""

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic


def processor() -> str:
    """Returns the processor's name."""
    found = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    return found[1] if found else platform.processor() or platform.machine()


FORCING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES")
"""Environment variables that make NumPy use other code than the best for the processor, and no other framework."""


def forcing_variables(environment: Mapping[str, str]) -> str:
    """Returns the FORCING variables in the environment, as in a shell."""
    return " ".join(f"{name}={environment[name]}" for name in FORCING if name in environment)


def blas_kernel(environment: Mapping[str, str]) -> str:
    """Returns the BLAS that NumPy uses in a process with this environment, and for which processor it is made."""
    code = """
import numpy
from threadpoolctl import threadpool_info
for pool in threadpool_info():
    if pool["user_api"] == "blas":
        print(pool["internal_api"], pool["version"], "for", pool.get("architecture", "an unknown processor"))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if "No module named 'threadpoolctl'" in done.stderr:
        return "unknown; pip install '.[threads]' to see it"
    return done.stdout.strip() or "unknown"


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(threads: int) -> None:
    """Restricts this process and its children to the first `threads` of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def peak_mb() -> float | None:
    """Returns the peak memory of this process in megabytes."""
    return _status_mb("VmHWM")


def resident_mb() -> float | None:
    """Returns the present memory of this process in megabytes."""
    return _status_mb("VmRSS")


def _status_mb(name: str) -> float | None:
    found = re.search(rf"{name}:\s*(\d+) kB", _read("/proc/self/status"))
    return int(found[1]) * 1024 / 1e6 if found else None


def reset_peak() -> bool:
    """Returns freed memory to the system and lowers the peak to the present memory. Returns whether that worked."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    except OSError:
        return False
    return True


class Others:
    """Measures how many cores other programs use, from its creation on."""

    def __init__(self) -> None:
        self._start = monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Returns the mean number of cores used by others so far, without this process and its finished children."""
        start, busy, own = self._start
        now = _busy_seconds()
        if now is None or busy is None:
            return None
        return max(0.0, (now - busy) - (_own_seconds() - own)) / (monotonic() - start)


def _busy_seconds() -> float | None:
    """Returns the busy seconds of all cores since the system started, including time taken by the host."""
    found = re.match(r"cpu +" + r"(\d+) " * 8, _read("/proc/stat"))
    if not found:
        return None
    user, nice, system, _idle, _iowait, *rest = map(int, found.groups())
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])


def _read(path: str) -> str:
    """Returns the text of a file under /proc, or "" if there is none."""
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
