"""Damages files of trees, and says what `load` makes of them."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from fnn.files.checkpoint import CheckpointError, load
from tests.support.trees import EXAMPLE_TREE, assert_same, read_only

SUFFIXES = (".pkl", ".npz", ".safetensors")
SMALL = {name: leaf for name, leaf in EXAMPLE_TREE.items() if name != "name"} | {
    "é": {"x": read_only(np.arange(3, dtype=np.uint8))}
}


def outcome(path: Path, content: bytes, like: Any, expected: Any) -> str:
    """Loads a file with this content: "refused" if the error names the file, "read" if it has `expected`."""
    damaged = path.with_stem("damaged")
    damaged.write_bytes(content)
    try:
        loaded = load(damaged, like)
    except CheckpointError as error:
        message = str(error)
    else:
        assert_same(loaded, expected)
        return "read"
    assert message.startswith(f"{damaged}: ")
    assert len(message) < 2000
    return "refused"


def change_bytes(original: bytes, rng: random.Random) -> bytes:
    """Returns the content, truncated or with some bits or bytes changed, removed or inserted."""
    content, at = bytearray(original), rng.randrange(len(original))
    n = rng.randrange(1, 40)
    kind = rng.choice(["bit", "bit", "byte", "run", "end", "lost", "twice", "numbers"])
    if kind == "bit":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif kind == "run":
        content[at : at + n] = rng.randbytes(len(content[at : at + n]))
    elif kind == "end":
        del content[at:]
    elif kind == "lost":
        del content[at : at + n]
    elif kind == "twice":
        start = rng.randrange(len(original))
        content[at:at] = original[start : start + n]
    else:
        size = rng.choice([2, 4, 8])
        content[at : at + size] = rng.choice([0, 1, 1 << 14, (1 << 8 * size) - 1]).to_bytes(size, "little")
    return bytes(content)
