"""A run: training that is kept in a folder, can be stopped anywhere, and goes on to the same bits."""

from fnn.run.data import read, with_data
from fnn.run.exits import status
from fnn.run.faults import NotFiniteError
from fnn.run.folder import (
    BEST,
    CONFIG,
    METRICS,
    STATE,
    Config,
    RunError,
    agreed,
    read_config,
    read_metrics,
    read_state,
    write_config,
)
from fnn.run.lock import claimed
from fnn.run.loop import train
from fnn.run.progress import result, told
from fnn.run.ranks import over_ranks
from fnn.run.signals import noted
from fnn.run.task import Metrics, Ranks, State, Task, final, start, steps, tested

__all__ = [
    "BEST",
    "CONFIG",
    "METRICS",
    "STATE",
    "Config",
    "Metrics",
    "NotFiniteError",
    "Ranks",
    "RunError",
    "State",
    "Task",
    "agreed",
    "claimed",
    "final",
    "noted",
    "over_ranks",
    "read",
    "read_config",
    "read_metrics",
    "read_state",
    "result",
    "start",
    "status",
    "steps",
    "tested",
    "told",
    "train",
    "with_data",
    "write_config",
]
