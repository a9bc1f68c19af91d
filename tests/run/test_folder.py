import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
import train
from fnn import dense, run, serial
from fnn.data import Dataset, Examples
from fnn.run.folder import describe_missing, read_config, read_ended, write_metrics
from fnn.run.settings import NETS_BY_NAME, SETTINGS
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
        (json.dumps(CONFIG | {"lr": -1}), r"config\.json: lr: expected a number above 0, got -1"),
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


def make_metrics(*epochs: int) -> list[run.Metrics]:
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "rate")
    return [{"epoch": epoch, **dict.fromkeys(names, 0.5)} for epoch in epochs]


@pytest.mark.parametrize("epochs", [(), (1, 2), (2, 5), (7,)])
@pytest.mark.parametrize("end", ["", '{"epo', "\0" * 9])
def test_read_metrics_returns_the_lines_that_are_not_lost(tmp_path: Path, epochs: tuple[int, ...], end: str) -> None:
    write_metrics(tmp_path, make_metrics(*epochs))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(end)
    assert run.read_metrics(tmp_path) == make_metrics(*epochs)
    missing = [str(epoch) for epoch in range(1, 8) if epoch not in epochs]
    path = tmp_path / "metrics.jsonl"
    assert describe_missing(tmp_path, make_metrics(*epochs), 7) == (
        f"{path}: the metrics of these epochs are missing: {', '.join(missing)}"
    )


def test_describe_missing_is_empty_if_no_metrics_are_missing(tmp_path: Path) -> None:
    assert describe_missing(tmp_path, make_metrics(1, 2, 3), 3) == ""


GOOD = json.dumps(make_metrics(1)[0])


@pytest.mark.parametrize(
    "text", [f"{GOOD}\n{GOOD}", "[]", "7", "{}", "", '{"epoch": 1}', "[" * 100_000, "9" * 5000, "\0"]
)
def test_read_metrics_refuses_a_damaged_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text + "\n")
    with pytest.raises(run.RunError, match=r"metrics\.jsonl: (damaged: )?line \d: \S.*$"):
        run.read_metrics(tmp_path)


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """Returns the result of the call, or None and the message of its RunError."""
    try:
        return call(), ""
    except run.RunError as error:
        return None, str(error)


STRANGE: list[Any] = [
    None,
    True,
    False,
    -1,
    2,
    0.5,
    10**400,
    float("nan"),
    float("inf"),
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("name", make_metrics(1)[0])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:9])
def test_read_metrics_returns_numbers_only(tmp_path: Path, name: str, value: Any) -> None:
    line = make_metrics(1)[0] | {name: value}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    lines, message = outcome(lambda: run.read_metrics(tmp_path))
    if lines:
        assert all(math.isfinite(number) for number in lines[0].values())
        assert 0 <= lines[0]["test_accuracy"] <= 1
    else:
        expected = r"metrics\.jsonl: line 1: expected .*"
        assert re.search(expected + (r"epoch 1 or later$" if name == "epoch" else f"as {name}, got "), message)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:9])
def test_read_config_returns_what_the_settings_allow_or_names_them(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {name: value}))
    config, message = outcome(lambda: read_config(tmp_path))
    if config:
        assert config[name] == value
        assert type(value) is not bool
        assert value not in (10**400, math.inf)
    else:
        assert re.search(rf"config\.json: {name}: expected .*, got [^\n]{{1,60}}$", message)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "shard_size", "seed", "validation", "limit", "lr"])
@pytest.mark.parametrize("value", ["-1", "0", "1", "3", str(2**63 - 1), str(2**63)])
def test_settings_allow_what_the_flags_allow(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []
    monkeypatch.setattr(run, "choose_settings", lambda args, *_: parsed.append(getattr(args, name)))
    monkeypatch.setattr(run, "run_task", lambda *_: 0)
    monkeypatch.setattr(sys, "argv", ["train.py", f"--{name.replace('_', '-')}", value])
    try:
        train.main()
    except SystemExit:
        assert not SETTINGS[name][1](json.loads(value))
    else:
        assert SETTINGS[name][1](parsed[0])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"epochs": ' + "9" * 5000 + "}", "\0", "\ufeff{}"])
def test_read_config_refuses_any_text_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(run.RunError, match=r"config\.json: damaged: [^\n]*$"):
        read_config(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes and links")
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "state.pkl", "params.pkl", "lock"])
def test_a_run_reads_no_pipes_and_writes_through_no_links(tmp_path: Path, name: str) -> None:
    folder, task = tmp_path / "run", make_task()
    folder.mkdir()
    save_run(folder, dense(10))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    def read() -> None:
        with run.locked(folder, new=False):
            run.load_run(folder)
            run.read_state(folder, task)
            run.read_metrics(folder)

    with pytest.raises((run.RunError, fnn.CheckpointError), match=f"{name}: expected a regular file, got a folder or "):
        read()
    (folder / name).unlink()
    (tmp_path / "precious").write_text("precious")
    (folder / name).symlink_to("../precious")
    expected = rf"{name}: expected a file in the folder, got a link to \.\./precious$"
    for new in (True, False):
        with pytest.raises(run.RunError, match=expected), run.locked(folder, new):
            pytest.fail("locked a folder with a link")
    assert (tmp_path / "precious").read_text() == "precious"


