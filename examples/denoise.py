"""Trains an autoencoder to remove noise from generated digits: `python examples/denoise.py`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: faster for small matrix products
sys.path.append(str(Path(__file__).parents[1]))  # finds the library without installing it

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


def add_noise(x: fnn.Array, rng: fnn.Key) -> fnn.Array:
    """Adds Gaussian noise with a standard deviation of 0.7 to each pixel."""
    noisy: fnn.Array = x + 0.7 * rng.generator().standard_normal(x.shape, np.float32)
    return noisy


def to_text(*images: fnn.Array) -> str:
    """Draws images (1, 28, 28) side by side with characters; two rows of pixels make one line."""
    rows = np.concatenate([image[0].reshape(14, 2, 28).mean(1) for image in images], 1)
    return "\n".join("".join(" .:-=+*#%@"[int(9.99 * (p + 1) / 2)] for p in row) for row in rows.clip(-1, 0.999))


def main(n: int = 4000, epochs: int = 5, seed: int = 0) -> tuple[float, float]:
    """Trains on `n` digits; returns the mean squared error on 500 others, with the net and without it."""
    key = fnn.Key(seed)
    train, clean = (as_float(digits(*args).images) for args in ((n, key.fold("train")), (500, key.fold("test"))))
    params = net.init(key.fold("init"), (1, 28, 28))
    optimizer = fnn.adam(fnn.one_cycle(0.01, epochs * -(-n // 50)))
    state, step = optimizer.init(params), fnn.value_and_grad(net, fnn.mse)
    noisy = add_noise(clean, key.fold("test noise"))
    before, after = float(fnn.mse(noisy, clean)[0]), np.inf
    for epoch in range(epochs):
        for i, batch in enumerate(batches(n, 50, key.fold("batches", epoch))):
            x = train[batch]
            _, grads = step(params, add_noise(x, key.fold("noise", epoch, i)), x)
            params, state = optimizer.update(params, grads, state)
        out, _ = net.apply(params, noisy)
        after = float(fnn.mse(out, clean)[0])
        print(f"epoch {epoch + 1}: error {after:.4f}, without the net {before:.4f}", flush=True)
    print("a test image, with noise, and the output of the net:")
    print(to_text(clean[0], noisy[0], out[0]))
    return after, before


if __name__ == "__main__":
    main()
