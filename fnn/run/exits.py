"""What a program says and returns when it cannot do what it was asked for, or is told to stop."""

import sys
from collections.abc import Callable

from fnn.data import DataError
from fnn.files.checkpoint import CheckpointError
from fnn.mpi import MPIError
from fnn.op import OpError
from fnn.run.faults import NotFiniteError
from fnn.run.folder import RunError
from fnn.run.signals import Interrupted, raised

TOLD = (CheckpointError, DataError, ImportError, MPIError, NotFiniteError, OpError, OSError, RunError)
"""The errors whose message says all that there is to say."""


def status(name: str, main: Callable[[], int]) -> int:
    """The exit status of a program: what `main` returns, 1 after an error of TOLD and 128 + n after signal n.

    Either is told in one line: an error, with its notes, after the program's name and on stderr.
    """
    try:
        with raised():
            return main()
    except TOLD as error:
        print(f"{name}: error:", "; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    except Interrupted as interrupt:
        print("stopped", flush=True)
        return 128 + interrupt.number
