"""Checks for operators and losses, the library's own and yours. You can understand the library without them.

`python -m fnn.testing` checks every public operator with the examples of `fnn.testing.table`.
"""

from fnn.testing.checks import PROPERTIES, check_op
from fnn.testing.compare import CheckError
from fnn.testing.losses import check_loss

__all__ = ["PROPERTIES", "CheckError", "check_loss", "check_op"]
