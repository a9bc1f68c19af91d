"""A character transformer learns to write digits and sort them: `python examples/transformer.py`."""

import os
import sys
from math import log
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported: these products are small
sys.path.append(str(Path(__file__).parents[1]))  # so that a checkout need not be installed

import numpy as np

import fnn
from fnn import attention, dense, embedding, gelu, layer_norm, position_embedding, positionwise, residual, serial

ALPHABET, NEWLINE = "0123456789>\n", 11
FLOOR = 6 * log(10) / 14
"""The least loss, in nats: of the 14 characters of a line that are to be foretold, 6 are drawn, the others follow."""


def block(features: int) -> fnn.Op:
    """Attention, then a small net for each position, each of them normalised first. Xiong et al., 2020."""
    mixing = serial(layer_norm(), attention(4, causal=True))
    thinking = serial(layer_norm(), positionwise(serial(dense(2 * features), gelu, dense(features))))
    return serial(residual(mixing), residual(thinking))


net = serial(
    *(embedding(len(ALPHABET), 64), position_embedding()),
    *(block(64), block(64)),
    *(layer_norm(), positionwise(dense(len(ALPHABET)))),
)


def text(n: int, rng: fnn.Key) -> fnn.Array:
    """`n` lines as (n, 15) places in the alphabet: a newline, then "825160>012568" or the like, then a newline."""
    digits = rng.generator().integers(0, 10, (n, 6))
    columns = np.full(n, NEWLINE), digits, np.full(n, ALPHABET.index(">")), np.sort(digits, 1), np.full(n, NEWLINE)
    return np.column_stack(columns)


def write(params: fnn.Params, n: int, rng: fnn.Key) -> list[str]:
    """`n` lines by the net, a character at a time, each drawn by the probabilities that it gives them."""
    lines = np.full((n, 1), NEWLINE)
    for i in range(13):
        logits, _ = net.apply(params, lines)
        noise = rng.fold(i).generator().gumbel(size=(n, len(ALPHABET)))  # the largest sum is drawn by the softmax
        lines = np.column_stack([lines, (logits[:, -1] + noise).argmax(1)])
    return ["".join(ALPHABET[i] for i in line[1:]) for line in lines]


def right(line: str) -> bool:
    """Whether the line is what it should be."""
    drawn, _, rest = line.partition(">")
    return len(drawn) == 6 and rest == "".join(sorted(drawn))


def main(steps: int = 800, seed: int = 0) -> tuple[float, float]:
    """Trains on 64 lines a step; returns the loss on new lines, and the share of right ones of those that it writes."""
    key = fnn.Key(seed)
    params = net.init(key.fold("init"), (14,))
    optimizer = fnn.clip_by_global_norm(fnn.adam(fnn.one_cycle(0.005, steps)), 1.0)
    state, step = optimizer.init(params), fnn.value_and_grad(net, fnn.cross_entropy)
    for i in range(steps):
        lines = text(64, key.fold("text", i))
        (loss, _), grads = step(params, lines[:, :-1], lines[:, 1:])
        params, state = optimizer.update(params, grads, state)
        if (i + 1) % 100 == 0:
            print(f"step {i + 1}: loss {loss:.3f}", flush=True)

    lines, written = text(1000, key.fold("test")), write(params, 100, key.fold("write"))
    loss, _ = fnn.cross_entropy(net.apply(params, lines[:, :-1])[0], lines[:, 1:])
    share = float(np.mean([right(line) for line in written]))
    print(f"new lines: loss {loss:.3f}, which is {FLOOR:.3f} at best; {share:.0%} of its own are right, such as")
    print(*written[:5], sep="\n")
    return float(loss), share


if __name__ == "__main__":
    main()
