"""The two settings of the process that fnn changes, why, and how to turn them off.

`FNN_KEEP_PAGES=0` in the environment turns off `keep_pages`, and `FNN_LIMIT_BLAS=0` turns off `limited_blas`.
"""

from __future__ import annotations

import os
import warnings
from _thread import allocate_lock  # threading takes half a millisecond to import
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from fnn.kernels.threads import cores as cores
from fnn.kernels.threads import parallel_map as parallel_map

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
"""Environment variables that limit the threads of BLAS. BLAS reads them when NumPy is imported."""


def keep_pages() -> None:
    """Makes the allocator keep the memory of freed arrays; `import fnn` calls this.

    By default, glibc returns arrays of megabytes to the system when they are freed, and a training step then spends
    most of its time on page faults. Its threshold follows the largest block freed so far, up to 32 MB: freeing one
    block of just under 32 MB raises it for good. The block is never written to, so it takes no memory.
    """
    if os.environ.get("FNN_KEEP_PAGES") != "0":
        np.empty((32 << 20) - 8192, np.uint8)


@contextmanager
def limited_blas() -> Iterator[None]:
    """Limits BLAS to one thread in a `with` block, if threadpoolctl is installed.

    Otherwise the threads of BLAS and those of `shard` compete for the cores, and the last bits of long sums depend on
    the number of threads. The limit holds for the whole process while any thread is in such a block. It takes 4 µs.
    """
    global _blocks
    if not (libraries := blas_libraries()):
        yield
        return
    with _lock:
        _blocks += 1
        if _blocks == 1:
            for library in libraries:
                libraries[library] = library.get_num_threads()
                library.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                for library, threads in libraries.items():
                    library.set_num_threads(threads)


_lock = allocate_lock()
_blocks = 0  # how many `with` blocks of `limited_blas` are active now


@cache
def blas_libraries() -> dict[Any, int]:
    """The BLAS libraries that use several threads, for each the number of threads to restore."""
    if os.environ.get("FNN_LIMIT_BLAS") == "0":
        return {}
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return {}
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return {library: threads for library in libraries if (threads := library.get_num_threads()) > 1}


@cache
def warn_if_blas_is_unlimited() -> None:
    """Warns, once, if BLAS may use several threads and `limited_blas` cannot change that."""
    if os.environ.get("FNN_LIMIT_BLAS") == "0" or any(os.environ.get(name) == "1" for name in BLAS_VARIABLES):
        return
    if find_spec("threadpoolctl") is None:
        warnings.warn(
            "shard: BLAS may use several threads beside those of shard, which makes both slow; set "
            "OPENBLAS_NUM_THREADS=1 before you import NumPy, or pip install '.[threads]'",
            RuntimeWarning,
            stacklevel=4,
        )
