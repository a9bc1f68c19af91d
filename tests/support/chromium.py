"""Chromium without a window, driven by Selenium, for tests and pictures of the page. Needs both, and chromedriver."""

from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from tests.support.drawings import Stroke

DRIVER, BROWSER = which("chromedriver"), which("chromium")
IS_MISSING = DRIVER is None or BROWSER is None or find_spec("selenium") is None
REASON = "needs chromium, chromedriver and selenium"


@contextmanager
def open_browser(width: int, height: int, dark: bool = False, touch: bool = False) -> Iterator[Any]:
    """Yields a browser whose window has this size in pixels."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    browser = Chrome(options, ChromeService(DRIVER))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.implicitly_wait(5)
        yield browser
    finally:
        browser.quit()


def draw(browser: Any, strokes: list[Stroke], kind: str = "mouse") -> None:
    """Draws strokes on the canvas with pointer events of this kind: mouse, pen or touch."""
    canvas = browser.find_element("id", "drawing")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    left, top, size = browser.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.left, box.top, box.width]", canvas
    )

    def send(event: str, place: dict[str, float]) -> None:
        if kind == "touch":
            name = {"Pressed": "Start", "Moved": "Move", "Released": "End"}[event]
            points = [] if event == "Released" else [place]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{name}", "touchPoints": points})
        else:
            settings = {"button": "left", "buttons": 1, "clickCount": 1, "pointerType": kind}
            browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": f"mouse{event}", **place, **settings})

    for stroke in strokes:
        places = [{"x": left + size * x, "y": top + size * y} for x, y in stroke]
        send("Pressed", places[0])
        for place in places[1:]:
            send("Moved", place)
        send("Released", places[-1])


def take_picture(browser: Any, path: Path, whole: bool = True) -> None:
    """Writes a PNG of the whole page, or of its visible part."""
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
    path.write_bytes(b64decode(picture["data"]))
