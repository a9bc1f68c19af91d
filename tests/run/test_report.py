import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import (
    CheckpointError,
    Op,
    batch_norm,
    conv,
    dense,
    freeze,
    maxpool,
    named,
    parallel,
    relu,
    reshape,
    residual,
    serial,
    shard,
    tanh,
)
from fnn.data import digits
from fnn.run import RunError
from fnn.run.report import CURVES, confusion, first_filters, log_probabilities, report, worst
from tests.support.programs import python

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from fnn.run import pictures

NET = serial(conv(4, 3, padding=1), maxpool(2), tanh, dense(10))
TEST = digits(120, 1)
PICTURES = ["curves.png", "confusion.png", "mistakes.png", "filters.png"]


def epoch_metrics(epoch: int, **changes: Any) -> dict[str, Any]:
    """Returns the metrics of one epoch."""
    numbers = {"step": 10 * epoch, "images_per_second": 1e4, "seconds": 2.5 * epoch, "rate": 0.1 / epoch}
    losses = {"train_loss": 1 / epoch, "test_loss": 0.1 + 1 / epoch}
    accuracies = {"train_accuracy": 1 - 0.5 / epoch, "test_accuracy": 1 - 0.4 / epoch}
    return {"epoch": epoch, **numbers, **losses, **accuracies, **changes}


def make_run(folder: Path, *epochs: dict[str, Any], net: Op = NET) -> Path:
    """Creates the folder of a run with these metrics."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metrics) + "\n" for metrics in epochs))
    if epochs:
        fnn.save(folder / "params.pkl", net.init(0, (1, 28, 28)))
    return folder


def metrics_by_name(n: int, **changes: list[float]) -> dict[str, np.ndarray]:
    """Returns the metrics of n epochs, with some changed, as an array for each name."""
    epochs = [epoch_metrics(epoch) for epoch in range(1, n + 1)]
    return {name: np.array(changes.get(name) or [float(metrics[name]) for metrics in epochs]) for name in CURVES}


def visible_texts(figure: Figure) -> list[str]:
    """Returns all visible texts in the figure."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()]
    return [text.get_text() for text in texts if text.get_text()]


def pixels(figure: Figure, folder: Path) -> np.ndarray:
    """Returns the figure's pixels, (height, width), from 0 (black) to 1 (white)."""
    (folder / "picture.png").write_bytes(pictures.to_png(figure))
    image: np.ndarray = imread(folder / "picture.png")[..., :3].mean(-1)
    return image


def scores_for(labels: np.ndarray, predicted: np.ndarray, probability: float = 0.9) -> np.ndarray:
    """Returns log-probabilities: `probability` for the predicted class, the rest equally for the others."""
    rows = np.full((len(labels), 10), np.log((1 - probability) / 9))
    rows[np.arange(len(labels)), predicted] = np.log(probability)
    return rows


# Numbers