def test_locked_names_the_folder_if_its_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fnn.run.folder.lock", fail)
    expected = f"^{re.escape(str(tmp_path))}: cannot be locked: "
    with pytest.raises(run.RunError, match=expected), run.locked(tmp_path, new=True):
        pytest.fail("locked")


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
        ({"net": "dense(10000000000000)"}, r"config\.json: Unable to allocate "),
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


def test_format_result_has_the_accuracy_of_the_saved_params(tmp_path: Path) -> None:
    lines = [line | {"test_accuracy": x} for line, x in zip(make_metrics(1, 2, 3), (0.5, 0.9, 0.8), strict=True)]
    state = {"epoch": 4, "best": 0.9}
    (tmp_path / "best.pkl").touch()
    assert format_result(tmp_path, lines, state) == f"test acc: 0.9000; params: {tmp_path / 'best.pkl'}"
    (tmp_path / "params.pkl").touch()
    params = f"params: {tmp_path / 'params.pkl'}"
    assert format_result(tmp_path, lines, state) == f"test acc: 0.8000; {params}"
    assert format_result(tmp_path, lines[:2], state) == f"test acc: its metrics are missing; {params}"
    lines = [line | {"validation_accuracy": line["test_accuracy"] / 2} for line in lines]
    best = "(of epoch 2, which has the best validation acc: 0.4500)"
    assert format_result(tmp_path, lines, {"epoch": 4, "best": 0.45}) == f"test acc: 0.9000; {params} {best}"
    assert (
        format_result(tmp_path, lines[:1], {"epoch": 4, "best": 0.45}) == f"test acc: its metrics are missing; {params}"
    )


def test_read_ended_returns_what_is_not_lost(tmp_path: Path) -> None:
    write_metrics(tmp_path, make_metrics(1, 2))
    assert read_ended(tmp_path, {"epoch": 2}) == make_metrics(1)
    assert read_ended(tmp_path, {"epoch": 4}) == make_metrics(1, 2)


INTS, NOT_FINITE = (-1, 2**62, 10**400, 0.5, "x"), (math.nan, math.inf, -math.inf, "x")
ABSURD: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("step", "epoch", "batch", "seen", "hits"), INTS),
    "best": (-0.5, 1.5, *NOT_FINITE),
    "loss_sum": NOT_FINITE,
    "seconds": (-1.0, 1e308, *NOT_FINITE),
    "epoch_seconds": (-1.0, 0.0, 1e308, *NOT_FINITE),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ABSURD.items() for value in values])
def test_read_state_refuses_absurd_numbers(tmp_path: Path, name: str, value: Any) -> None:
    task = make_task()
    state = run.train(task, run.start(task), tmp_path, 1e9, stop_after(11), no_log)
    fnn.save(tmp_path / "state.pkl", state | {name: value})
    with pytest.raises(fnn.CheckpointError, match=rf"state\.pkl: .*{name}.* got [^\n]*$"):
        run.read_state(tmp_path, task)


def test_read_state_refuses_params_with_nan_and_steps_of_an_optimizer(tmp_path: Path) -> None:
    task = make_task()
    state = run.train(task, run.start(task), tmp_path, 1e9, stop_after(11), no_log)
    state["optimizer"]["step"] = 10**12
    fnn.save(tmp_path / "state.pkl", state)
    with pytest.raises(
        fnn.CheckpointError, match=r"state\.pkl: optimizer/step: expected an int from 0 to 10, got 1000"
    ):
        run.read_state(tmp_path, task)
    state["optimizer"]["step"] = 10
    state["params"]["conv1"]["w"][0, 0, 0, 0] = np.nan
    fnn.save(tmp_path / "state.pkl", state)
    with pytest.raises(fnn.CheckpointError, match=r"state\.pkl: expected finite params, got params/conv1/w has 1 nan"):
        run.read_state(tmp_path, task)
