"""Optimizers: pairs of pure functions that take parameters and gradients and return better parameters."""

from fnn.optim.adaptive import adagrad, adam, adamw, rmsprop
from fnn.optim.descent import Optimizer, sgd
from fnn.optim.wrappers import average, averaged, clip_by_global_norm, frozen, masked

__all__ = ["Optimizer", "adagrad", "adam", "adamw", "average", "averaged", "clip_by_global_norm", "frozen", "masked"]
__all__ += ["rmsprop", "sgd"]
