"""Takes the picture of the page for the README: `python docs/draw.py RUN` writes docs/draw.png.

Needs Chromium, chromedriver and the package selenium.
"""

import subprocess
import sys
from pathlib import Path
from time import sleep

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.chromium import draw, open_browser, take_picture
from tests.support.drawings import DRAWINGS


def main(run: str) -> None:
    """Serves the page of the run, draws a 5 and takes the picture."""
    command = [sys.executable, "-m", "fnn", "draw", run, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        assert program.stdout
        address = next(line.split()[-1] for line in program.stdout if line.startswith("draw"))
        with open_browser(1180, 760) as browser:
            browser.get(address)
            draw(browser, DRAWINGS[5][1])
            sleep(1)
            take_picture(browser, ROOT / "docs" / "draw.png")
        program.terminate()


if __name__ == "__main__":
    main(sys.argv[1])
