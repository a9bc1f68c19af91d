"""All workloads by name."""

from benchmarks.layers import LAYERS, STRIDED
from benchmarks.nets import PREDICTING, TRAINING
from benchmarks.workloads import FAMILIES, GROWTH

WORKLOADS = {
    work.name: work for works in (*FAMILIES.values(), GROWTH, TRAINING, PREDICTING, LAYERS, STRIDED) for work in works
}
