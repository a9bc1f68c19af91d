"""Makes a forward pass of onnxruntime from a workload, exported by `fnn.onnx`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime

from benchmarks.workloads import Step, Workload
from fnn.onnx import export


def step(workload: Workload, threads: int) -> Step:
    """Returns a forward pass."""
    params, x, _ = workload.data()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export(workload.net, params, workload.shape, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: (session.run(["output"], {"input": x})[0],)
