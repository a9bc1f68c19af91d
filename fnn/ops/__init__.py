"""The operators, one file per family. They do not import each other. All are in `fnn`."""
