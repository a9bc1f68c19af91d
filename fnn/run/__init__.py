"""Training in a folder: a run can be stopped at any time and continues with identical results.

You can understand the rest of the library without reading this package; `train.py` is built from it.
"""

from fnn.run.data import add_data, read_data
from fnn.run.exits import catch_signals, exit_status
from fnn.run.faults import NotFiniteError
from fnn.run.flags import format_settings
from fnn.run.folder import (
    PARAMS,
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
from fnn.run.settings import IMAGES, Config
from fnn.run.task import Metrics, Schedule, State, Step, Task, evaluate, final, start, steps
from fnn.run.training import choose_settings, program, run_task

__all__ = [
    "IMAGES",
    "PARAMS",
    "Config",
    "Metrics",
    "NotFiniteError",
    "RunError",
    "SavedRun",
    "Schedule",
    "State",
    "Step",
    "Task",
]
__all__ += [
    "add_data",
    "catch_signals",
    "check_config",
    "choose_settings",
    "describe_progress",
    "evaluate",
    "exit_status",
]
__all__ += ["export_run", "final", "format_accuracy", "format_net", "format_settings", "load_run", "locked"]
__all__ += ["program", "read_data", "read_metrics", "read_state", "run_task", "start", "steps", "train"]
__all__ += ["write_config"]
