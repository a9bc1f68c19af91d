"""The frameworks that are compared, each with its options and the environment of its processes."""

from importlib import import_module
from typing import NamedTuple

from benchmarks.workloads import Step, Workload

OLD = "old"
"""The name of another checkout of fnn."""

ISAS = {
    "avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    }
}
"""Environment variables that limit all peers to a part of the processor's instructions."""


class Peer(NamedTuple):
    """A framework with options."""

    package: str
    options: dict[str, bool] = {}  # noqa: RUF012
    """Keyword arguments for `step` in the package's module."""

    images_only: bool = False
    """Whether the options matter for images only."""

    tasks: tuple[str, ...] = ("train", "predict", "vjp")
    """What it is compared in."""

    def takes(self, workload: Workload) -> bool:
        """Whether the peer is compared in this workload."""
        return workload.task in self.tasks and (workload.images or not self.images_only)

    def step(self, workload: Workload, threads: int) -> Step:
        """Imports the package and returns a step; errors of the package are raised as they are."""
        step: Step = import_module(f"benchmarks.{self.package}_peer").step(workload, threads, **self.options)
        return step

    def environment(self, threads: int, isa: str | None = None) -> dict[str, str]:
        """Returns environment variables that limit a process to `threads` threads on the CPU, and to a part of ISAS."""
        blas = 1 if self.package == "fnn" else threads  # fnn has its own threads, with one BLAS thread each
        eigen = "true" if threads > 1 else "false"
        limits = ISAS[isa] if isa else {}
        xla = f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}"
        alone = {} if self.package == "fnn" else {"FNN_KEEP_PAGES": "0"}  # it reads the workloads, which import fnn
        return {
            **limits,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(blas)),
            "XLA_FLAGS": " ".join([limits.get("XLA_FLAGS", ""), xla]).strip(),
            "JAX_PLATFORMS": "cpu",
            **alone,
        }


PEERS = {
    "fnn": Peer("fnn"),
    OLD: Peer("fnn"),
    "torch": Peer("torch"),
    "torch-channels-last": Peer("torch", {"channels_last": True}, images_only=True),
    "torch-compile": Peer("torch", {"channels_last": True, "compiled": True}, tasks=("train", "predict")),
    "jax": Peer("jax"),
    "onnxruntime": Peer("onnxruntime", tasks=("predict",)),
}
"""All peers, by the names for the command line; the others are compared with fnn."""


def missing(error: ImportError) -> str:
    """Returns the line that says which package is missing and how to install it."""
    return f"the package {error.name} is missing; run pip install '.[benchmarks]'" if error.name else str(error)
