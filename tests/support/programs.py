"""Runs Python programs in new processes; their output does not depend on the environment of the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

VERBOSE = ("PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE", "PYTHONWARNINGS")
"""Variables that make Python itself print more."""


def environment(**changes: str) -> dict[str, str]:
    """Returns the environment without VERBOSE, with the library first in Python's path, plus `changes`."""
    variables = {name: value for name, value in os.environ.items() if name not in VERBOSE}
    paths = [changes.get("PYTHONPATH"), str(ROOT), os.environ.get("PYTHONPATH")]
    return variables | changes | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def python(*arguments: object, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python with these arguments and changed environment variables."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=300)
