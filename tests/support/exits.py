"""Programs that end while a daemon thread works, for tests of what Python does at its exit."""

WORKERS = """
import threading, time
from fnn.kernels.threads import parallel_map
def forever():
    workers = 2
    while True:
        assert parallel_map(lambda i: i, workers, workers) == list(range(workers))
        workers = workers % 50 + 1
threading.Thread(target=forever, daemon=True).start()
time.sleep({delay})
"""
"""The thread uses a new number of workers again and again."""

FIRST_USE = """
import threading, time
from fnn.kernels.threads import parallel_map
def later():
    end = time.perf_counter() + {delay}
    while time.perf_counter() < end:
        pass
    for workers in (2, 3, 5):
        assert parallel_map(lambda i: i, workers, workers) == list(range(workers))
threading.Thread(target=later, daemon=True).start()
"""
"""The thread uses workers for the first time, at about the time when the main thread ends."""

STEPS = """
import threading, time
import numpy as np
import fnn
net = fnn.serial(fnn.dense(8), fnn.tanh, fnn.dense(3))
params, x, y = net.init(0, (4,)), np.ones((40, 4), np.float32), np.arange(40) % 3
def train():
    workers = 2
    while True:
        fnn.value_and_grad(fnn.shard(net, workers, 4), fnn.cross_entropy)(params, x, y)
        workers = workers % 20 + 1
threading.Thread(target=train, daemon=True).start()
time.sleep({delay})
"""
"""The thread takes training steps, each with a new number of workers."""

PROGRAMS = {"workers": WORKERS, "first use": FIRST_USE, "steps": STEPS}
