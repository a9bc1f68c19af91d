import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

import fnn
from fnn import dense, serial
from fnn.page import Pupil
from tests.page.conftest import serving
from tests.support.chromium import IS_MISSING, REASON, draw, open_browser, take_picture
from tests.support.drawings import DRAWINGS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(IS_MISSING, reason=REASON)]


@contextmanager
def serve(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serves the page of the run; yields the program and the address."""
    command = [sys.executable, "-m", "fnn", "draw", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout
            line = program.stdout.readline()
            assert line.startswith("draw a digit at http://127.0.0.1:")
            yield program, line.split()[-1]
        finally:
            program.kill()


@pytest.fixture(scope="module")
def address(trained: Path) -> Iterator[str]:
    with serve(trained) as (_, address):
        yield address


@pytest.fixture
def browser(address: str) -> Iterator[Any]:
    with open_browser(1440, 900) as browser:
        browser.get(address)
        yield browser
        assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def text(browser: Any, name: str) -> str:
    found: str = browser.find_element("id", name).text
    return found


def wait(browser: Any, script: str) -> Any:
    """Waits until the script returns something, and returns it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, 0.02).until(lambda b: b.execute_script(f"return {script}"))


def read_answer(browser: Any) -> str:
    """Waits until no question is open, and returns the likeliest class."""
    wait(browser, "!waiting && document.querySelector('#bars .best') !== null")
    return text(browser, "answer").split(" ")[0]


def test_at_least_nine_of_ten_drawings_are_recognised_in_time(browser: Any) -> None:
    answers = []
    for (_, strokes), kind in zip(DRAWINGS, ["mouse", "pen", "touch", "mouse"] * 3, strict=False):
        draw(browser, strokes, kind)
        answers.append(read_answer(browser))
        browser.find_element("id", "clear").click()
        wait(browser, "document.querySelector('#bars .best') === null")
    correct = [found == name for found, (name, _) in zip(answers, DRAWINGS, strict=True)]
    assert sum(correct) >= 9, answers
    times = browser.execute_script("return performance.getEntriesByName('answer').map((entry) => entry.duration)")
    assert len(times) >= len(DRAWINGS)
    print(f"median time from pointer event to bars: {median(times):.1f} ms")


def test_why_teach_undo_and_save(browser: Any, trained: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    _, strokes = DRAWINGS[7]
    draw(browser, strokes)
    read_answer(browser)
    first = browser.execute_script("return [...document.querySelectorAll('.number')].map((n) => n.textContent)")
    browser.find_element("css selector", "#bars li:nth-child(5) button").click()
    wait(browser, "byId('heat-title').textContent.includes('“4”')")
    heat = "Array.from(byId('heat').getContext('2d').getImageData(0, 0, 28, 28).data).join()"
    about_four = browser.execute_script(f"return {heat}")
    browser.find_element("css selector", "#bars li:nth-child(3) button").click()
    wait(browser, "byId('heat-title').textContent.includes('“2”') && !waiting")
    assert browser.execute_script(f"return {heat}") != about_four
    assert text(browser, "teach") == "It was 2"
    for lesson in range(1, 4):
        browser.find_element("id", "teach").click()
        wait(browser, f"lessons === {lesson} && !waiting")
        assert "Accuracy on 500 test images" in text(browser, "lesson")
        if read_answer(browser) == "2":
            break
    assert read_answer(browser) == "2"
    browser.find_element("id", "save").click()
    wait(browser, "byId('lesson').textContent.startsWith('Saved')")
    saved = Path(text(browser, "lesson").removeprefix("Saved: "))
    assert {path.name for path in trained.iterdir()} - before.keys() == {saved.name}
    assert {name: (trained / name).read_bytes() for name in before} == before  # the run itself is as it was
    params, taught = fnn.load(trained / "params.pkl"), fnn.load(saved)
    assert not np.array_equal(taught["dense3"]["b"], params["dense3"]["b"])
    for _ in range(lesson):
        browser.find_element("id", "undo").click()
        wait(browser, "!waiting")
    wait(browser, "lessons === 0 && !waiting")
    assert text(browser, "lesson") == "Undone. The net is as it was."
    last = browser.execute_script("return [...document.querySelectorAll('.number')].map((n) => n.textContent)")
    assert last == first
    saved.unlink()


def test_keys(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    body = browser.find_element("tag name", "body")
    draw(browser, DRAWINGS[4][1])  # two strokes
    read_answer(browser)
    body.send_keys(Keys.BACKSPACE)
    assert browser.execute_script("return strokes.length") == 1
    body.send_keys("8")
    wait(browser, "byId('heat-title').textContent.includes('“8”') && !waiting")
    body.send_keys(Keys.ENTER)
    wait(browser, "lessons === 1 && !waiting")
    body.send_keys(Keys.DELETE)
    wait(browser, "lessons === 0 && !waiting")
    body.send_keys(Keys.ESCAPE)
    assert browser.execute_script("return strokes.length") == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (390, 844), (768, 900), (1440, 900), (1600, 900)])
