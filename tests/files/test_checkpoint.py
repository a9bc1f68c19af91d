"""`save` and `load`: paths, permissions, and files that survive a failure."""

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnn.files import disk
from fnn.files.checkpoint import CheckpointError, load, save
from tests.support.programs import python
from tests.support.trees import assert_same


def test_load_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params.pkl"):
        load(tmp_path / "params.pkl")


def test_save_and_load_refuse_folders_and_devices(tmp_path: Path) -> None:
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: expected a regular file")):
            load(path)
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (tmp_path, pipe):
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: expected a regular file")):
            save(path, {})
    assert os.listdir(tmp_path) == ["pipe"]
    assert pipe.is_fifo()


def test_save_and_load_refuse_bad_paths() -> None:
    uses: list[Callable[[Any], Any]] = [
        lambda path: save(path, "params.pkl"),
        load,
    ]
    for use in uses:
        for path, kind in (({"w": 1}, "a dict"), (b"params.pkl", "a bytes"), (3, "an int")):
            with pytest.raises(CheckpointError, match=f"path: expected a str or an os.PathLike of one, got {kind}"):
                use(path)


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """An existing file, the only one in its folder."""
    path = tmp_path / "params.pkl"
    save(path, {"w": np.arange(3)})
    return path


def assert_untouched(old_file: Path) -> None:
    assert os.listdir(old_file.parent) == [old_file.name]
    assert_same({"w": np.arange(3)}, load(old_file))


def raising(error: BaseException) -> Callable[..., Any]:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    return failing


@pytest.mark.parametrize("name", ["replace", "fsync"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error", "other"), KeyboardInterrupt(), MemoryError()]
)
def test_save_keeps_the_old_file_on_any_error(
    old_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    monkeypatch.setattr(os, name, raising(error))
    with pytest.raises(type(error)) as raised:
        save(old_file, {"w": np.zeros(1000)})
    if isinstance(raised.value, OSError):
        assert str(raised.value) == f"[Errno {errno.EIO}] Input/output error: {str(old_file)!r}"
    assert_untouched(old_file)


def test_save_keeps_the_old_file_on_a_full_disk(old_file: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing more raises EFBIG
    try:
        with pytest.raises(OSError, match=r"params.pkl") as raised:
            save(old_file, {"w": np.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(old_file))
    assert_untouched(old_file)


def test_save_without_permission_names_the_file(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "temporary")
    monkeypatch.setattr(disk, "open", raising(denied), raising=False)
    with pytest.raises(PermissionError, match=r"params.pkl") as raised:
        save(old_file, {})
    assert raised.value.filename == str(old_file)
    assert_untouched(old_file)


def test_load_without_permission_names_the_file(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("io.open", raising(PermissionError(errno.EACCES, "Permission denied", str(old_file))))
    with pytest.raises(PermissionError, match=r"params.pkl"):
        load(old_file)


def test_save_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/params.pkl'"):
        save(tmp_path / "nowhere" / "params.pkl", {})
    assert os.listdir(tmp_path) == []


def test_save_keeps_the_old_file_if_it_refuses_the_tree(old_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'w': expected a plain array .*, got a list"):
        save(old_file, {"w": [1]})
    assert_untouched(old_file)


def test_save_syncs_the_new_file_before_it_replaces_the_old_one(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        if calls[-1] == "file":
            assert os.fstat(descriptor).st_size > 8000
        fsync(descriptor)

    def record_replace(one: Path, two: Path) -> None:
        calls.append("replace")
        replace(one, two)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    save(old_file, {"w": np.zeros(1000)})
    assert calls == ["file", "replace", "folder"]
    assert load(old_file)["w"].shape == (1000,)


def test_save_works_where_folders_cannot_be_synced(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", raising(PermissionError(errno.EACCES, "Permission denied")))
    save(old_file, {"w": 1})
    monkeypatch.undo()
    assert load(old_file) == {"w": 1}
    assert os.listdir(old_file.parent) == [old_file.name]


def test_save_replaces_the_target_of_a_link(old_file: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.pkl"
    link.symlink_to(old_file)
    save(link, {"w": 1})
    assert link.is_symlink()
    assert load(old_file) == {"w": 1}
    assert os.listdir(link.parent) == ["latest.pkl"]


def test_import_of_checkpoint_is_light() -> None:
    heavy = {"dataclasses", "tempfile", "pickletools", "json", "logging", "hashlib", "threading"}
    code = "import sys, numpy; before = {*sys.modules}; import fnn.files.checkpoint"
    code += f"; print({heavy} & {{*sys.modules}} - before)"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "set()", "")
