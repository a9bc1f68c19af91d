"""Checks of what a user passes. Messages say `expected ..., got ...` and, if it is short, how to fix it.

You can understand the library without reading them.
"""
