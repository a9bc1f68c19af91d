"""`python -m fnn`: each command, from a run folder alone or a file of params, also without the repository."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fnn
from fnn import batch_norm, conv, dense, dropout, maxpool, relu, run, serial, tanh
from fnn.__main__ import COMMANDS, main
from fnn.data import digits, mnist
from fnn.run.settings import NETS_BY_NAME
from tests.support import programs
from tests.support.runs import make_task, no_log, write_small_mnist

NET = serial(conv(4, 3), maxpool(4), tanh, dense(10))
Output = tuple[int, str, str]
Call = Callable[..., Output]


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_mnist(tmp_path_factory.mktemp("mnist"))


def make_run(folder: Path, source: Path, net: fnn.Op = NET) -> Path:
    """Trains the net for two epochs on the data in `source`; returns the folder of the run."""
    data = mnist(source)
    task = make_task(net=fnn.shard(net, 1, 50), data=data, epochs=2, shard_size=50)
    settings = {"net": run.format_net(net), "limit": None, "data": None, "data_sha256": None}
    run.write_config(folder, run.add_data(settings | run.IMAGES, data, folder))
    run.train(task, run.start(task), folder, log=no_log)
    return folder


@pytest.fixture(scope="module")
def a_run(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), small_mnist)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """A function that runs a command and returns its status, output and errors."""

    def call(*arguments: object) -> Output:
        status = main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


def best_accuracy(folder: Path) -> str:
    return f"test acc: {max(line['test_accuracy'] for line in run.read_metrics(folder)):.4f} "


def test_eval_prints_the_best_accuracy_of_the_run(call: Call, a_run: Path, small_mnist: Path) -> None:
    status, out, err = call("eval", a_run)
    data, accuracy = out.splitlines()
    assert (status, err, data) == (0, "", f"data: {small_mnist}: 100 test images")
    assert accuracy.startswith(best_accuracy(a_run))


def test_eval_reads_a_file_of_params_and_a_net_as_text(call: Call, a_run: Path, small_mnist: Path) -> None:
    for text in (repr(NET), run.format_net(NET)):
        status, out, err = call("eval", a_run / "params.pkl", "--net", text, "--data", small_mnist)
        assert (status, err) == (0, "")
        assert out.splitlines()[1].startswith(best_accuracy(a_run))


def test_eval_reads_a_run_of_an_earlier_version(call: Call, small_mnist: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path, small_mnist, fnn.parse_net(NETS_BY_NAME["fc"]))
    config = json.loads((folder / "config.json").read_text())
    old = {name: value for name, value in config.items() if name not in run.IMAGES} | {"net": "fc"}
    (folder / "config.json").write_text(json.dumps(old))
    assert call("eval", folder)[1].splitlines()[1].startswith(best_accuracy(folder))
    assert call("eval", folder / "params.pkl", "--net", "fc", "--data", small_mnist)[0] == 0


def test_eval_without_the_data_says_how_to_name_it(call: Call, small_mnist: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(small_mnist, tmp_path / "moved")
    folder = make_run(tmp_path, moved)
    shutil.rmtree(moved)
    status, out, err = call("eval", folder)
    assert (status, out) == (1, "")
    place = f"the settings are in {folder / 'config.json'}; use --data to name the folder of MNIST"
    assert re.fullmatch(rf"fnn eval: error: {re.escape(str(moved))}: .*; {re.escape(place)}\n", err)
    assert call("eval", folder, "--data", small_mnist)[0] == 0


@pytest.mark.slow
def test_report_draws_only_for_the_data_of_the_run(call: Call, a_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = Path(shutil.copytree(a_run, tmp_path / "run"))
    status, out, err = call("report", folder)
    names = [line.removeprefix(f"wrote: {folder}/") for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert names == ["curves.png", "confusion.png", "mistakes.png", "filters.png"]
    before = {name: (folder / name).read_bytes() for name in names}
    status, out, err = call("report", folder, "--data", "digits")
    assert (status, out) == (1, "")
    assert "expected the data of the run in" in err
    assert {name: (folder / name).read_bytes() for name in names} == before


@pytest.mark.slow
def test_report_lists_epochs_without_metrics(call: Call, a_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = Path(shutil.copytree(a_run, tmp_path / "run"))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[1:]))
    status, out, err = call("report", folder)
    assert (status, err, out.count("wrote: ")) == (0, "", 4)
    assert out.splitlines()[-1] == f"{folder / 'metrics.jsonl'}: the metrics of these epochs are missing: 1"


def test_export_writes_a_model_that_states_its_input(call: Call, a_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    status, out, err = call("export", a_run, tmp_path / "model.onnx")
    assert (status, err) == (0, "")
    assert out.startswith(f'wrote: {tmp_path}/model.onnx; its input is "pixels", float32 (batch, 1, 28, 28): ')
    first = (tmp_path / "model.onnx").read_bytes()
    assert call("export", a_run / "params.pkl", tmp_path / "model.onnx", "--net", repr(NET))[0] == 0
    assert (tmp_path / "model.onnx").read_bytes() == first


def save_digits(folder: Path, n: int) -> tuple[list[Path], list[int]]:
    """Saves n digits as dark on white images of 140 x 140 pixels; returns the files and the labels."""
    image = pytest.importorskip("PIL.Image")
    images, labels = digits(n, 17)
    paths = [folder / f"{i}.png" for i in range(n)]
    for path, array in zip(paths, images, strict=True):
        image.fromarray(255 - array).resize((140, 140)).save(path)
    return paths, labels.tolist()


@pytest.mark.slow
def test_predict_prints_class_and_probability(call: Call, small_mnist: Path, tmp_path: Path) -> None:
    task = make_task(
        net=fnn.shard(NET, 1, 50),
        data=fnn.data.Dataset(digits(4000, 5), digits(100, 6), "digits"),
        optimizer=fnn.adam(0.01),
        epochs=3,
        batch_size=50,
    )
    run.write_config(tmp_path, {"net": run.format_net(NET)} | run.IMAGES)
    run.train(task, run.start(task), tmp_path, log=no_log)
    paths, labels = save_digits(tmp_path, 40)
    status, out, err = call("predict", tmp_path, *paths)
    assert (status, err) == (0, "")
    found = [re.fullmatch(r"(.*): (\d) \((\d+\.\d)%\)", line) for line in out.splitlines()]
    assert [match[1] for match in found if match] == [str(path) for path in paths]
    assert all(10 < float(match[3]) <= 100 for match in found if match)
    assert np.mean([int(match[2]) == label for match, label in zip(found, labels, strict=True) if match]) > 0.7


def test_predict_prints_the_names_of_the_classes(call: Call, a_run: Path, tmp_path: Path) -> None:
    paths, _ = save_digits(tmp_path, 3)
    folder = Path(shutil.copytree(a_run, tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"classes": [f"digit {i}" for i in range(10)]}))
    assert re.search(r"0\.png: digit \d \(", call("predict", folder, *paths)[1])
    (folder / "config.json").write_text(json.dumps(config | {"classes": ["a"]}))
    assert "expected a score for each of 1 classes, got 10" in call("predict", folder, *paths)[2]
    (folder / "config.json").write_text(json.dumps(config | {"scaling": {"divide_by": 255, "subtract": 0}}))
    expected = "config.json: scaling: expected {'divide_by': 127.5, 'subtract': 1.0} for this command, got"
    assert f"{folder}/{expected}" in call("predict", folder, *paths)[2]


def test_summary_shows_the_net_of_a_run_or_a_text(call: Call, a_run: Path) -> None:
    expected = f"{fnn.summary(NET, (1, 28, 28))}\n"
    assert call("summary", a_run) == call("summary", "--net", repr(NET)) == (0, expected, "")


@pytest.mark.parametrize(
    "net", [None, repr(serial(conv(2, 3), batch_norm(), relu, dropout(0.2), maxpool(4), dense(3)))]
)
def test_check_runs_check_op(call: Call, a_run: Path, net: str | None) -> None:
    status, out, err = call("check", a_run) if net is None else call("check", "--net", net)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"passed; the largest relative error of a gradient is \d\.\de-\d+\n", out)


def test_check_reports_a_failure(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> float:
        raise fnn.testing.CheckError("dense", "gradients", "wrong")

    monkeypatch.setattr("fnn.__main__.check_op", fail)
    status, out, _ = call("check", "--net", "dense(3)")
    assert (status, out.splitlines()[0]) == (1, "failed: dense: gradients: wrong")


def test_check_failure_names_the_operator(call: Call) -> None:
    status, out, err = call("check", "--net", "embedding(300, 2)")
    assert (status, err) == (1, "")
    assert out.startswith(
        "failed: embedding: init: expected no error, got OpError: embedding: expected an array of int"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "RUN", "--net", "fc"), "RUN: expected a file of params with --net; a run folder has its own net"),
        (("eval", "RUN/params.pkl"), "RUN/params.pkl: expected the folder of a run, or a file of params with --net"),
        (("eval", "RUN/nothing", "--net", "fc"), "RUN/nothing: No such file or directory"),
        (("report", "RUN/params.pkl"), "RUN/params.pkl: expected the folder of a run"),
        (("check",), "expected the folder of a run, or a file of params with --net, or --net alone"),
        (("eval", "RUN/.."), "RUN/..: expected a run, got no file RUN/../config.json"),
        (("summary", "--net", "dens(3)"), "net: expected the name of an operator or initialiser of fnn, got 'dens'"),
        (("export", "RUN", "RUN/no/a.onnx"), "RUN/no/a.onnx: No such file or directory"),
        (("export", "RUN", "RUN/params.pkl"), "RUN/params.pkl: expected a name that ends with .onnx, so that no other"),
        (("summary", "--net", "dense(100000000000)"), "Unable to allocate "),
        (("summary", "--net", "conv(10000000000, 10000000)"), "conv: expected arrays of sizes that NumPy allows, got "),
        (("eval", "RUN/\ud800\n\x1b[31m"), "RUN/\\ud800\\n\\x1b[31m: expected the folder of a run, or a file of "),
        (("predict", "RUN", "RUN/config.json"), "RUN/config.json: expected an image that Pillow can read: "),
        (("eval", "RUN/params.pkl", "--net", "fc"), "RUN/params.pkl: does not match like"),
    ],
)
def test_commands_say_what_is_wrong_in_one_line(
    call: Call, a_run: Path, arguments: tuple[str, ...], message: str
) -> None:
    pytest.importorskip("PIL")
    pytest.importorskip("onnx")
    status, out, err = call(*[argument.replace("RUN", str(a_run)) for argument in arguments])
    assert (status, out) == (1, "")
    assert err.startswith(f"fnn {arguments[0]}: error: {message.replace('RUN', str(a_run))}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("train",), "argument COMMAND: invalid choice: 'train'"),
        (("eval",), "the following arguments are required: RUN|FILE"),
        (("eval", ""), "argument RUN|FILE: expected a text, got ''"),
        (("predict", "a"), "the following arguments are required: IMAGE"),
        (("export", "a"), "the following arguments are required: MODEL"),
        (("report", "a", "--net", "fc"), "unrecognized arguments: --net fc"),
    ],
)
def test_commands_refuse_wrong_arguments(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_that_can_be_parsed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"example: python -m fnn {command} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_commands_work_without_the_repository(a_run: Path, tmp_path: Path) -> None:
    for package in ("matplotlib", "onnx", "PIL"):
        pytest.importorskip(package)
    shutil.copytree(programs.ROOT / "fnn", tmp_path / "site" / "fnn", ignore=shutil.ignore_patterns("__pycache__"))
    folder, elsewhere = Path(shutil.copytree(a_run, tmp_path / "run")), tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths, _ = save_digits(tmp_path, 2)
    variables = programs.environment() | {"PYTHONPATH": str(tmp_path / "site")}

    def python(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=elsewhere, env=variables, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    assert python("-c", "import fnn; print(fnn.__file__)").strip() == str(tmp_path / "site" / "fnn" / "__init__.py")
    assert best_accuracy(folder) in python("-m", "fnn", "eval", folder)
    assert python("-m", "fnn", "report", folder).count("wrote: ") == 4
    assert "pixels" in python("-m", "fnn", "export", folder, "model.onnx")
    assert python("-m", "fnn", "predict", folder, *paths).count("%)") == 2
    assert "total" in python("-m", "fnn", "summary", folder / "params.pkl", "--net", run.format_net(NET))
    assert python("-m", "fnn", "check", folder).startswith("passed")
    assert os.listdir(elsewhere) == ["model.onnx"]


SMALLER_FC = serial(dense(2), fnn.sigmoid, dense(3), fnn.sigmoid, dense(4))


class RunsCommand:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo harm",)


@pytest.mark.parametrize(
    "content", ["hostile", "truncated", "empty", "foreign", "other net", "other shapes", "missing", "nan", "inf"]
)
def test_eval_refuses_bad_params_in_one_line(call: Call, small_mnist: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.pkl"
    net = SMALLER_FC if content == "other shapes" else fnn.serial(fnn.dense(3))
    if content in ("nan", "inf"):
        params = fnn.parse_net(NETS_BY_NAME["fc"]).init(0, (1, 28, 28))
        params["dense2"]["b"][3] = float(content)
        fnn.save(path, params)
    elif content != "missing":
        fnn.save(path, net.init(0, (4,)))
    if content == "hostile":
        path.write_bytes(pickle.dumps(RunsCommand()))
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif content in ("empty", "foreign"):
        path.write_bytes(b"" if content == "empty" else b"PK\x03\x04 something")
    status, out, err = call("eval", path, "--net", "fc", "--data", small_mnist)
    assert (status, out) == (1, "")
    assert err.startswith("fnn eval: error: ")
    assert str(path) in err
    assert err.count("\n") == 1
    if content in ("nan", "inf"):
        assert "expected finite params, got params/dense2/b has 1 nan" in err or "has 0 nan and 1 infinite" in err


@pytest.mark.slow
def test_commands_use_calibrated_batch_norm(call: Call, small_mnist: Path, tmp_path: Path) -> None:
    net = serial(conv(4, 3), batch_norm(), relu, maxpool(4), dense(16), batch_norm(), relu, dense(10))
    folder = make_run(tmp_path, small_mnist, net)
    best = fnn.load(folder / "params.pkl")
    for name in "batch_norm1", "batch_norm2":
        assert np.ptp(best[name]["mean"]) > 0
        assert np.ptp(best[name]["var"]) > 0
    assert call("eval", folder)[1].splitlines()[1].startswith(best_accuracy(folder))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the page ends at once."""
    monkeypatch.setattr("fnn.page.server.PageServer.serve_forever", lambda server: None)