def test_layout_fits_the_window(address: str, width: int, height: int, dark: bool, tmp_path: Path) -> None:
    with open_browser(width, height, dark, touch=width < 500) as browser:
        browser.get(address)
        place = "const box = byId('drawing').getBoundingClientRect(); return [box.x, box.y + scrollY]"
        before = browser.execute_script(place)
        draw(browser, DRAWINGS[3][1])
        read_answer(browser)
        assert browser.execute_script(place) == before
        inside = "[...document.querySelectorAll('body *')].every((e) => e.getBoundingClientRect().right <= innerWidth)"
        assert browser.execute_script(f"return document.documentElement.scrollWidth <= innerWidth && {inside}")
        take_picture(browser, tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        red = int(back.split("(")[1].split(",")[0])
        assert (red < 128) == dark


def test_long_names_of_many_classes_fit(pupil: Pupil) -> None:
    net = serial(dense(26))
    names = [
        "Ankle boot",
        "Donaudampfschifffahrtsgesellschaft" * 2,
        "a name of many words " * 5,
        *"ABCDEFGHIJKLMNOPQRSTUVW",
    ]
    pupil = Pupil(net, net.init(0, (1, 28, 28)), names, pupil.folder, pupil.data)
    with serving(pupil) as server, open_browser(360, 740, touch=True) as browser:
        browser.get(server.address)
        draw(browser, DRAWINGS[3][1], "touch")
        read_answer(browser)
        browser.find_element("css selector", "#bars li:nth-child(2) button").click()
        wait(browser, "!waiting")
        assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        lengths = "return [...new Set([...document.querySelectorAll('.track')].map((track) => track.clientWidth))]"
        (length,) = browser.execute_script(lengths)
        assert length > 30


def test_a_second_finger_draws_nothing(browser: Any) -> None:
    script = """
        const send = (type, pointerId, clientX) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerId, clientX, clientY: 300, bubbles: true, button: type === "pointermove" ? -1 : 0}));
        canvas.setPointerCapture = () => {};
        send("pointerdown", 1, 200); send("pointermove", 1, 210);
        send("pointerdown", 2, 300); send("pointermove", 2, 310); send("pointerup", 2, 310);
        send("pointermove", 1, 220); send("lostpointercapture", 1, 220); send("pointermove", 1, 230);
        return strokes.map((points) => points.length)"""
    assert browser.execute_script(script) == [3]


def test_a_second_page_can_undo_a_lesson_of_the_first(browser: Any, address: str) -> None:
    draw(browser, DRAWINGS[4][1])
    read_answer(browser)
    browser.find_element("id", "teach").click()
    wait(browser, "lessons === 1 && !waiting")
    browser.get(address)
    browser.find_element("id", "undo").click()
    wait(browser, "lessons === 0 && !waiting")


def test_page_says_that_the_server_has_stopped(trained: Path) -> None:
    with serve(trained) as (program, address), open_browser(800, 600) as browser:
        browser.get(address)
        program.terminate()
        output, errors = program.communicate(timeout=20)
        assert (output.splitlines()[-1], errors) == ("stopped", "")
        draw(browser, DRAWINGS[1][1])
        wait(browser, "!byId('warning').hidden")
        assert text(browser, "warning").startswith("The server has stopped. Start it again")
