"""Kernels of the activations, dropout and pooling: masks, and exact sums and means."""

from fnn.kernels.masks import drop_kept as drop_kept
from fnn.kernels.masks import keep as keep
from fnn.kernels.memory import from_wchn as from_wchn
from fnn.kernels.reductions import accurate_mean as accurate_mean
from fnn.kernels.reductions import accurate_sum as accurate_sum
from fnn.kernels.reductions import wide_sum as wide_sum
