import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from fnn.files import disk
from fnn.files.disk import atomic_write, check_regular, remove_leftovers
from tests.support import programs


def write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def test_atomic_write_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "private"
    write(path, b"old")
    path.chmod(0o600)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_keeps_the_old_file_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path, b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_replaces_the_target_of_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    write(target, b"old")
    link.symlink_to(target)
    write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_check_regular_refuses_folders_and_devices(tmp_path: Path) -> None:
    assert check_regular(tmp_path / "none") == tmp_path / "none"
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: expected a regular file"):
            check_regular(path)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
def test_remove_leftovers_keeps_folders_and_what_a_process_writes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    folders_and_links = [".fnn-0000000000000000", ".fnn-1111111111111111", ".fnn-2222222222222222"]
    (folder / folders_and_links[0]).mkdir()
    os.mkfifo(folder / folders_and_links[1])
    (folder / folders_and_links[2]).symlink_to("nowhere")
    (folder / ".fnn-mine").write_bytes(b"not a name that atomic_write chooses")
    (folder / ".fnn-0123456789abcdef").write_bytes(b"half")
    (folder / ".fnn-0123456789abcdee").symlink_to(outside)
    with atomic_write(folder / "new") as file:
        file.write(b"new")
        remove_leftovers(folder)
        assert os.path.exists(file.name)
    assert not os.path.exists(file.name)
    assert sorted(os.listdir(folder)) == [*folders_and_links, ".fnn-mine", "new"]
    assert outside.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_the_temporary_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    code = "import os, sys, signal\nfrom pathlib import Path\nfrom fnn.files.disk import atomic_write\n"
    code += "with atomic_write(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    assert programs.python("-c", code, tmp_path / "file").returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_atomic_write_removes_what_killed_processes_left_also_beside_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    left = tmp_path / "there" / ".fnn-0123456789abcdef"
    left.write_bytes(b"half")
    write(tmp_path / "link", b"new")
    assert os.listdir(tmp_path / "there") == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
@pytest.mark.parametrize("moment", ["fsync", "chmod", "replace"])
def test_another_process_keeps_a_temporary_file_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write(tmp_path / "file", b"old")
    before = getattr(os, moment)

    def remove_first(*args: Any, **kwargs: Any) -> Any:
        remove_leftovers(tmp_path)
        return before(*args, **kwargs)

    monkeypatch.setattr(os, moment, remove_first)
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
@pytest.mark.parametrize("is_locked", [False, True])
def test_atomic_write_tries_again_if_another_process_removes_the_file_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    lock, removed = disk.lock, list[str]()

    def remove_first(file: Any) -> None:
        if not removed:
            removed.append(file.name)
            os.unlink(file.name)
            if is_locked:
                raise BlockingIOError
        lock(file)

    monkeypatch.setattr(disk, "lock", remove_first)
    write(tmp_path / "file", b"new")
    assert len(removed) == 1
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