def test_confusion_has_a_row_for_each_label_and_a_column_for_each_prediction() -> None:
    scores = np.array([[3, 1, 2], [0, 5, 1], [0, 1, 5], [9, 1, 1], [2, 1, 0]])
    table = confusion(scores, np.array([0, 1, 1, 2, 0]))
    assert table.tolist() == [[2, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_confusion_rows_add_up_to_the_images_and_its_diagonal_to_the_correct_ones() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((500, 10)), rng.integers(0, 10, 500)
    table = confusion(scores, labels)
    assert table.sum(1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert np.diag(table).sum() == np.count_nonzero(scores.argmax(1) == labels)


def test_worst_sorts_mistakes_by_the_score_of_their_label() -> None:
    scores = np.log([[0.6, 0.4], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.7, 0.3]])
    labels = np.array([1, 1, 1, 1, 1])
    assert worst(scores, labels).tolist() == [1, 3, 4, 0]
    assert worst(scores, labels, 2).tolist() == [1, 3]
    assert worst(scores, scores.argmax(1)).tolist() == []


def test_worst_returns_at_most_25_mistakes() -> None:
    labels = np.arange(100) % 10
    assert len(worst(scores_for(labels, (labels + 1) % 10), labels)) == 25


def test_log_probabilities_of_many_images_equal_those_of_one_batch() -> None:
    params = NET.init(0, (1, 28, 28))
    test = digits(1100, 2)
    scores = log_probabilities(NET, params, test)
    assert scores.shape == (1100, 10)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)
    losses, _ = fnn.cross_entropy(NET.apply(params, fnn.data.as_float(test.images))[0], test.labels)
    np.testing.assert_allclose(-scores[np.arange(1100), test.labels].mean(), losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("net", "path"),
    [
        (conv(4, 5), "w"),
        (NET, "conv1/w"),
        (
            shard(serial(tanh, serial(relu, residual(named("stem", freeze(conv(1, 3, padding=1)))))), 1),
            "serial1/residual1/stem/w",
        ),
        (serial(parallel(maxpool(1), conv(1, 1))), "parallel1/conv1/w"),
    ],
)
def test_first_filters_finds_a_nested_convolution(net: Op, path: str) -> None:
    params = net.init(0, (1, 28, 28))
    found = first_filters(params)
    [w] = [leaf for where, leaf in fnn.tree_items(params) if where == path]
    assert found is not None
    assert found[0] == path
    assert found[1].shape == (len(w), *w.shape[2:])
    assert np.array_equal(found[1], w[:, 0])


def test_first_filters_of_several_channels_has_an_image_for_each() -> None:
    net = serial(reshape(4, 14, 14), conv(3, 3))
    params = net.init(0, (1, 28, 28))
    found = first_filters(params)
    assert found is not None
    assert np.array_equal(found[1][4 * 1 + 2], params["conv1"]["w"][1, 2])


def test_first_filters_of_a_dense_layer_has_an_image_for_each_unit() -> None:
    net = serial(dense(7), tanh, dense(10))
    params = net.init(0, (1, 28, 28))
    found = first_filters(params)
    assert found is not None
    assert (found[0], found[1].shape) == ("dense1/w", (7, 28, 28))
    assert np.array_equal(found[1][3].ravel(), params["dense1"]["w"][:, 3])


@pytest.mark.parametrize("net", [tanh, serial(), serial(maxpool(2), dense(3)), serial(batch_norm(), conv(1, 3))])
def test_first_filters_of_other_nets_is_none(net: Op) -> None:
    assert first_filters(net.init(0, (1, 28, 28))) is None


# Pictures


def test_plot_curves_shows_every_metric_and_the_accuracy_of_the_last_epoch() -> None:
    metrics = metrics_by_name(5, test_accuracy=[0.5, 0.7, 0.9931, 0.9, 0.9])
    figure = pictures.plot_curves(metrics)
    curves = {line.get_label(): line.get_xydata() for axes in figure.axes[:1] for line in axes.lines}
    for name in ("train", "test"):
        assert np.array_equal(np.asarray(curves[name]), np.stack([metrics["epoch"], metrics[f"{name}_loss"]], 1))
    test = np.asarray(figure.axes[1].lines[1].get_xydata())
    assert np.allclose(test[:, 1], 100 * metrics["test_accuracy"])
    assert np.array_equal(np.asarray(figure.axes[2].lines[0].get_ydata()), metrics["rate"])
    assert {"Loss", "Accuracy, % (test after epoch 5: 90.00)", "train", "test", "epoch"} <= set(visible_texts(figure))


def test_plot_curves_styles_differ_by_more_than_colour() -> None:
    train, test = pictures.STYLES["train"], pictures.STYLES["test"]
    assert all(train[name] != test[name] for name in ("linestyle", "marker", "color"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "changes"),
    [
        (1, {}),
        (200, {}),
        (3, {"train_loss": 0.0}),
        (3, {"train_loss": 3e38, "test_loss": 1e-45}),
    ],
)
def test_plot_curves_draws_extreme_numbers_and_integer_epochs(
    epochs: int, changes: dict[str, float], tmp_path: Path
) -> None:
    figure = pictures.plot_curves(
        metrics_by_name(epochs, **{name: [value] * epochs for name, value in changes.items()})
    )
    assert pixels(figure, tmp_path).shape == (800, 1200)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert all(float(tick).is_integer() for tick in axes.get_xticks() if low <= tick <= high)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 3, 999, 1e4, 1e30])
