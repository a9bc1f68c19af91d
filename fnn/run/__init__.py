"""Training in a folder: a run can be stopped at any time and continues with identical results.

You can understand the rest of the library without reading this package; `train.py` is built from it.
"""

from fnn.run.data import add_data, read_data
from fnn.run.exits import catch_signals, exit_status
from fnn.run.faults import NotFiniteError
from fnn.run.folder import (
    BEST,
    IMAGES,
    Config,
    RunError,
    check_config,
    format_net,
    locked,
    read_metrics,
    read_state,
    write_config,
)
from fnn.run.loop import describe_progress, format_accuracy, train
from fnn.run.saved import SavedRun, export_run, load_run
from fnn.run.task import Metrics, State, Task, evaluate, final, start, steps

__all__ = ["BEST", "IMAGES", "Config", "Metrics", "NotFiniteError", "RunError", "SavedRun", "State", "Task"]
__all__ += ["add_data", "catch_signals", "check_config", "describe_progress", "evaluate", "exit_status", "export_run"]
__all__ += ["final", "format_accuracy", "format_net", "load_run", "locked", "read_data", "read_metrics", "read_state"]
__all__ += ["start", "steps", "train", "write_config"]
