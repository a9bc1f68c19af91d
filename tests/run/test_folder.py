import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import dense, run, serial
from fnn.data import Dataset, Examples
from fnn.run.folder import read_config
from tests.support.runs import DATA, make_task, no_log, stop_after

CONFIG: dict[str, Any] = {"net": "cnn", "epochs": 3, "lr": 0.1, "limit": None}
CHOICES = {"net": {"cnn": 1, "fc": 2}}


def test_read_config_returns_what_write_config_wrote(tmp_path: Path) -> None:
    run.write_config(tmp_path, CONFIG)
    assert read_config(tmp_path) == CONFIG
    assert run.check_config(tmp_path, CONFIG, {"epochs": 3, "lr": 0.1}, CHOICES) == CONFIG
    assert run.check_config(tmp_path, CONFIG | {"lr": 7}, {}, CHOICES) == CONFIG


def test_check_config_lists_every_setting_that_differs(tmp_path: Path) -> None:
    run.write_config(tmp_path, CONFIG)
    message = f"{tmp_path}: expected the settings of its run, epochs 3, limit None; got epochs 4, limit 9"
    with pytest.raises(run.RunError, match=f"^{re.escape(message)}$"):
        run.check_config(tmp_path, CONFIG, {"net": "cnn", "epochs": 4, "limit": 9}, CHOICES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"config\.json: damaged: Expecting value: line 1 column 1 \(char 0\)"),
        (b"\xff", r"config\.json: damaged: 'utf-8' codec can't decode byte 0xff"),
        ("[]", r"config\.json: expected names and values, got a list"),
        ('{"net": "cnn"}', r"config\.json: missing or unknown names \['epochs', 'limit', 'lr'\]"),
        (
            json.dumps(CONFIG | {"net": ["cnn"]}),
            r"config\.json: net: expected one of \['cnn', 'fc'\], got \['cnn'\]",
        ),
    ],
)
def test_check_config_refuses_a_damaged_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(run.RunError, match=message):
        run.check_config(tmp_path, CONFIG, {}, CHOICES)


def test_read_config_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(run.RunError, match=r"a: expected a run, got a folder without config\.json$"):
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


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "state.pkl", "best.pkl"])
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