def test_plot_curves_labels_losses_of_any_range(ratio: float) -> None:
    figure = pictures.plot_curves(metrics_by_name(2, train_loss=[0.4 * ratio, 0.4], test_loss=[0.4, 0.4]))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert 2 <= len(ticks) <= 12
    assert high / low > 4.99


def test_plot_confusion_shows_counts_recall_and_dark_mistakes(tmp_path: Path) -> None:
    table = np.diag(np.full(10, 1000))
    table[7, 2], table[3, 5] = 40, 4
    figure = pictures.plot_confusion(table)
    words = visible_texts(figure)
    assert "10,000 of 10,044 test images correct: 99.56 %" in words
    assert {"predicted", "true label", "recall"} <= set(words)
    assert [words.count(text) for text in ("1,000", "40", "4", "0", "96.2 %", "100.0 %")] == [10, 1, 3, 2, 1, 8]
    panel = figure.axes[0]
    assert [(t.get_text(), t.get_position()) for t in panel.texts if t.get_text() in ("4", "40")] == [
        ("4", (5, 3)),
        ("40", (2, 7)),
    ]
    image = pixels(figure, tmp_path)
    assert image.shape == (900, 1000)

    def lightness(row: int, column: int) -> float:
        across, down = panel.transData.transform((column + 0.3, row + 0.3)).round().astype(int)
        return float(image[900 - down, across])

    assert lightness(7, 2) < 0.5 < lightness(3, 5) < lightness(0, 1)
    assert 0.9 < lightness(4, 4) < lightness(0, 1) == 1


@pytest.mark.slow
def test_plot_confusion_without_mistakes_or_without_images_of_a_class(tmp_path: Path) -> None:
    figure = pictures.plot_confusion(np.diag([5, 0, 3]))
    assert "8 of 8 test images correct: 100.00 %" in visible_texts(figure)
    assert "-" in visible_texts(figure)
    assert pixels(figure, tmp_path).shape == (900, 1000)


@pytest.mark.slow
def test_plot_mistakes_shows_image_label_prediction_and_probability(tmp_path: Path) -> None:
    labels = TEST.labels
    predicted = np.where(np.arange(120) < 100, (labels + 3) % 10, labels)
    scores = scores_for(labels, predicted, 0.876)
    chosen = worst(scores, labels)
    figure = pictures.plot_mistakes(TEST, scores, chosen)
    words = visible_texts(figure)
    assert "25 of 100 mistakes in 120 test images (true label → prediction), highest loss first" in words
    assert [panel.get_title() for panel in figure.axes] == [
        f"{labels[n]} → {predicted[n]} (88 % confident)" for n in range(25)
    ]
    assert np.array_equal([np.asarray(panel.images[0].get_array()) for panel in figure.axes], TEST.images[:25])
    assert pixels(figure, tmp_path).shape == (1100, 1000)


@pytest.mark.parametrize(("n", "height"), [(1, 260), (5, 260), (6, 470)])
def test_plot_mistakes_uses_fewer_rows_for_fewer_mistakes(n: int, height: int, tmp_path: Path) -> None:
    predicted = np.where(np.arange(120) < n, (TEST.labels + 1) % 10, TEST.labels)
    scores = scores_for(TEST.labels, predicted)
    figure = pictures.plot_mistakes(TEST, scores, worst(scores, TEST.labels))
    assert [len(panel.images) for panel in figure.axes] == [1] * n
    assert pixels(figure, tmp_path).shape == (height, 1000)


