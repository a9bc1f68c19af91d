"""Information about the machine and this process: cores, memory, other programs. Only Linux provides all of it."""

import os
import platform
import re
from pathlib import Path
from time import monotonic


def processor() -> str:
    """Returns the processor's name."""
    found = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    return found[1] if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(threads: int) -> None:
    """Restricts this process and its children to the first `threads` of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def peak_mb() -> float | None:
    """Returns the peak memory of this process in megabytes."""
    found = re.search(r"VmHWM:\s*(\d+) kB", _read("/proc/self/status"))
    return int(found[1]) * 1024 / 1e6 if found else None


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
