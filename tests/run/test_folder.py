import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
import train
from fnn import dense, run, serial
from fnn.data import Dataset, Examples
from fnn.run.folder import NETS_BY_NAME, read_config, read_ended, write_metrics
from fnn.run.training import format_result
from tests.support.runs import DATA, make_task, no_log, stop_after

CONFIG: dict[str, Any] = {
    "net": "dense(10)",
    "recipe": "a",
    "epochs": 3,
    "lr": 0.1,
    "limit": None,
    "validation": 0,
} | run.IMAGES
CHOICES = {"recipe": {"a": 1, "b": 2}}


def test_read_config_returns_what_write_config_wrote(tmp_path: Path) -> None:
    run.write_config(tmp_path, CONFIG)
    assert read_config(tmp_path) == CONFIG
    assert run.check_config(tmp_path, CONFIG, {"epochs": 3, "lr": 0.1}, CHOICES) == CONFIG
    assert run.check_config(tmp_path, CONFIG | {"lr": 7}, {}, CHOICES) == CONFIG


def test_check_config_lists_every_setting_that_differs(tmp_path: Path) -> None:
    run.write_config(tmp_path, CONFIG)
    message = f"{tmp_path}: expected the settings of its run, epochs 3, limit None; got epochs 4, limit 9"
    with pytest.raises(run.RunError, match=f"^{re.escape(message)}$"):
        run.check_config(tmp_path, CONFIG, {"net": "dense(10)", "epochs": 4, "limit": 9}, CHOICES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"config\.json: damaged: Expecting value: line 1 column 1 \(char 0\)"),
        (b"\xff", r"config\.json: damaged: 'utf-8' codec can't decode byte 0xff"),
        ("[]", r"config\.json: expected names and values, got a list"),
        (
            json.dumps({"recipe": "a"} | run.IMAGES),
            r"config\.json: missing or unknown names \['epochs', 'limit', 'lr', 'net', 'validation'\]",
        ),
        (
            json.dumps(CONFIG | {"recipe": ["a"]}),
            r"config\.json: recipe: expected one of \['a', 'b'\], got \['a'\]",
        ),
        (json.dumps(CONFIG | {"net": ["cnn"]}), r"config\.json: net: expected a net as text, got \['cnn'\]"),
        (json.dumps(CONFIG | {"shape": []}), r"config\.json: shape: expected a value like \[1, 28, 28\], got \[\]"),
        (json.dumps(CONFIG | {"shape": [1, 0]}), r"config\.json: shape: expected a value like "),
        (json.dumps(CONFIG | {"scaling": 255}), r"config\.json: scaling: expected a value like .*, got 255"),
        (json.dumps(CONFIG | {"scaling": {"divide_by": 255, "subtract": "1"}}), r"config\.json: scaling: expected a "),
        (json.dumps(CONFIG | {"classes": [0, 1]}), r"config\.json: classes: expected a value like .*, got \[0, 1\]"),
        (json.dumps(CONFIG | {"epochs": "3"}), r"config\.json: epochs: expected an integer from 1, got '3'"),
        (json.dumps(CONFIG | {"lr": -1}), r"config\.json: lr: expected a number from 0, got -1"),
        (json.dumps(CONFIG | {"limit": 0}), r"config\.json: limit: expected null or an integer from 1, got 0"),
    ],
)
def test_check_config_refuses_a_damaged_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(run.RunError, match=message):
        run.check_config(tmp_path, CONFIG, {}, CHOICES)


def test_read_config_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(run.RunError, match=r"a: expected a run, got no file .*config\.json$"):
        read_config(tmp_path / "a")


@pytest.mark.parametrize("text", ['{"epoch": 1}\n{"epo', '{"epoch": 1}\n{"epoch": 3}\n', "[]\n", "7\n", "{}\n", "\n"])
def test_read_metrics_refuses_a_damaged_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(run.RunError, match=r"metrics\.jsonl: (damaged: |line \d: expected the metrics of epoch \d$)"):
        run.read_metrics(tmp_path)