def test_plot_mistakes_says_that_there_is_no_mistake(tmp_path: Path) -> None:
    scores = scores_for(TEST.labels, TEST.labels)
    figure = pictures.plot_mistakes(TEST, scores, worst(scores, TEST.labels))
    assert visible_texts(figure) == ["No mistake in 120 test images"]
    assert pixels(figure, tmp_path).min() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("n", "shown"), [(1, 1), (6, 6), (100, 64)])
def test_plot_filters_uses_one_scale_centred_at_0(n: int, shown: int, tmp_path: Path) -> None:
    images = np.random.default_rng(n).standard_normal((n, 3, 5))
    figure = pictures.plot_filters("conv1/w", images)
    grids = [panel.images[0] for panel in figure.axes if panel.images]
    assert len(grids) == shown
    limit = np.abs(images[:64]).max()
    assert {image.get_clim() for image in grids} == {(-limit, limit)}
    count = f"{n}" if n == shown else f"the first 64 of {n}"
    assert f"conv1/w: {count} filters of 3 x 5" in visible_texts(figure)
    assert pixels(figure, tmp_path).shape == (800, 1200)


def test_plot_filters_of_zeros_is_grey(tmp_path: Path) -> None:
    figure = pictures.plot_filters("w", np.zeros((1, 2, 2)))
    assert pixels(figure, tmp_path)[300:400, 200:300].mean() == pytest.approx(0.5, abs=0.01)


# Report


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with its report."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "reported", epoch_metrics(1), epoch_metrics(2))
    assert report(folder, NET, TEST) == [folder / name for name in PICTURES]
    return folder


def test_report_writes_its_files_into_the_folder_of_the_run(reported: Path) -> None:
    files = {"config.json", "metrics.jsonl", "params.pkl", *PICTURES}
    assert {path.name for path in reported.iterdir()} == files
    for name, size in zip(PICTURES, [(800, 1200), (900, 1000), (1100, 1000), (800, 1200)], strict=True):
        image = imread(reported / name)
        assert image.shape[:2] == size
        assert image[..., :3].std() > 0.05, f"{name} is blank"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_report_is_the_same_each_time_and_differs_for_other_params(seed: int, reported: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path, epoch_metrics(1), epoch_metrics(2))
    fnn.save(folder / "params.pkl", NET.init(seed, (1, 28, 28)))
    report(folder, shard(NET, 1), TEST)
    same = [(folder / name).read_bytes() == (reported / name).read_bytes() for name in PICTURES]
    assert same == [True, seed == 0, seed == 0, seed == 0]


@pytest.mark.slow
def test_report_without_first_filters_has_the_other_pictures(tmp_path: Path) -> None:
    net = serial(maxpool(2), dense(10))
    folder = make_run(tmp_path / "run", epoch_metrics(1), net=net)
    assert [path.name for path in report(folder, net, TEST)] == PICTURES[:3]


