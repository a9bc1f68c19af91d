"""Large files need memory for their content only."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fnn
from tests.support.damage import SUFFIXES
from tests.support.memory import peak_of_load

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc/self/status"),
]

SIZE = 500_000_000  # bytes


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_of_500_megabytes_needs_at_most_one_and_a_half_times_as_much(
    tmp_path: Path, counts: Counter[str], suffix: str, count: int
) -> None:
    pytest.importorskip("safetensors")
    path, w = tmp_path / f"params{suffix}", np.arange(SIZE // 4 // count, dtype=np.float32)
    fnn.save(path, {f"w{i}": w + np.float32(i) for i in range(count)})
    try:
        size = path.stat().st_size
        counts["percent of the size of the file"] = round(100 * peak_of_load(path) / size)
    finally:
        path.unlink()
    assert size > SIZE
    assert counts["percent of the size of the file"] < 150