def test_locked_allows_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with run.locked(folder, new=True):
        for new in (True, False):
            with pytest.raises(run.RunError, match=r"a/run: in use by another run$"), run.locked(folder, new):
                pytest.fail("locked twice")
    with run.locked(folder, new=False):
        pass
    with pytest.raises(ZeroDivisionError), run.locked(folder, new=True):
        raise ZeroDivisionError
    with run.locked(folder, new=True):
        pass


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "state.pkl", "params.pkl"])
def test_locked_refuses_a_new_run_in_a_folder_with_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    message = f"{tmp_path}: expected a folder without a run; to continue its run, use --resume {tmp_path}"
    with pytest.raises(run.RunError, match=f"^{re.escape(message)}$"), run.locked(tmp_path, new=True):
        pytest.fail("locked a folder with a run")


def test_add_data_recognizes_data_by_its_content(tmp_path: Path) -> None:
    config = run.add_data({"data": None, "data_sha256": None}, DATA._replace(source="some/where"), tmp_path)
    assert config["data"] == os.path.abspath("some/where")
    assert run.add_data(config, DATA._replace(source="moved"), tmp_path) == config
    images, labels = DATA.train
    others = [
        Dataset(Examples(images[:-1], labels[:-1]), DATA.test, "x"),
        Dataset(Examples(images, labels[::-1]), DATA.test, "x"),
        Dataset(Examples(images.transpose(0, 2, 1), labels), DATA.test, "x"),
        Dataset(DATA.train, Examples(DATA.test.images ^ np.uint8(1), DATA.test.labels), "x"),
    ]
    for other in others:
        with pytest.raises(run.RunError, match=r"^x: expected the data of the run in .*, got other images or labels$"):
            run.add_data(config, other, tmp_path)


def test_add_data_records_generated_digits_as_digits(tmp_path: Path) -> None:
    config = {"data": None, "data_sha256": None}
    assert run.add_data(config, DATA._replace(source="generated digits"), tmp_path)["data"] == "digits"


def test_read_state_refuses_a_state_of_another_task(tmp_path: Path) -> None:
    task = make_task()
    run.train(task, run.start(task), tmp_path, 1e9, stop_after(11), no_log)
    for other in (make_task(net=serial(dense(10))), make_task(optimizer=fnn.sgd(0.1))):
        with pytest.raises(fnn.CheckpointError, match=r"state\.pkl: does not match like"):
            run.read_state(tmp_path, other)
    with pytest.raises(
        fnn.CheckpointError, match=r"state\.pkl: expected epoch 1 to 4 and batch 0 to 2, got epoch 2 and batch 3$"
    ):
        run.read_state(tmp_path, make_task(batch_size=35))


def test_read_state_without_a_file_is_the_initial_state(tmp_path: Path) -> None:
    assert run.read_state(tmp_path, make_task())["step"] == 0


def save_run(folder: Path, best: fnn.Op, **changes: Any) -> fnn.Params:
    """Writes the files of a run that `load_run` needs, and returns the best params."""
    params = best.init(1, (1, 28, 28))
    run.write_config(folder, CONFIG | {"net": run.format_net(best)} | changes)
    fnn.save(folder / "params.pkl", params)
    return params


@pytest.mark.parametrize(
    "net", [serial(dense(3), fnn.tanh, dense(10)), serial(fnn.conv(2, 3, w_init=fnn.init.he_normal), dense(10))]
)
def test_load_run_needs_only_the_folder(tmp_path: Path, net: fnn.Op) -> None:
    params = save_run(tmp_path, net)
    found = run.load_run(tmp_path)
    assert (repr(found.net), found.shape, found.config["classes"]) == (repr(net), (1, 28, 28), list("0123456789"))
    x = fnn.data.as_float(DATA.test.images)
    assert found.net.apply(found.params, x)[0].tobytes() == net.apply(params, x)[0].tobytes()


