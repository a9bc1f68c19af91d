"""The settings of the process, with libraries of BLAS that only count their threads."""

import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from linecache import getline
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fnn
from fnn.kernels import process
from fnn.kernels.process import BLAS_VARIABLES, blas_libraries, keep_pages, limited_blas, warn_if_blas_is_unlimited


class Library:
    def __init__(self, threads: int) -> None:
        self.threads = threads

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads


def clear() -> None:
    blas_libraries.cache_clear()
    warn_if_blas_is_unlimited.cache_clear()


@pytest.fixture(autouse=True)
def _no_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*BLAS_VARIABLES, "FNN_LIMIT_BLAS", "FNN_KEEP_PAGES"):
        monkeypatch.delenv(name, raising=False)
    clear()
    yield
    clear()


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[Library]:
    """Libraries with three, one and two threads, which threadpoolctl finds."""
    found = [Library(3), Library(1), Library(2)]

    class Controller:
        lib_controllers = found

        def select(self, user_api: str) -> Any:
            assert user_api == "blas"
            return self

    module: Any = ModuleType("threadpoolctl")
    module.ThreadpoolController, module.__spec__ = Controller, ModuleSpec("threadpoolctl", None)
    monkeypatch.setitem(sys.modules, "threadpoolctl", module)
    return found


def test_limited_blas_gives_each_library_one_thread_until_the_last_block_ends(libraries: list[Library]) -> None:
    for _ in range(2):
        with limited_blas():
            assert [library.threads for library in libraries] == [1, 1, 1]
            with limited_blas():
                assert [library.threads for library in libraries] == [1, 1, 1]
            assert [library.threads for library in libraries] == [1, 1, 1]
        assert [library.threads for library in libraries] == [3, 1, 2]


def test_limited_blas_restores_the_threads_that_were_set_last(libraries: list[Library]) -> None:
    with limited_blas():
        pass
    libraries[0].threads = 7
    with limited_blas():
        assert libraries[0].threads == 1
    assert libraries[0].threads == 7


def test_blas_libraries_are_those_with_several_threads(libraries: list[Library]) -> None:
    assert blas_libraries() == {libraries[0]: 3, libraries[2]: 2}
    assert blas_libraries() is blas_libraries()  # to search takes long


@pytest.mark.usefixtures("libraries")
def test_blas_libraries_are_none_if_the_limit_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNN_LIMIT_BLAS", "0")
    assert blas_libraries() == {}


def test_limited_blas_needs_no_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert blas_libraries() == {}
    with limited_blas():
        assert process._blocks == 0


def warnings_of_shard() -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fnn.shard(fnn.tanh, 2)
        fnn.shard(fnn.tanh, 2)
    return caught


def test_shard_warns_the_caller_once_if_nothing_limits_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    [warning] = warnings_of_shard()
    assert warning.category is RuntimeWarning
    assert getline(warning.filename, warning.lineno).strip() == "fnn.shard(fnn.tanh, 2)"
    assert str(warning.message).startswith("shard: BLAS may use several threads")


@pytest.mark.parametrize(("name", "value"), [("FNN_LIMIT_BLAS", "0"), *((name, "1") for name in BLAS_VARIABLES)])
def test_shard_does_not_warn_if_the_environment_limits_blas(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setenv(name, value)
    assert warnings_of_shard() == []


@pytest.mark.usefixtures("libraries")
def test_shard_does_not_warn_if_threadpoolctl_can_limit_blas() -> None:
    assert warnings_of_shard() == []


@pytest.mark.parametrize(("value", "count"), [("0", 0), ("1", 1), (None, 1)])
def test_keep_pages_frees_a_block_of_just_under_32_mb_once(
    monkeypatch: pytest.MonkeyPatch, value: str | None, count: int
) -> None:
    sizes: list[int] = []
    empty = np.empty

    def counted(shape: Any, dtype: Any = float) -> Any:
        sizes.append(empty(shape, dtype).nbytes)

    if value:
        monkeypatch.setenv("FNN_KEEP_PAGES", value)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", counted)
        keep_pages()
    assert len(sizes) == count
    assert all((32 << 20) - 16384 <= size <= (32 << 20) - 4096 for size in sizes)  # room for the head of the block
