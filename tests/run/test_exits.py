import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fnn.run.exits import Interrupted, catch_signals, exit_status
from tests.support import programs
from tests.support.signals import NUMBERS, default_handlers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    with default_handlers():
        yield


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

    def fill_memory() -> int:
        raise MemoryError

    def stop() -> int:
        send(signal.SIGTERM)
        return 0

    assert (exit_status("x.py", fill_memory), capsys.readouterr()) == (1, ("", "x.py: error: not enough memory\n"))
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


def run_child(code: str, **files: Any) -> "subprocess.CompletedProcess[str]":
    """Runs the code in a new Python with `exit_status` and `make_log`, and with these files as its streams."""
    code = "import sys\nfrom fnn.run.exits import exit_status, make_log\n" + code
    return subprocess.run(
        [sys.executable, "-c", code],
        env=programs.environment(PYTHONIOENCODING="ascii"),
        text=True,
        timeout=60,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **files},
    )


@pytest.mark.parametrize("keep_going", [False, True])
def test_an_output_that_nobody_reads_ends_the_program_quietly_unless_it_keeps_going(keep_going: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    code = f"log = make_log({keep_going})\nsys.exit(exit_status('x', lambda: [log('a'), log('b'), 7][-1]))"
    done = run_child(code, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (7 if keep_going else 141, "")


@pytest.mark.parametrize("stream", ["None", "io.StringIO()", "object()", "closed"])
def test_any_output_is_good_enough_to_keep_going(stream: str) -> None:
    code = "import io\nclosed = io.StringIO()\nclosed.close()\n"
    code += f"sys.stdout = {stream}\nfrom fnn.run.loop import _get_tqdm\nassert _get_tqdm() is None\n"
    code += "sys.exit(exit_status('x', lambda: [make_log(True)('a'), 7][-1]))"
    done = run_child(code)
    assert (done.returncode, done.stderr) == (7, "")


def test_outputs_of_few_characters_show_escapes() -> None:
    code = "def fail():\n  make_log(False)('\\xe9 \\ud800')\n  raise OSError(2, 'No', '\\xe9\\n\\x1b[31m\\udcff')\n"
    done = run_child(code + "sys.exit(exit_status('x', fail))")
    assert (done.returncode, done.stdout) == (1, "\\xe9 \\ud800\n")
    assert done.stderr == "x: error: \\xe9\\n\\x1b[31m\\udcff: No\n"
