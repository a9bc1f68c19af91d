import re
import stat
from pathlib import Path

import pytest

from fnn.files.disk import atomic_write, check_regular


def write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def test_the_new_file_takes_the_old_ones_place_name_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "private"
    write(path, b"old")
    path.chmod(0o600)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
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


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    write(there, b"old")
    link.symlink_to(there)
    write(link, b"new")
    assert link.is_symlink()
    assert there.read_bytes() == b"new"


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    assert check_regular(tmp_path / "none") == tmp_path / "none"
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: expected a regular file"):
            check_regular(path)
