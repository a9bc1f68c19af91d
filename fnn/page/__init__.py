"""`python -m fnn draw RUN`: a local page on which you draw a digit, and the net of a run answers, explains and learns.

You can understand the rest of the library without reading this package.
"""

from fnn.page.lessons import Pupil
from fnn.page.server import PageServer

__all__ = ["PageServer", "Pupil"]
