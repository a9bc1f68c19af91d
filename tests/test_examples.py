"""The examples reach a minimum accuracy on a small budget, which a wrong gradient in a layer usually prevents."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fnn
from examples import denoise, residual, transformer
from tests.support.programs import environment, python

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif("FNN_DATA" not in os.environ, reason="FNN_DATA does not name a folder with MNIST")
def test_mnist_example_reaches_98_percent_in_two_epochs() -> None:
    program = ROOT / "examples" / "mnist.py"
    assert len(program.read_text().splitlines()) <= 30
    done = python(program)
    assert done.returncode == 0, done.stderr
    accuracies = [float(percent) for percent in re.findall(r"epoch \d: ([\d.]+)%", done.stdout)]
    assert len(accuracies) == 2
    assert min(accuracies) > 97
    assert accuracies[-1] > 98


@pytest.mark.slow
def test_residual_example_learns_to_read_digits(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = residual.main(n=2500, epochs=3)
    assert accuracy > 0.9
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"test accuracy {accuracy:.1%}")


@pytest.mark.slow
def test_transformer_example_learns_to_sort(capsys: pytest.CaptureFixture[str]) -> None:
    loss, share = transformer.main(steps=200)
    assert (
        transformer.FLOOR - 0.005 < loss < transformer.FLOOR + 0.025
    )  # a lower loss would mean that it sees later characters
    assert share > 0.6
    assert sum(map(transformer.is_correct, capsys.readouterr().out.splitlines())) > 0


def test_transformer_is_correct_accepts_its_text_and_rejects_wrong_lines() -> None:
    lines = transformer.make_text(20, fnn.Key(3))
    texts = ["".join(transformer.ALPHABET[i] for i in line) for line in lines]
    assert all(line[0] == line[-1] == "\n" and transformer.is_correct(line.strip()) for line in texts)
    assert not any(map(transformer.is_correct, ["", "825160", "825160>012586", "82516>01256", "825160>0125688"]))


@pytest.mark.slow
def test_denoise_example_learns_to_remove_noise(capsys: pytest.CaptureFixture[str]) -> None:
    after, before = denoise.main(n=1000, epochs=3)
    assert before == pytest.approx(0.7**2, rel=0.01)
    assert after < 0.33 * before
    assert len(capsys.readouterr().out.splitlines()) == 3 + 1 + 14


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoise", "residual", "transformer"])
def test_example_finds_the_library_from_any_folder(name: str, tmp_path: Path) -> None:
    program = f"import runpy; runpy.run_path({str(ROOT / 'examples' / f'{name}.py')!r})"
    variables = environment() | {"PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
