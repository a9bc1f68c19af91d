"""Looks into nets, rebuilds them with changed parts, and creates them from texts.

You can understand the library without reading it.
"""
