"""Array routines that make the operators fast and exact. You can understand the library without reading them.

Start with `memory.py`: it shows the memory order behind the arrays. `process.py` has the two settings of the process
that fnn changes, and how to turn them off.
"""
