"""Files: `checkpoint.py` saves and loads trees, `disk.py` replaces files atomically, and each format has a module.

You can understand the library without reading them.
"""
