"""The formats of files: each between a tree and bytes, and none knows of disks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fnn.files import npz, pickles, safetensors
from fnn.tree import Tree


class Format(NamedTuple):
    """`encode(tree)` is the file's content in pieces, and `decode(data)` a new tree; ValueError says what is amiss.

    A flat format knows of no nesting: it takes trees of numbers only, and what it decodes is a dict of arrays by their
    paths.
    """

    encode: Callable[[Tree], Sequence[Any]]
    decode: Callable[[bytes], Tree]
    flat: bool


FORMATS = {
    ".pkl": Format(pickles.encode, pickles.decode, flat=False),
    ".npz": Format(npz.encode, npz.decode, flat=True),
    ".safetensors": Format(safetensors.encode, safetensors.decode, flat=True),
}
"""By the suffix of a file's name."""
