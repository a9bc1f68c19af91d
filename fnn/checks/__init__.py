"""Checks of arguments. Errors say `expected ..., got ...` and, if that is short, how to fix it.

You can understand the library without them.
"""
