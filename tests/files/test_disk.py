import os
import re
import signal
import stat
from pathlib import Path

import pytest

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
    (folder / ".fnn-folder").mkdir()
    os.mkfifo(folder / ".fnn-pipe")
    (folder / ".fnn-dangling").symlink_to("nowhere")
    (folder / ".fnn-left").write_bytes(b"half")
    (folder / ".fnn-link").symlink_to(outside)
    with atomic_write(folder / "new") as file:
        file.write(b"new")
        remove_leftovers(folder)
        (temporary,) = (path for path in folder.glob(".fnn-????????????????"))
    assert temporary.name not in os.listdir(folder)
    assert sorted(os.listdir(folder)) == [".fnn-dangling", ".fnn-folder", ".fnn-pipe", "new"]
    assert outside.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_the_temporary_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    code = "import os, sys, signal\nfrom pathlib import Path\nfrom fnn.files.disk import atomic_write\n"
    code += "with atomic_write(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    assert programs.python("-c", code, tmp_path / "file").returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
