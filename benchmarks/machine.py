"""The machine and this process's part of it: cores, memory, and what else is running. Linux tells all, others less."""

import os
import platform
import re
from pathlib import Path
from time import monotonic


def processor() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    return found[1] if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(threads: int) -> None:
    """Keeps this process, and what it starts, to the first `threads` of the cores that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def peak_mb() -> float | None:
    """The most memory that this process has held, in megabytes."""
    found = re.search(r"VmHWM:\s*(\d+) kB", _read("/proc/self/status"))
    return int(found[1]) * 1024 / 1e6 if found else None


class Others:
    """How many cores other programs keep busy, from when it is made."""

    def __init__(self) -> None:
        self._start = monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Their number on average so far, counting as ours this process and those of its children that have ended."""
        start, busy, own = self._start
        now = _busy_seconds()
        if now is None or busy is None:
            return None
        return max(0.0, (now - busy) - (_own_seconds() - own)) / (monotonic() - start)


def _busy_seconds() -> float | None:
    """The seconds that all cores have worked since the system started, what a host took from them included."""
    found = re.match(r"cpu +" + r"(\d+) " * 8, _read("/proc/stat"))
    if not found:
        return None
    user, nice, system, _idle, _iowait, *rest = map(int, found.groups())
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])


def _read(path: str) -> str:
    """The text of one of Linux's files about itself; nothing where there is none."""
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
