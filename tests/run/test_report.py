import json
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
WITH_FILTERS = ["curves.png", "confusion.png", "mistakes.png", "filters.png"]


def line(epoch: int, **changes: Any) -> dict[str, Any]:
    """An epoch's metrics."""
    numbers = {"step": 10 * epoch, "images_per_second": 1e4, "seconds": 2.5 * epoch, "rate": 0.1 / epoch}
    losses = {"train_loss": 1 / epoch, "test_loss": 0.1 + 1 / epoch}
    accuracies = {"train_accuracy": 1 - 0.5 / epoch, "test_accuracy": 1 - 0.4 / epoch}
    return {"epoch": epoch, **numbers, **losses, **accuracies, **changes}


def run_in(folder: Path, *lines: dict[str, Any], net: Op = NET) -> Path:
    """Creates the folder of a run with these metrics."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if lines:
        fnn.save(folder / "best.pkl", net.init(0, (1, 28, 28)))
    return folder


def metrics(n: int, **changes: list[float]) -> dict[str, np.ndarray]:
    lines = [line(epoch) for epoch in range(1, n + 1)]
    return {name: np.array(changes.get(name) or [float(one[name]) for one in lines]) for name in CURVES}


def texts(figure: Figure) -> list[str]:
    """All visible text in the figure."""
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()]
    return [text.get_text() for text in found if text.get_text()]


def pixels(figure: Figure, folder: Path) -> np.ndarray:
    """The figure's pixels, (height, width), from 0 (black) to 1 (white)."""
    (folder / "picture.png").write_bytes(pictures.to_png(figure))
    shown: np.ndarray = imread(folder / "picture.png")[..., :3].mean(-1)
    return shown


def scores_for(labels: np.ndarray, predicted: np.ndarray, probability: float = 0.9) -> np.ndarray:
    """Log-probabilities: `probability` for the predicted class, the rest equally for the others."""
    rows = np.full((len(labels), 10), np.log((1 - probability) / 9))
    rows[np.arange(len(labels)), predicted] = np.log(probability)
    return rows


# Numbers


