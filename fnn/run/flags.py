"""Types of command-line flags for argparse: they convert a text, and say what they expect."""

import argparse
import os
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

from fnn.inspection.text import parse_net
from fnn.op import Op, OpError
from fnn.run.folder import format_net

T = TypeVar("T")


def checked(convert: Callable[[str], T], valid: Callable[[T], bool], expected: str) -> Callable[[str], T]:
    """Returns a type for argparse: it converts a text and raises ArgumentTypeError unless the value is valid."""

    def convert_checked(text: str) -> T:
        try:
            if valid(value := convert(text)):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return convert_checked


def integer(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    """Returns the type of integers in a range, which by default ends with the largest that fits in 64 bits."""
    largest = "2**63 - 1" if maximum == 2**63 - 1 else maximum
    return checked(int, lambda n: minimum <= n <= maximum, f"an integer from {minimum} to {largest}")


nonempty = checked(str, bool, "a text")  # an unset shell variable gives an empty text
positive = checked(float, lambda x: 0 < x < inf, "a number above 0")
seconds = checked(float, lambda x: 0 <= x < inf, "a number of seconds, 0 or more")


def path(text: str) -> Path:
    """Converts a text to a path. `~` is the user's home, which shells leave in texts such as `--out=~/a`."""
    return Path(os.path.expanduser(nonempty(text)))


def format_settings(named: tuple[str, Mapping[str, object]]) -> str:
    """Returns a name and its settings as lines for a help text."""
    name, settings = named
    text = ", ".join(f"{setting} {value}" for setting, value in settings.items())
    return "\n".join(wrap(f"{name}: {text}", 79, initial_indent="  ", subsequent_indent="    "))


def net(nets: Mapping[str, Op]) -> Callable[[str], str]:
    """Returns the type of nets: it converts a name among `nets`, or a net as text, to the net's text."""

    def convert(text: str) -> str:
        try:
            return format_net(nets[text] if text in nets else parse_net(text))
        except OpError as error:
            expected = f"expected one of {list(nets)} or a net as text"
            raise argparse.ArgumentTypeError(f"{expected}, got {text!r}: {error}") from None

    return convert


def parser(program: str, description: str, recipes: Mapping[str, Mapping[str, object]]) -> argparse.ArgumentParser:
    """Returns the parser of a program that trains. Its help text ends with the settings of the recipes."""
    return argparse.ArgumentParser(
        usage=f"python {program} [flags]",
        description=description,
        epilog="\n".join(["recipes:", *map(format_settings, recipes.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse_run(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line of a program that trains, with the flags `out`, `resume` and `keep_every`.

    Flags that earlier versions had name the command to use instead. A wrong command line ends the program.
    """
    for name in ("--eval", "--report", "--export"):
        parser.add_argument(name, action=Moved, nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out and args.resume:
        parser.error("argument --out: not allowed with argument --resume")
    if args.keep_every is not None and not (args.out or args.resume):
        parser.error("argument --keep-every: needs --out or --resume, because nothing is saved without them")
    return args


class Moved(argparse.Action):
    """The action of a flag that is now a command of `python -m fnn`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Ends the program with an error that names the command."""
        flag = self.option_strings[0]
        parser.error(f"argument {flag}: this is now a command: python -m fnn {flag.removeprefix('--')} RUN")
