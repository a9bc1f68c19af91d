"""Who is timed: each framework in each way of using it, with what keeps it to a number of threads."""

from importlib import import_module
from typing import NamedTuple

from benchmarks.workloads import Step, Workload


class Peer(NamedTuple):
    """A framework, in one of the ways of using it."""

    package: str
    options: dict[str, bool] = {}  # noqa: RUF012
    """What the `step` of the package's module takes beside the workload and the threads."""

    images_only: bool = False
    """Whether the way differs from the package's plain one for images only."""

    def step(self, workload: Workload, threads: int) -> Step:
        """One step, ready to be called; it imports the package, and raises what the package raises."""
        step: Step = import_module(f"benchmarks.{self.package}_peer").step(workload, threads, **self.options)
        return step

    def environment(self, threads: int) -> dict[str, str]:
        """The variables that keep a process to `threads` threads on the CPU; set before its first import."""
        blas = 1 if self.package == "fnn" else threads  # fnn's threads are its own, and BLAS is held to one in each
        eigen = "true" if threads > 1 else "false"
        return {
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(blas)),
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}",
            "JAX_PLATFORMS": "cpu",
        }


PEERS = {
    "fnn": Peer("fnn"),
    "torch": Peer("torch"),
    "torch-channels-last": Peer("torch", {"channels_last": True}, images_only=True),
    "torch-compile": Peer("torch", {"channels_last": True, "compiled": True}),
    "jax": Peer("jax"),
}
"""All of them, by the names that the command takes; fnn is what the others are compared with."""
