"""Nets as text: `parse_net` is the inverse of `repr(op)`. It calls the constructors in the text and runs no other code.

It does not use `ast.parse`, which takes 500 bytes for each character and can crash Python on nested brackets.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from fnn import init
from fnn.checks.arrays import Array
from fnn.checks.errors import OpError, describe, describe_value
from fnn.checks.values import as_int
from fnn.inspection.rebuild import operators_in
from fnn.op import Op

MAX_LENGTH, MAX_DEPTH, MAX_OPERATORS, MAX_WORD = 20_000, 50, 2_000, 100
LITERALS: dict[str, Callable[[str], Any]] = {
    "number": lambda token: float(token) if set(token) & set(".eE") else int(token),
    "string": ast.literal_eval,
}
CLOSING = {"(": ")", "[": "]"}
ESCAPE = r"\\(?:[\\'\"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
TOKEN = re.compile(
    rf"""\s*(?:(?P<name>[^\W\d]\w*)
    | (?P<number>(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<string>'(?:[^'\\\n]++|{ESCAPE})*+'|"(?:[^"\\\n]++|{ESCAPE})*+")
    | (?P<mark>.)
    | (?P<end>\Z))""",
    re.VERBOSE | re.DOTALL,
)
EQUALS = re.compile(r"\s*=")


def parse_net(text: str, operators: Mapping[str, Op | Callable[..., Any]] | None = None) -> Op:
    """Returns the operator that `text` describes, for example "serial(conv(6, 3), tanh, dense(10))".

    The text contains operators of `fnn` and initialisers of `fnn.init`. Arguments are also numbers, strings, True,
    False, None, tuples and lists. `operators` are your own operators and constructors by name. Nothing else in a text
    has an effect, so texts from strangers are safe.

    At most 20,000 characters, 50 nested brackets and 2,000 operators; `repeat(op, n)` counts as n. Raises OpError, with
    line and column, if the text is wrong or if a constructor does not accept its arguments.
    """
    if not isinstance(text, str):
        raise OpError(f"expected a text, got {describe_value(text)}", "net")
    if len(text) > MAX_LENGTH:
        raise OpError(f"expected a text of at most {MAX_LENGTH} characters, got {len(text)}", "net")
    parser = _Parser(text, operators or {})
    op = parser.read_value()
    if parser.kind != "end":
        raise parser.unexpected("the end of the text")
    if not isinstance(op, Op):
        raise parser.error(f"expected an operator, got {describe(op)}", 0)
    return op


def _find_names() -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """The names that are values, and the names of constructors of operators and initialisers."""
    values: dict[str, Any] = {"True": True, "False": False, "None": None}
    makers: dict[str, Callable[..., Any]] = {}
    fnn = sys.modules["fnn"]  # not imported above, because it imports this module
    for name, value in ({name: getattr(fnn, name) for name in fnn.__all__} | vars(init)).items():
        result = getattr(value, "__annotations__", {}).get("return")
        if isinstance(value, Op) or (result == Array and name[0] != "_"):
            values[name] = value
        elif result in (Op, "Op", init.Initialiser) and hasattr(value, "__wrapped__"):  # decorated: a constructor
            makers[name] = value
    return values, makers


class _Parser:
    """Reads values from the text. The next token is `token`, of a `kind`, from `start` to `end`."""

    def __init__(self, text: str, operators: Mapping[str, Op | Callable[..., Any]]) -> None:
        self.text, self.end, self.depth, self.count = text, 0, 0, 0
        self.values, self.makers = _find_names()
        self.values |= operators
        self.makers |= operators
        self.advance()

    def advance(self) -> None:
        match = TOKEN.match(self.text, self.end)
        assert match is not None  # any character is a token, and so is the end
        self.kind = match.lastgroup or ""
        self.token, (self.start, self.end) = match[self.kind], match.span(self.kind)
        if self.kind in ("name", "number") and len(self.token) > MAX_WORD:
            raise self.unexpected(f"a {self.kind} of at most {MAX_WORD} characters")

    def error(self, message: str, start: int) -> OpError:
        line, column = self.text.count("\n", 0, start) + 1, start - self.text.rfind("\n", 0, start)
        return OpError(f"{message} (line {line}, column {column})", "net")

    def unexpected(self, expected: str, fix: str = "") -> OpError:
        """The error for the next token."""
        got = "the end of the text" if self.kind == "end" else repr(self.token[:40])
        return self.error(f"expected {expected}, got {got}{fix}", self.start)

    def read_value(self) -> Any:
        if self.kind == "name":
            return self.read_name()
        if self.token == "(":
            values, _, has_comma = self.read_items()
            return tuple(values) if has_comma or not values else values[0]
        if self.token == "[":
            return self.read_items()[0]
        if self.token == "-":
            self.advance()
            if self.kind != "number":
                raise self.unexpected("a number after -")
            return -self.read_value()
        if self.kind not in LITERALS:
            raise self.unexpected("a string with a closing quote" if self.token in ("'", '"') else "a value")
        try:
            value = LITERALS[self.kind](self.token)
        except (SyntaxError, ValueError):
            raise self.unexpected(f"a {self.kind}") from None
        self.advance()
        return value

    def read_name(self) -> Any:
        """Reads a name, or a call."""
        name, start = self.token, self.start
        if name not in self.values and name not in self.makers:
            close = get_close_matches(name[:40], [*self.values, *self.makers], 1)
            fix = f"; did you mean {close[0]}?" if close else "; pass your own operators by operators={name: operator}"
            raise self.unexpected("the name of an operator or initialiser of fnn", fix)
        self.advance()
        if self.token == "(" and name in self.makers:
            return self.call(name, start)
        if self.token == "(":
            raise self.error(f"expected {name}, got a call of it; remove the ()", start)
        if name not in self.values:
            raise self.error(f"expected {name}(...), got {name}", start)
        return self.values[name]

    def read_items(self, takes_keywords: bool = False) -> tuple[list[Any], dict[str, Any], bool]:
        """Reads brackets and what is in them: the values, the keyword arguments, and whether there is a comma."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        closing, has_comma = CLOSING[self.token], False
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.unexpected(f"at most {MAX_DEPTH} nested brackets")
        self.advance()
        while self.token != closing:
            name = self.token
            if takes_keywords and self.kind == "name" and EQUALS.match(self.text, self.end):
                if name in kwargs:
                    raise self.unexpected("each keyword argument once")
                self.advance()
                self.advance()
                kwargs[name] = self.read_value()
            elif kwargs:
                raise self.unexpected("another keyword argument or )")
            else:
                args.append(self.read_value())
            if self.token == ",":
                has_comma = True
                self.advance()
            elif self.token != closing:
                raise self.unexpected(f", or {closing}")
        self.depth -= 1
        self.advance()
        return args, kwargs, has_comma

    def call(self, name: str, start: int) -> Any:
        """Reads the arguments and calls the constructor."""
        args, kwargs, _ = self.read_items(takes_keywords=True)
        try:
            signature = inspect.signature(self.makers[name])
            try:
                bound = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                got = str(error).removeprefix("got ").replace("missing a required argument:", "no")
                raise OpError(f"expected ({', '.join(signature.parameters)}), got {got}", name) from None
            for argument, value in bound.items():
                if argument.endswith("_init") and (isinstance(value, Op) or not callable(value)):
                    expected = "an initialiser such as he_normal"
                    raise OpError(f"{argument}: expected {expected}, got {describe_value(value)}", name)
            copies = max(1, as_int(bound.get("n")) or 1) if name == "repeat" else 1
            parts = [*operators_in(args), *operators_in(kwargs)]
            self.count += copies * (1 + sum(len(op.statistics) for op in parts))
            if self.count > MAX_OPERATORS:
                raise OpError(f"expected at most {MAX_OPERATORS} operators, got more", name)
            return self.makers[name](*args, **kwargs)
        except (TypeError, ValueError) as error:
            message = str(error) if isinstance(error, OpError) else f"{name}: {error}"
            raise self.error(message, start) from error
