"""What every operator and every loss must pass, the library's own and a user's.

`python -m fnn.testing` checks every public operator in the examples of `fnn.testing.table`, a line each.
"""

from fnn.testing.checks import PROPERTIES, check_op
from fnn.testing.compare import CheckError
from fnn.testing.losses import check_loss

__all__ = ["PROPERTIES", "CheckError", "check_loss", "check_op"]
