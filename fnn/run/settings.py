"""The settings of a run: what each must be, and what they were before config.json described the net and the input."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from fnn.data import SCALING

Config: TypeAlias = dict[str, Any]
"""All settings that determine the result, by name.

`net` is the net's `repr` in one line; the settings of IMAGES describe its input.
"""

IMAGES: Config = {"shape": [1, 28, 28], "scaling": SCALING, "classes": list("0123456789")}
"""The input of a net for MNIST: the shape of one example, which numbers scale the pixels, and the classes' names."""

NETS_BY_NAME = {
    "cnn": "serial(conv(6, 3, padding=1), maxpool(2), tanh, conv(12, 3, padding=1), maxpool(2), tanh, "
    "dense(512), tanh, dense(128), tanh, dense(10))",
    "fc": "serial(dense(512), sigmoid, dense(128), sigmoid, dense(10))",
    "deep": "serial(conv(32, 3, w_init=he_normal), relu, conv(32, 3, w_init=he_normal), relu, maxpool(2), "
    "conv(64, 3, w_init=he_normal), relu, conv(64, 3, w_init=he_normal), relu, maxpool(2), "
    "dense(256, w_init=he_normal), relu, dense(10))",
}
"""The nets of runs made before config.json had texts: such a run has only the name."""


def is_int(value: Any, least: int = 0, most: int = 2**63 - 1) -> bool:
    """Whether the value is an int in a range, by default from 0 to the largest of 64 bits."""
    return type(value) is int and least <= value <= most


def is_number(value: Any, least: float = 0, most: float = sys.float_info.max) -> bool:
    """Whether the value is a number in a range, by default a finite one from 0. JSON has nan, and ints of any size."""
    return type(value) in (int, float) and least <= value <= most


def _is_path(text: Any) -> bool:
    """Whether the value is a text that can be a path: not all Unicode texts can."""
    try:
        return isinstance(text, str) and 0 not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "shape": (
        f"a value like {IMAGES['shape']}",
        lambda shape: isinstance(shape, list) and bool(shape) and all(is_int(n, 1) for n in shape),
    ),
    "scaling": (
        f"a value like {IMAGES['scaling']}",
        lambda scaling: (
            isinstance(scaling, dict)
            and scaling.keys() == SCALING.keys()
            and is_number(scaling["divide_by"], 1e-9)
            and is_number(scaling["subtract"], -sys.float_info.max)
        ),
    ),
    "classes": (
        f"a value like {IMAGES['classes']}",
        lambda names: (
            isinstance(names, list)
            and bool(names)
            and all(isinstance(name, str) and name.isprintable() for name in names)
        ),
    ),
    "net": ("a net as text", lambda net: isinstance(net, str)),
    **dict.fromkeys(("epochs", "batch_size", "shard_size"), ("an integer from 1", lambda n: is_int(n, 1))),
    **dict.fromkeys(("seed", "validation"), ("an integer from 0", is_int)),
    "shift": ("an integer from 0 to 28", lambda n: is_int(n, 0, 28)),
    "lr": ("a number above 0", lambda x: is_number(x) and x > 0),
    "weight_decay": ("a number from 0", is_number),
    **dict.fromkeys(("momentum", "smoothing"), ("a number from 0 to below 1", lambda x: is_number(x) and x < 1)),
    "limit": ("null or an integer from 1", lambda n: n is None or is_int(n, 1)),
    "data": ("null or a path", lambda source: source is None or _is_path(source)),
    "data_sha256": ("null or a text", lambda digest: digest is None or isinstance(digest, str)),
    "affine": (
        "three numbers from 0 to 180, 0.9 and 1",
        lambda xs: isinstance(xs, list) and len(xs) == 3 and all(map(is_number, xs, (0, 0, 0), (180, 0.9, 1))),
    ),
}
"""What a setting must be, by name, and whether a value is that: someone may have edited the configuration."""
