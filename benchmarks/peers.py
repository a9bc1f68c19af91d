"""The frameworks that are compared, each with its options and the variables that limit its threads."""

from importlib import import_module
from typing import NamedTuple

from benchmarks.workloads import Step, Workload


class Peer(NamedTuple):
    """A framework with options."""

    package: str
    options: dict[str, bool] = {}  # noqa: RUF012
    """Keyword arguments for `step` in the package's module."""

    images_only: bool = False
    """Whether the options matter for images only."""

    def step(self, workload: Workload, threads: int) -> Step:
        """Imports the package and returns a step; errors of the package are raised as they are."""
        step: Step = import_module(f"benchmarks.{self.package}_peer").step(workload, threads, **self.options)
        return step

    def environment(self, threads: int) -> dict[str, str]:
        """Returns environment variables that limit a process to `threads` threads on the CPU."""
        blas = 1 if self.package == "fnn" else threads  # fnn has its own threads, with one BLAS thread each
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
"""All peers, by the names for the command line; the others are compared with fnn."""
