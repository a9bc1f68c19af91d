"""The package's metadata: its version is written in one place, and the changelog is right about modules and names."""

import pkgutil
import re
import tomllib

import fnn
from tests.support.documents import read

PROJECT = tomllib.loads(read("pyproject.toml"))


def test_version_has_three_numbers() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", fnn.__version__)


def test_pyproject_reads_version_from_the_package() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    source = read(PROJECT["tool"]["hatch"]["version"]["path"])
    assert re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE) == [fnn.__version__]


def test_classifiers_start_at_requires_python() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert f">={versions[0]}" == PROJECT["project"]["requires-python"]


def test_changelog_names_exist() -> None:
    rows = re.findall(r"^\| .*`fnn.* \| (.*) \|$", read("CHANGELOG.md"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(fnn[\w.]*)`", row)]
    assert len(names) > 50
    for name in names:
        pkgutil.resolve_name(name)  # raises if there is no such name
