"""How hypothesis searches: the same examples each time, or new ones with `--hypothesis-profile=hunt`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported: shards have threads of their own

from hypothesis import settings

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("hunt", deadline=None, max_examples=500)
settings.load_profile("quick")
