"""Trains a transformer to write random digits, then the same digits sorted: `python examples/transformer.py`."""

import os
import sys
from math import log
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: faster for small matrix products
sys.path.append(str(Path(__file__).parents[1]))  # finds the library without installing it

import numpy as np

import fnn
from fnn import attention, dense, embedding, gelu, layer_norm, position_embedding, positionwise, residual, serial

ALPHABET, NEWLINE = "0123456789>\n", 11
FLOOR = 6 * log(10) / 14
"""The lowest possible loss, in nats: of the 14 characters to predict per line, 6 are random and 8 are certain."""


def block(features: int) -> fnn.Op:
    """Attention, then a small net for each position, each after a layer_norm. Xiong et al., 2020."""
    attend = serial(layer_norm(), attention(4, causal=True))
    transform = serial(layer_norm(), positionwise(serial(dense(2 * features), gelu, dense(features))))
    return serial(residual(attend), residual(transform))


net = serial(
    *(embedding(len(ALPHABET), 64), position_embedding()),
    *(block(64), block(64)),
    *(layer_norm(), positionwise(dense(len(ALPHABET)))),
)


def make_text(n: int, rng: fnn.Key) -> fnn.Array:
    """Returns `n` lines such as "825160>012568" between newlines, as (n, 15) indices into the alphabet."""
    digits = rng.generator().integers(0, 10, (n, 6))
    columns = np.full(n, NEWLINE), digits, np.full(n, ALPHABET.index(">")), np.sort(digits, 1), np.full(n, NEWLINE)
    return np.column_stack(columns)


def write(params: fnn.Params, n: int, rng: fnn.Key) -> list[str]:
    """Returns `n` lines written by the net; each next character is drawn with the predicted probabilities."""
    lines = np.full((n, 1), NEWLINE)
    for i in range(13):
        logits, _ = net.apply(params, lines)
        noise = rng.fold(i).generator().gumbel(size=(n, len(ALPHABET)))  # argmax: a draw by softmax
        lines = np.column_stack([lines, (logits[:, -1] + noise).argmax(1)])
    return ["".join(ALPHABET[i] for i in line[1:]) for line in lines]


def is_correct(line: str) -> bool:
    """Whether the line has six digits, `>`, and the same digits sorted."""
    drawn, _, rest = line.partition(">")
    return len(drawn) == 6 and rest == "".join(sorted(drawn))


def main(steps: int = 800, seed: int = 0) -> tuple[float, float]:
    """Trains on 64 lines per step; returns the loss on new lines, and the share of its own lines that are correct."""
    key = fnn.Key(seed)
    params = net.init(key.fold("init"), (14,))
    optimizer = fnn.clip_by_global_norm(fnn.adam(fnn.one_cycle(0.005, steps)), 1.0)
    state, step = optimizer.init(params), fnn.value_and_grad(net, fnn.cross_entropy)
    for i in range(steps):
        lines = make_text(64, key.fold("text", i))
        (loss, _), grads = step(params, lines[:, :-1], lines[:, 1:])
        params, state = optimizer.update(params, grads, state)
        if (i + 1) % 100 == 0:
            print(f"step {i + 1}: loss {loss:.3f}", flush=True)

    lines, written = make_text(1000, key.fold("test")), write(params, 100, key.fold("write"))
    loss, _ = fnn.cross_entropy(net.apply(params, lines[:, :-1])[0], lines[:, 1:])
    share = float(np.mean([is_correct(line) for line in written]))
    print(f"new lines: loss {loss:.3f}, at best {FLOOR:.3f}; {share:.0%} of the lines by the net are correct:")
    print(*written[:5], sep="\n")
    return float(loss), share


if __name__ == "__main__":
    main()