@pytest.mark.usefixtures("no_waiting")
def test_draw_prints_the_address(call: Call, a_run: Path, small_mnist: Path) -> None:
    status, output, errors = call("draw", a_run, "--no-browser", "--data", small_mnist)
    assert (status, errors) == (0, "")
    address, hint = output.splitlines()
    assert re.fullmatch(r"draw a digit at http://127\.0\.0\.1:\d+/[\w-]{22}/", address)
    assert hint == "Ctrl-C stops the page"


@pytest.mark.usefixtures("no_waiting")
def test_draw_without_images_for_lessons(call: Call, a_run: Path, small_mnist: Path, tmp_path: Path) -> None:
    status, output, errors = call("draw", a_run, "--no-browser", "--data", tmp_path / "none")
    assert (status, errors) == (0, "")
    assert output.startswith(f"without lessons: {tmp_path / 'none'}: No such file or directory; use --data to name")
    net, folder = serial(dense(3)), tmp_path / "three"
    folder.mkdir()
    config = json.loads((a_run / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"net": run.format_net(net), "classes": list("abc")}))
    fnn.save(folder / "params.pkl", net.init(0, (1, 28, 28)))
    status, output, errors = call("draw", folder, "--no-browser", "--data", small_mnist)
    assert (status, errors) == (0, "")
    assert output.startswith(f"without lessons: {small_mnist}: expected labels below 3, got 9\n")


@pytest.mark.usefixtures("no_waiting")
def test_draw_needs_a_finite_score_for_each_class(call: Call, a_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(a_run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"classes": ["a", "b"]}))
    error = f"fnn draw: error: {folder}: expected a score for each of 2 classes, got 10\n"
    assert call("draw", folder, "--no-browser") == (1, "", error)
    (folder / "config.json").write_text(json.dumps(config))
    params = fnn.load(folder / "params.pkl")
    params["dense1"]["b"][0] = np.nan
    fnn.save(folder / "params.pkl", params)
    got = "params/dense1/b has 1 nan and 0 infinite of 10 numbers"
    error = f"fnn draw: error: {folder / 'params.pkl'}: expected finite params, got {got}\n"
    assert call("draw", folder, "--no-browser") == (1, "", error)
