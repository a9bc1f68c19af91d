import os
import signal
from collections.abc import Iterator

import pytest

from fnn.run.exits import Interrupted, catch_signals, exit_status

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Sets the signal handlers of a program in a terminal, and restores the old ones after the test."""
    before = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)]
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_catch_signals_raises_the_first_signal_and_ignores_later_ones(number: int) -> None:
    before = [signal.getsignal(n) for n in NUMBERS]
    cleaned = []

    @catch_signals(defer=False)
    def interrupted() -> None:
        try:
            send(number)
            pytest.fail("the signal was not raised")
        finally:
            for again in NUMBERS:
                send(again)
                cleaned.append(again)

    with pytest.raises(Interrupted) as error:
        interrupted()
    assert (error.value.args[0], cleaned) == (number, NUMBERS)
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_catch_signals_with_defer_records_signals_in_order() -> None:
    with catch_signals(defer=False), catch_signals(defer=True) as received:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert received == [signal.SIGTERM, signal.SIGINT]


def test_catch_signals_keeps_ignored_signals_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with catch_signals(defer=False), catch_signals(defer=True) as received:
        send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert received == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_exit_status_prints_errors_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        error = OSError(28, "No space", "a/b")
        error.add_note("what to do")
        raise error

    def stop() -> int:
        send(signal.SIGTERM)
        return 0

    assert (exit_status("x.py", lambda: 7), capsys.readouterr()) == (7, ("", ""))
    assert (exit_status("x.py", fail), capsys.readouterr()) == (
        1,
        ("", "x.py: error: a/b: No space; what to do\n"),
    )
    assert (exit_status("x.py", stop), capsys.readouterr()) == (143, ("stopped\n", ""))
    with pytest.raises(ZeroDivisionError):
        exit_status("x.py", lambda: 1 // 0)


def test_a_stopped_program_may_have_lost_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    def stop() -> int:
        send(signal.SIGTERM)
        return 0

    monkeypatch.setattr("sys.stdout", Closed())
    assert exit_status("program", stop) == 128 + signal.SIGTERM