def test_confusion_has_a_row_for_each_label_and_a_column_for_each_prediction() -> None:
    scores = np.array([[3, 1, 2], [0, 5, 1], [0, 1, 5], [9, 1, 1], [2, 1, 0]])
    table = confusion(scores, np.array([0, 1, 1, 2, 0]))
    assert table.tolist() == [[2, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_confusion_adds_up_to_the_images_and_its_diagonal_to_the_hits() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((500, 10)), rng.integers(0, 10, 500)
    table = confusion(scores, labels)
    assert table.sum(1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert np.diag(table).sum() == np.count_nonzero(scores.argmax(1) == labels)


def test_the_worst_are_the_mistakes_with_the_least_score_for_the_label_and_equals_in_their_order() -> None:
    scores = np.log([[0.6, 0.4], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.7, 0.3]])
    labels = np.array([1, 1, 1, 1, 1])
    assert worst(scores, labels).tolist() == [1, 3, 4, 0]
    assert worst(scores, labels, 2).tolist() == [1, 3]
    assert worst(scores, scores.argmax(1)).tolist() == []


def test_25_mistakes_at_most_are_shown() -> None:
    labels = np.arange(100) % 10
    assert len(worst(scores_for(labels, (labels + 1) % 10), labels)) == 25


def test_log_probabilities_are_those_of_the_net_in_however_many_pieces() -> None:
    params = NET.init(0, (1, 28, 28))
    many = digits(1100, 2)
    scores = log_probabilities(NET, params, many)
    assert scores.shape == (1100, 10)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)
    losses, _ = fnn.cross_entropy(NET.apply(params, fnn.data.as_float(many.images))[0], many.labels)
    np.testing.assert_allclose(-scores[np.arange(1100), many.labels].mean(), losses, rtol=1e-5)


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
def test_the_first_convolution_is_found_wherever_it_is(net: Op, path: str) -> None:
    params = net.init(0, (1, 28, 28))
    found = first_filters(params)
    [w] = [leaf for where, leaf in fnn.tree_items(params) if where == path]
    assert found is not None
    assert found[0] == path
    assert found[1].shape == (len(w), *w.shape[2:])
    assert np.array_equal(found[1], w[:, 0])


def test_kernels_for_several_channels_are_an_image_for_each() -> None:
    net = serial(reshape(4, 14, 14), conv(3, 3))
    params = net.init(0, (1, 28, 28))
    found = first_filters(params)
    assert found is not None
    assert np.array_equal(found[1][4 * 1 + 2], params["conv1"]["w"][1, 2])


def test_a_dense_layer_of_the_pixels_has_an_image_for_each_unit() -> None:
    net = serial(dense(7), tanh, dense(10))
    params = net.init(0, (1, 28, 28))
    found = first_filters(params)
    assert found is not None
    assert (found[0], found[1].shape) == ("dense1/w", (7, 28, 28))
    assert np.array_equal(found[1][3].ravel(), params["dense1"]["w"][:, 3])


@pytest.mark.parametrize("net", [tanh, serial(), serial(maxpool(2), dense(3)), serial(batch_norm(), conv(1, 3))])
def test_other_nets_have_no_first_filters(net: Op) -> None:
    assert first_filters(net.init(0, (1, 28, 28))) is None


# Pictures


def test_curves_show_every_number_where_it_belongs_and_name_the_best_epoch() -> None:
    shown = metrics(5, test_accuracy=[0.5, 0.7, 0.9931, 0.9, 0.9])
    figure = pictures.plot_curves(shown)
    drawn = {line.get_label(): line.get_xydata() for axes in figure.axes[:1] for line in axes.lines}
    for name in ("train", "test"):
        assert np.array_equal(np.asarray(drawn[name]), np.stack([shown["epoch"], shown[f"{name}_loss"]], 1))
    test = np.asarray(figure.axes[1].lines[1].get_xydata())
    assert np.allclose(test[:, 1], 100 * shown["test_accuracy"])
    assert np.array_equal(np.asarray(figure.axes[2].lines[0].get_ydata()), shown["rate"])
    assert {"Loss", "Accuracy, % (best test: 99.31, epoch 3)", "train", "test", "epoch"} <= set(texts(figure))


def test_training_and_test_differ_by_more_than_their_colours() -> None:
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
def test_curves_of_any_numbers_are_drawn_with_epochs_that_are_whole(
    epochs: int, changes: dict[str, float], tmp_path: Path
) -> None:
    figure = pictures.plot_curves(metrics(epochs, **{name: [value] * epochs for name, value in changes.items()}))
    assert pixels(figure, tmp_path).shape == (800, 1200)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert all(float(tick).is_integer() for tick in axes.get_xticks() if low <= tick <= high)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 3, 999, 1e4, 1e30])
def test_losses_of_any_range_have_two_labels_beside_them(ratio: float) -> None:
    figure = pictures.plot_curves(metrics(2, train_loss=[0.4 * ratio, 0.4], test_loss=[0.4, 0.4]))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
    assert 2 <= len(ticks) <= 12
    assert high / low > 4.99


def test_a_confusion_matrix_shows_its_numbers_and_shares_and_dark_mistakes(tmp_path: Path) -> None:
    table = np.diag(np.full(10, 1000))
    table[7, 2], table[3, 5] = 40, 4
    figure = pictures.plot_confusion(table)
    written = texts(figure)
    assert "10,000 of 10,044 test images correct: 99.56 %" in written
    assert {"predicted", "true label", "recall"} <= set(written)
    assert [written.count(text) for text in ("1,000", "40", "4", "0", "96.2 %", "100.0 %")] == [10, 1, 3, 2, 1, 8]
    panel = figure.axes[0]
    assert [(t.get_text(), t.get_position()) for t in panel.texts if t.get_text() in ("4", "40")] == [
        ("4", (5, 3)),
        ("40", (2, 7)),
    ]
    shown = pixels(figure, tmp_path)
    assert shown.shape == (900, 1000)

    def lightness(row: int, column: int) -> float:
        across, down = panel.transData.transform((column + 0.3, row + 0.3)).round().astype(int)
        return float(shown[900 - down, across])

    assert lightness(7, 2) < 0.5 < lightness(3, 5) < lightness(0, 1)
    assert 0.9 < lightness(4, 4) < lightness(0, 1) == 1


