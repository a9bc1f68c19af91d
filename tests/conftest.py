"""How hypothesis searches: the same examples each time, or new ones with `--hypothesis-profile=hunt`."""

import os

# Read when NumPy is imported, here and in the programs that tests run. With more threads BLAS has other bits.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from hypothesis import settings

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("hunt", deadline=None, max_examples=500)
settings.load_profile("quick")