def test_report_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"expected a run, got no file .*config\.json"):
            report(folder, NET, TEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", [True, False])
def test_report_refuses_a_run_without_a_finished_epoch(tmp_path: Path, written: bool) -> None:
    folder = make_run(tmp_path)
    if not written:
        (folder / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="expected a finished epoch, got none, so there is nothing to draw yet"):
        report(folder, NET, TEST)


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[1, 2]",
        "3",
        json.dumps(epoch_metrics(2, rate="high")),
        json.dumps(epoch_metrics(2, test_loss=None)),
        json.dumps(epoch_metrics(2, train_loss=float("nan"))),
        json.dumps(epoch_metrics(2, test_loss=float("inf"))),
        json.dumps(epoch_metrics(2) | {"epoch": True}),
        json.dumps(epoch_metrics(2) | {"epoch": float("nan")}),
        json.dumps({"epoch": 2}),
        "\0",
    ],
)
def test_report_refuses_damaged_metrics_and_names_the_file(tmp_path: Path, damage: str) -> None:
    folder = make_run(tmp_path, epoch_metrics(1))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(damage + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl: (damaged: line 2: |line 2: expected )") as raised:
        report(folder, NET, TEST)
    assert "\n" not in str(raised.value)
    assert not list(folder.glob("*.png"))


def test_report_refuses_damaged_missing_or_foreign_params(tmp_path: Path) -> None:
    folder = make_run(tmp_path, epoch_metrics(1))
    with pytest.raises(CheckpointError, match=r"params\.pkl.*conv1/w"):
        report(folder, serial(conv(5, 3), dense(10)), TEST)
    (folder / "params.pkl").write_bytes(b"\x80\x04garbage")
    with pytest.raises(CheckpointError, match=r"params\.pkl"):
        report(folder, NET, TEST)
    (folder / "params.pkl").unlink()
    with pytest.raises(RunError, match=r"expected params\.pkl, got no such file"):
        report(folder, NET, TEST)
    assert not list(folder.glob("*.png"))


@pytest.mark.slow
def test_report_names_a_file_that_cannot_be_written_and_writes_the_others(tmp_path: Path) -> None:
    folder = make_run(tmp_path, epoch_metrics(1))
    (folder / "confusion.png").mkdir()
    with pytest.raises(OSError, match=r"confusion\.png"):
        report(folder, NET, TEST)
    assert imread(folder / "curves.png").shape[:2] == (800, 1200)
    assert not list(folder.glob(".fnn-*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("name", PICTURES)
def test_report_writes_through_no_links_and_removes_leftovers(tmp_path: Path, name: str) -> None:
    folder = make_run(tmp_path / "run", epoch_metrics(2))
    (tmp_path / "precious").write_text("precious")
    (folder / name).symlink_to("../precious")
    with pytest.raises(RunError, match=rf"{name}: expected a file in the folder, got a link to \.\./precious$"):
        report(folder, NET, TEST)
    assert (tmp_path / "precious").read_text() == "precious"
    (folder / name).unlink()
    (folder / ".fnn-0123456789abcdef").touch()
    report(folder, NET, TEST)
    assert not list(folder.glob(".fnn-*"))


def test_report_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fnn.run.pictures")
    monkeypatch.delattr(fnn.run, "pictures")
    with pytest.raises(RunError, match=r": a report needs matplotlib: pip install '\.\[plot\]'$"):
        report(make_run(tmp_path, epoch_metrics(1)), NET, TEST)


CHECK = """
import sys
from pathlib import Path
import fnn, fnn.run.report
assert not any(name.startswith("matplotlib") for name in sys.modules), "matplotlib was imported before it was needed"
import matplotlib
before = str(dict.items(matplotlib.rcParams))  # rcParams["backend"] would choose a backend
net = fnn.serial(fnn.conv(4, 3, padding=1), fnn.maxpool(2), fnn.tanh, fnn.dense(10))
fnn.run.report.report(Path(sys.argv[1]), net, fnn.data.digits(50, 1))
assert "matplotlib.pyplot" not in sys.modules
assert str(dict.items(matplotlib.rcParams)) == before
"""


@pytest.mark.slow
def test_report_imports_matplotlib_late_and_keeps_its_settings(tmp_path: Path) -> None:
    done = python("-W", "error", "-c", CHECK, make_run(tmp_path, epoch_metrics(1)))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (dense(3), r"expected a net with a score for each class, got outputs of shape \(3,\)"),
        (conv(10, 28), r"expected a net with a score for each class, got outputs of shape \(10, 1, 1\)"),
        (
            dense(10, b_init=lambda key, shape, fan_in, fan_out: np.full(shape, np.inf, np.float32)),
            "expected finite scores, got nan or infinity for 120 images",
        ),
    ],
)
def test_log_probabilities_refuses_nets_without_finite_scores(net: fnn.Op, message: str) -> None:
    with pytest.raises(RunError, match=message):
        log_probabilities(net, net.init(0, (1, 28, 28)), digits(120, 2))
