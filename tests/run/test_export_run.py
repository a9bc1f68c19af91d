"""The ONNX model of a run states its input; onnxruntime, fed as the metadata says, has the run's accuracy."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import run
from fnn.data import Dataset, as_float, mnist
from fnn.run.settings import NETS_BY_NAME
from tests.support.runs import DATA, make_task, no_log

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def train_and_export(net: fnn.Op, data: Dataset, folder: Path) -> tuple[run.SavedRun, Any, str]:
    """Trains for an epoch; returns the run, read from its folder, a session of its model, and the line about it."""
    task = make_task(net=fnn.shard(net, 1, 50), data=data, epochs=1, batch_size=100, shard_size=50)
    run.write_config(folder, {"net": run.format_net(net)} | run.IMAGES)
    run.train(task, run.start(task), folder, log=no_log)
    saved = run.load_run(folder)
    line = run.export_run(saved, folder / "model.onnx")
    return saved, onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]), line


def count_correct(session: Any, data: Dataset) -> int:
    """Returns how many test images the model predicts correctly, fed as its metadata says."""
    [pixels] = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(float)", ["batch", 1, 28, 28])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["input"].startswith(
        '"pixels", float32 (batch, 1, 28, 28): grey levels from 0 (background) to 255; do not scale them'
    )
    [scores] = session.run(["output"], {"pixels": data.test.images[:, np.newaxis].astype(np.float32)})
    classes = json.loads(metadata["classes"])
    return sum(classes[row.argmax()] == str(label) for row, label in zip(scores, data.test.labels, strict=True))


@pytest.mark.parametrize("name", NETS_BY_NAME)
def test_export_run_states_its_input_and_its_line_says_so(tmp_path: Path, name: str) -> None:
    saved, session, line = train_and_export(fnn.parse_net(NETS_BY_NAME[name]), DATA, tmp_path)
    metadata = session.get_modelmeta().custom_metadata_map
    assert line == f"wrote: {tmp_path / 'model.onnx'}; its input is {metadata['input']}"
    assert line.endswith("the model computes pixels / 127.5 - 1")
    assert metadata["net"] == NETS_BY_NAME[name]
    pixels = DATA.test.images[:, np.newaxis].astype(np.float32)
    [scores] = session.run(["output"], {"pixels": pixels})
    expected, _ = saved.net.apply(saved.params, as_float(DATA.test.images))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_export_run_scaling_has_the_bits_of_as_float(tmp_path: Path) -> None:
    saved = run.SavedRun(fnn.serial(), {}, run.IMAGES)
    run.export_run(saved, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.arange(784, dtype=np.int64).reshape(1, 28, 28).astype(np.uint8)
    [scaled] = session.run(["output"], {"pixels": images[:, np.newaxis].astype(np.float32)})
    assert np.array_equal(scaled, as_float(images))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(Path(os.environ.get("FNN_DATA", "")).glob("train-images*")), reason="needs MNIST in FNN_DATA"
)
def test_export_run_has_the_accuracy_of_the_run_on_mnist(tmp_path: Path) -> None:
    data = mnist()
    data = data._replace(train=fnn.data.Examples(data.train.images[:5000], data.train.labels[:5000]))
    _, session, _ = train_and_export(fnn.parse_net(NETS_BY_NAME["cnn"]), data, tmp_path)
    [metrics] = run.read_metrics(tmp_path)
    assert len(data.test.labels) == 10_000
    assert metrics["test_accuracy"] > 0.6
    assert count_correct(session, data) == round(10_000 * metrics["test_accuracy"])


@pytest.mark.parametrize(
    ("net", "scaling"), [(fnn.dense(2), {"divide_by": 255.0}), (fnn.embedding(9, 2), fnn.data.SCALING)]
)
def test_export_refuses_a_wrong_scaling(tmp_path: Path, net: fnn.Op, scaling: dict[str, float]) -> None:
    with pytest.raises(fnn.OpError, match=r"export: scaling: expected divide_by and subtract, and a net of"):
        fnn.onnx.export(net, net.init(0, (3,)), (3,), tmp_path / "a.onnx", scaling=scaling)