def test_config_scaling_is_that_of_as_float(tmp_path: Path) -> None:
    save_run(tmp_path, dense(10))
    scaling, pixels = run.load_run(tmp_path).config["scaling"], DATA.test.images.astype(np.float32)[:, np.newaxis]
    assert np.array_equal(pixels / scaling["divide_by"] - scaling["subtract"], fnn.data.as_float(DATA.test.images))


def test_load_run_accepts_your_own_operators(tmp_path: Path) -> None:
    @fnn.operator
    def block(n: int) -> fnn.Op:
        return serial(dense(n), fnn.relu)

    save_run(tmp_path, serial(block(4), dense(10)))
    with pytest.raises(run.RunError, match=r"config\.json: net: expected the name of an operator .*, got 'block'"):
        run.load_run(tmp_path)
    assert repr(run.load_run(tmp_path, {"block": block}).net) == "serial(block(4), dense(10))"


@pytest.mark.parametrize("name", NETS_BY_NAME)
def test_load_run_reads_the_folder_of_an_earlier_version(tmp_path: Path, name: str) -> None:
    net = fnn.parse_net(NETS_BY_NAME[name])
    save_run(tmp_path, net)
    (tmp_path / "params.pkl").rename(tmp_path / "best.pkl")
    old = {key: value for key, value in CONFIG.items() if key not in run.IMAGES} | {"net": name}
    del old["validation"]
    run.write_config(tmp_path, old)
    found = run.load_run(tmp_path)
    assert repr(found.net) == repr(net)
    assert found.config == CONFIG | {"net": run.format_net(net)}


def test_nets_by_name_are_those_of_train() -> None:
    assert {name: run.format_net(net) for name, net in train.NETS.items()} == NETS_BY_NAME


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": "dense(10"}, r"config\.json: net: expected .*, got the end of the text \(line 1, column 9\)$"),
        ({"net": "__import__('os')"}, r"config\.json: net: expected the name of an operator "),
        ({"net": "conv(1, 99)"}, r"config\.json: conv: expected "),
        ({"shape": [28]}, r"params\.pkl: does not match"),
    ],
)
def test_load_run_refuses_a_wrong_configuration(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_run(tmp_path, dense(10), **changes)
    with pytest.raises((run.RunError, fnn.CheckpointError), match=message):
        run.load_run(tmp_path)


def test_load_run_refuses_a_run_without_params(tmp_path: Path) -> None:
    run.write_config(tmp_path, CONFIG)
    with pytest.raises(run.RunError, match=r"expected params\.pkl, got no such file; each epoch writes it at its end$"):
        run.load_run(tmp_path)


def test_format_net_is_one_line_that_parse_net_reads() -> None:
    strange = [fnn.named(f"a,\n (x{i}", dense(10)) for i in range(12)]
    for net in (*train.NETS.values(), serial(*[serial(*[dense(99)] * 30)] * 3), serial(*strange)):
        line = run.format_net(net)
        assert "\n" not in line
        assert "  " not in line
        assert repr(fnn.parse_net(line)) == repr(net)


def test_format_result_of_an_earlier_version_has_the_accuracy_of_its_best_epoch(tmp_path: Path) -> None:
    lines: list[run.Metrics] = [
        {"epoch": epoch, "test_accuracy": accuracy} for epoch, accuracy in enumerate((0.5, 0.9, 0.8), 1)
    ]
    (tmp_path / "best.pkl").touch()
    assert format_result(tmp_path, lines) == f"test acc: 0.9000; params: {tmp_path / 'best.pkl'}"
    (tmp_path / "params.pkl").touch()
    assert format_result(tmp_path, lines) == f"test acc: 0.8000; params: {tmp_path / 'params.pkl'}"


def test_read_ended_refuses_missing_metrics(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"epoch": 1}, {"epoch": 2}])
    assert read_ended(tmp_path, {"epoch": 2}) == [{"epoch": 1}]
    with pytest.raises(run.RunError, match=r"metrics\.jsonl: expected the metrics of 3 epochs, got 2$"):
        read_ended(tmp_path, {"epoch": 4})
