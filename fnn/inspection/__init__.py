"""Looks into nets and rebuilds them with changed parts. You can understand the library without reading it."""
