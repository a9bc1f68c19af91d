"""`parse_net`: the inverse of `repr`; any other text is a clear error, and nothing in it is evaluated."""

import builtins
import re
import time
import tracemalloc
from collections.abc import Callable
from enum import IntEnum, StrEnum
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest

import fnn
from examples import denoise, mnist, residual, transformer
from fnn import Op, OpError, conv, dense, operator, parse_net, relu, repeat, serial, tanh
from fnn.inspection.text import MAX_DEPTH, MAX_LENGTH, MAX_OPERATORS
from fnn.init import constant, truncated_normal
from fnn.op import Array, Shape
from fnn.random import Rng
from fnn.testing.table import TABLE, Example
from tests.support.documents import code_blocks
from tests.test_nesting import KINDS, drawn, noise
from train import NETS
