"""How hypothesis searches: the same examples each time, or new ones with `--hypothesis-profile=hunt`."""

import os

# Read when NumPy is imported, here and in the programs that tests run. With more threads BLAS has other bits.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from hypothesis import HealthCheck, settings

on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", on_a_busy_machine, derandomize=True, max_examples=30)
settings.register_profile("hunt", on_a_busy_machine, max_examples=500)
settings.load_profile("quick")
