"""Mutated files, requests and responses: each gives a clear error or a right result, with little memory and time."""

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("fcntl")  # not on Windows
pytest.importorskip("safetensors")
pytest.importorskip("PIL.Image")

from tests.support.children import child
from tests.support.readers import READERS, count_outcomes

pytestmark = [pytest.mark.stress, pytest.mark.skipif(sys.platform != "linux", reason="needs fork and RLIMIT_AS")]

MEMORY = 1 << 29  # bytes for the reader, in addition to those of Python and the packages


@pytest.mark.parametrize("name", READERS)
def test_mutations_give_a_clear_error_or_a_right_result(
    tmp_path: Path, trials: int, rng: random.Random, counts: Counter[str], name: str
) -> None:
    (tmp_path / "folder").mkdir()

    def read() -> int:
        with READERS[name](tmp_path / "folder") as reader:
            os.environ["TMPDIR"] = str(tmp_path)
            return count_outcomes(reader, trials * reader.per_trial, rng)

    with child(read, tmp_path / "output.txt", tmp_path, memory=MEMORY) as process:
        status = process.wait(60 + 60 * trials)
    output = (tmp_path / "output.txt").read_text()
    assert status == 0, f"status {status}: {output}"
    counts.update(json.loads(output.splitlines()[-1]))
    assert not any(what.startswith("FAILED") for what in counts), output
    assert counts["refused"] > 0
