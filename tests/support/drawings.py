"""Digits as strokes, in several styles: points from (0, 0) at the top left to (1, 1)."""

from math import cos, pi, sin
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
Stroke: TypeAlias = list[Point]


def arc(x: float, y: float, width: float, height: float, start: float, stop: float, n: int = 24) -> Stroke:
    """Returns points of an ellipse around (x, y). Angles are in degrees, clockwise, and start at the right."""
    angles = [(start + (stop - start) * i / n) * pi / 180 for i in range(n + 1)]
    return [(x + width / 2 * cos(a), y + height / 2 * sin(a)) for a in angles]


DRAWINGS: list[tuple[str, list[Stroke]]] = [
    ("0", [arc(0.5, 0.5, 0.4, 0.62, -90, 270)]),
    ("1", [[(0.42, 0.3), (0.53, 0.2), (0.5, 0.8)]]),
    ("2", [[*arc(0.5, 0.36, 0.36, 0.34, -170, 50), (0.34, 0.78), (0.7, 0.78)]]),
    ("3", [[*arc(0.48, 0.34, 0.34, 0.3, -150, 80), *arc(0.49, 0.64, 0.4, 0.32, -80, 150)]]),
    ("4", [[(0.38, 0.2), (0.32, 0.52), (0.7, 0.52)], [(0.62, 0.24), (0.58, 0.84)]]),
    ("5", [[(0.7, 0.2), (0.4, 0.2), (0.36, 0.46), *arc(0.48, 0.61, 0.4, 0.34, -120, 150)]]),
    ("6", [[(0.62, 0.18), (0.44, 0.36), (0.36, 0.56), *arc(0.5, 0.66, 0.3, 0.28, -180, 180)]]),
    ("7", [[(0.3, 0.22), (0.7, 0.22), (0.46, 0.82)], [(0.42, 0.52), (0.66, 0.52)]]),
    ("8", [[*arc(0.5, 0.35, 0.27, 0.28, 90, 450), *arc(0.5, 0.64, 0.34, 0.3, -90, 270)]]),
    ("9", [[*arc(0.48, 0.36, 0.3, 0.3, 0, -360), (0.63, 0.4), (0.56, 0.84)]]),
]
"""The digits with their classes."""