def test_a_class_without_images_has_no_share_and_no_mistakes_are_drawn_too(tmp_path: Path) -> None:
    figure = pictures.plot_confusion(np.diag([5, 0, 3]))
    assert "8 of 8 test images correct: 100.00 %" in texts(figure)
    assert "-" in texts(figure)
    assert pixels(figure, tmp_path).shape == (900, 1000)


def test_mistakes_show_image_label_prediction_and_probability(tmp_path: Path) -> None:
    labels = TEST.labels
    predicted = np.where(np.arange(120) < 100, (labels + 3) % 10, labels)
    scores = scores_for(labels, predicted, 0.876)
    chosen = worst(scores, labels)
    figure = pictures.plot_mistakes(TEST, scores, chosen)
    written = texts(figure)
    assert "25 of 100 mistakes in 120 test images (true label → prediction), highest loss first" in written
    [panel] = figure.axes
    assert [text.get_text() for text in panel.texts] == [
        f"{labels[n]} → {predicted[n]} (88 % confident)" for n in range(25)
    ]
    assert np.array_equal([np.asarray(image.get_array()) for image in panel.images], TEST.images[:25])
    for image, text in zip(panel.images, panel.texts, strict=True):
        left, right, bottom, top = image.get_extent()
        x, y = text.get_position()
        assert left < x < right
        assert top > y > top - 0.1 * (bottom - top)
    assert pixels(figure, tmp_path).shape == (1100, 1000)


@pytest.mark.parametrize(("n", "height"), [(1, 260), (5, 260), (6, 470)])
def test_fewer_mistakes_take_fewer_rows(n: int, height: int, tmp_path: Path) -> None:
    predicted = np.where(np.arange(120) < n, (TEST.labels + 1) % 10, TEST.labels)
    scores = scores_for(TEST.labels, predicted)
    figure = pictures.plot_mistakes(TEST, scores, worst(scores, TEST.labels))
    assert len(figure.axes[0].images) == n
    assert pixels(figure, tmp_path).shape == (height, 1000)


def test_no_mistake_is_said(tmp_path: Path) -> None:
    scores = scores_for(TEST.labels, TEST.labels)
    figure = pictures.plot_mistakes(TEST, scores, worst(scores, TEST.labels))
    assert texts(figure) == ["No mistake in 120 test images"]
    assert pixels(figure, tmp_path).min() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("n", "shown"), [(1, 1), (6, 6), (100, 64)])
def test_filters_are_drawn_on_one_scale_with_0_in_the_middle(n: int, shown: int, tmp_path: Path) -> None:
    images = np.random.default_rng(n).standard_normal((n, 3, 5))
    figure = pictures.plot_filters("conv1/w", images)
    drawn = figure.axes[0].images
    assert len(drawn) == shown
    limit = np.abs(images[:64]).max()
    assert {image.get_clim() for image in drawn} == {(-limit, limit)}
    some = f"{n}" if n == shown else f"the first 64 of {n}"
    assert f"conv1/w: {some} filters of 3 x 5" in texts(figure)
    assert pixels(figure, tmp_path).shape == (800, 1200)


def test_filters_of_zeros_are_grey(tmp_path: Path) -> None:
    figure = pictures.plot_filters("w", np.zeros((1, 2, 2)))
    assert pixels(figure, tmp_path)[300:400, 200:300].mean() == pytest.approx(0.5, abs=0.01)


