"""An autoencoder learns to take the noise off drawn digits: `python examples/denoise.py`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported: these products are small
sys.path.append(str(Path(__file__).parents[1]))  # so that a checkout need not be installed

import numpy as np

import fnn
from fnn import conv, conv_transpose, leaky_relu, serial
from fnn.data import as_float, batches, digits

net = serial(
    *(conv(16, 3, stride=2, padding=1), leaky_relu()),  # 28 x 28 pixels to 14 x 14
    *(conv(32, 3, stride=2, padding=1), leaky_relu()),  # and to 7 x 7,
    *(conv_transpose(16, 4, stride=2, padding=1), leaky_relu()),  # and back
    conv_transpose(1, 4, stride=2, padding=1),
)


def noisy(x: fnn.Array, rng: fnn.Key) -> fnn.Array:
    """The images, in [-1, 1], with noise of deviation 0.7 on each pixel."""
    given: fnn.Array = x + 0.7 * rng.generator().standard_normal(x.shape, np.float32)
    return given


def drawn(*images: fnn.Array) -> str:
    """Images (1, 28, 28) side by side, in characters; two rows of pixels make one line of them."""
    rows = np.concatenate([image[0].reshape(14, 2, 28).mean(1) for image in images], 1)
    return "\n".join("".join(" .:-=+*#%@"[int(9.99 * (p + 1) / 2)] for p in row) for row in rows.clip(-1, 0.999))


def main(n: int = 4000, epochs: int = 5, seed: int = 0) -> tuple[float, float]:
    """Trains on `n` digits; returns the mean squared error on 500 others, of the net and of doing nothing."""
    key = fnn.Key(seed)
    train, clean = (as_float(digits(*some).images) for some in ((n, key.fold("train")), (500, key.fold("test"))))
    params = net.init(key.fold("init"), (1, 28, 28))
    optimizer = fnn.adam(fnn.one_cycle(0.01, epochs * -(-n // 50)))
    state, step = optimizer.init(params), fnn.value_and_grad(net, fnn.mse)
    given = noisy(clean, key.fold("test noise"))
    nothing, error = float(fnn.mse(given, clean)[0]), np.inf
    for epoch in range(epochs):
        for i, batch in enumerate(batches(n, 50, key.fold("batches", epoch))):
            x = train[batch]
            _, grads = step(params, noisy(x, key.fold("noise", epoch, i)), x)
            params, state = optimizer.update(params, grads, state)
        out, _ = net.apply(params, given)
        error = float(fnn.mse(out, clean)[0])
        print(f"epoch {epoch + 1}: error {error:.4f}, of doing nothing {nothing:.4f}", flush=True)
    print("one as it was, as it was given, and what became of it:")
    print(drawn(clean[0], given[0], out[0]))
    return error, nothing


if __name__ == "__main__":
    main()