# Report


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its report in it."""
    folder = run_in(tmp_path_factory.mktemp("runs") / "drawn", line(1), line(2))
    assert report(folder, NET, TEST) == [folder / name for name in WITH_FILTERS]
    return folder


def test_a_report_is_files_in_the_folder_of_the_run(drawn: Path) -> None:
    files = {"config.json", "metrics.jsonl", "best.pkl", *WITH_FILTERS}
    assert {path.name for path in drawn.iterdir()} == files
    for name, size in zip(WITH_FILTERS, [(800, 1200), (900, 1000), (1100, 1000), (800, 1200)], strict=True):
        shown = imread(drawn / name)
        assert shown.shape[:2] == size
        assert shown[..., :3].std() > 0.05, f"{name} is blank"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_report_is_the_same_each_time_and_another_of_other_params(seed: int, drawn: Path, tmp_path: Path) -> None:
    folder = run_in(tmp_path, line(1), line(2))
    fnn.save(folder / "best.pkl", NET.init(seed, (1, 28, 28)))
    report(folder, shard(NET, 1), TEST)
    same = [(folder / name).read_bytes() == (drawn / name).read_bytes() for name in WITH_FILTERS]
    assert same == [True, seed == 0, seed == 0, seed == 0]


@pytest.mark.slow
def test_a_net_without_first_filters_has_the_other_pictures(tmp_path: Path) -> None:
    net = serial(maxpool(2), dense(10))
    folder = run_in(tmp_path / "run", line(1), net=net)
    assert [path.name for path in report(folder, net, TEST)] == WITH_FILTERS[:3]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"expected a run, got a folder without config\.json"):
            report(folder, NET, TEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", [True, False])
def test_a_run_whose_first_epoch_is_not_finished_is_refused(tmp_path: Path, written: bool) -> None:
    folder = run_in(tmp_path)
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
        json.dumps(line(2, rate="high")),
        json.dumps(line(2, test_loss=None)),
        json.dumps(line(2, train_loss=float("nan"))),
        json.dumps(line(2, test_loss=float("inf"))),
        json.dumps(line(2) | {"epoch": True}),
        json.dumps(line(2) | {"epoch": float("nan")}),
        json.dumps({"epoch": 2}),
        "\0",
    ],
)
def test_damaged_metrics_are_refused_in_a_line_that_names_them(tmp_path: Path, damage: str) -> None:
    folder = run_in(tmp_path, line(1))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(damage + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl: (damaged: |line 2: expected )") as raised:
        report(folder, NET, TEST)
    assert "\n" not in str(raised.value)
    assert not list(folder.glob("*.png"))


def test_params_that_are_damaged_missing_or_another_nets_are_refused(tmp_path: Path) -> None:
    folder = run_in(tmp_path, line(1))
    with pytest.raises(CheckpointError, match=r"best\.pkl.*conv1/w"):
        report(folder, serial(conv(5, 3), dense(10)), TEST)
    (folder / "best.pkl").write_bytes(b"\x80\x04garbage")
    with pytest.raises(CheckpointError, match=r"best\.pkl"):
        report(folder, NET, TEST)
    (folder / "best.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"best\.pkl"):
        report(folder, NET, TEST)
    assert not list(folder.glob("*.png"))


def test_a_file_that_cannot_be_written_is_named_and_the_others_are_whole(tmp_path: Path) -> None:
    folder = run_in(tmp_path, line(1))
    (folder / "confusion.png").mkdir()
    with pytest.raises(OSError, match=r"confusion\.png"):
        report(folder, NET, TEST)
    assert imread(folder / "curves.png").shape[:2] == (800, 1200)
    assert not list(folder.glob(".fnn-*"))


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fnn.run.pictures")
    monkeypatch.delattr(fnn.run, "pictures")
    with pytest.raises(RunError, match=r": a report needs matplotlib: pip install '\.\[plot\]'$"):
        report(run_in(tmp_path, line(1)), NET, TEST)


CHECK = """
import sys
from pathlib import Path
import fnn, fnn.run.report
assert not any(name.startswith("matplotlib") for name in sys.modules), "imported before it is needed"
import matplotlib
before = str(dict.items(matplotlib.rcParams))  # rcParams["backend"] would choose a backend
net = fnn.serial(fnn.conv(4, 3, padding=1), fnn.maxpool(2), fnn.tanh, fnn.dense(10))
fnn.run.report.report(Path(sys.argv[1]), net, fnn.data.digits(50, 1))
assert "matplotlib.pyplot" not in sys.modules
assert str(dict.items(matplotlib.rcParams)) == before
"""


@pytest.mark.slow
def test_matplotlib_is_imported_when_needed_and_its_global_state_left_alone(tmp_path: Path) -> None:
    done = python("-W", "error", "-c", CHECK, run_in(tmp_path, line(1)))
    assert (done.returncode, done.stderr) == (0, "")
