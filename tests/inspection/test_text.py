"""`parse_net`: the inverse of `repr`. Any other text gives a clear error, and nothing in it is evaluated."""

import ast
import builtins
import gc
import re
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from fractions import Fraction
from math import inf
from random import Random
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import pytest

import fnn
from examples import denoise, transformer
from examples import residual as residual_example
from fnn import Op, OpError, conv, dense, dropout, named, operator, parallel, parse_net, relu, residual, serial, tanh
from fnn.init import constant, he_normal, truncated_normal
from fnn.inspection.text import MAX_DEPTH, MAX_LENGTH, MAX_OPERATORS
from fnn.op import Array, Shape
from fnn.random import Rng
from fnn.testing.compare import check_equal
from fnn.testing.table import TABLE, Example
from tests.support.documents import read
from tests.test_nesting import KINDS, Drawn, drawn, noise
from train import NETS

pytestmark = pytest.mark.filterwarnings("ignore:shard:RuntimeWarning", "ignore::fnn.UncalibratedWarning")

ROWS = [row for rows in TABLE.values() for row in rows]


def check_round_trip(net: Op, shape: Shape, x: Array, key: Rng | None = None) -> None:
    """Checks that the text of the net gives a net with the same text, initial params and output."""
    text = repr(net)
    again = parse_net(text, {"noise": noise})
    assert repr(again) == text
    params = net.init(0, shape)
    check_equal(again.init(0, shape), params, "of the net")
    check_equal({"y": again.apply(params, x, key)[0]}, {"y": net.apply(params, x, key)[0]}, "of the net")


def check_drawn(one: Drawn) -> None:
    x = one.x if one.x.dtype.kind == "i" else one.x.astype(np.float32)
    check_round_trip(one.net.op, one.shape, x, one.key)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: repr(row.op)[:40])
def test_parse_net_inverts_repr_for_the_operator_table(row: Example) -> None:
    x = np.random.default_rng(0).standard_normal((row.batch, *row.shape)).astype(np.float32)
    check_round_trip(row.op, row.shape, x if row.x is None else row.x, row.key)


@pytest.mark.parametrize("kind", KINDS)
def test_parse_net_inverts_repr_for_a_random_net(kind: str) -> None:
    check_drawn(drawn(kind, 1)[0])


@pytest.mark.slow
def test_parse_net_inverts_repr_for_500_random_nets() -> None:
    nets = [one for kind in KINDS for one in drawn(kind)]
    assert len(nets) >= 500
    for one in nets:
        check_drawn(one)


def mnist_net() -> Op:
    """The net of examples/mnist.py, without running the rest of the program."""
    [value] = [
        node.value
        for node in ast.parse(read("examples/mnist.py")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "net"
    ]
    net = eval(ast.unparse(value), vars(fnn).copy())
    assert isinstance(net, Op)
    return net


EXAMPLES = {"mnist": mnist_net(), "denoise": denoise.net, "residual": residual_example.net, **NETS}


@pytest.mark.parametrize("name", EXAMPLES)
def test_parse_net_inverts_repr_for_the_nets_of_the_programs(name: str) -> None:
    check_round_trip(EXAMPLES[name], (1, 28, 28), np.ones((2, 1, 28, 28), np.float32))


def test_parse_net_inverts_repr_for_the_transformer() -> None:
    check_round_trip(transformer.net, (14,), np.arange(28).reshape(2, 14) % 12)


class Three(IntEnum):
    N = 3


class Padding(StrEnum):
    SAME = "same"


ANY: Any = {  # values that type checkers do not accept
    "int8": np.int8(3),
    "array": np.array([1, 2]),
    "bool": np.bool_(False),
    "fraction": Fraction(1, 4),
    "copy of the default": "".join(["su", "m"]),
}


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (conv(Three.N, [Three.N, 2], padding=Padding.SAME), "conv(3, (3, 2), padding='same')"),
        (conv(ANY["int8"], ANY["array"], bias=ANY["bool"]), "conv(3, (1, 2), bias=False)"),
        (dropout(ANY["fraction"]), "dropout(0.25)"),
        (parallel(tanh, relu, join=ANY["copy of the default"]), "parallel(tanh, relu)"),
        (named(np.str_("a"), fnn.elu(-0.5)), "named('a', elu(alpha=-0.5))"),
        (named("it's \"\\\n\t\x00é\ud800🙂", tanh), "named('it\\'s \"\\\\\\n\\t\\x00é\\ud800🙂', tanh)"),
        (fnn.elu(1e-300), "elu(alpha=1e-300)"),
        (fnn.elu(1e300), "elu(alpha=1e+300)"),
        (dense(3, w_init=he_normal, b_init=constant(-0.5)), "dense(3, w_init=he_normal, b_init=constant(-0.5))"),
        (dense(3, w_init=truncated_normal(ANY["fraction"])), "dense(3, w_init=truncated_normal(0.25))"),
        (fnn.shard(tanh, workers=1), "shard(tanh, workers=1)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parse_net_inverts_repr_for_arguments_of_any_kind(op: Op, text: str) -> None:
    assert repr(op) == text
    assert repr(parse_net(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n serial ( tanh ,\n\trelu , ) \n", "serial(tanh, relu)"),
        ("((tanh))", "tanh"),
        ("conv(out_channels=6, kernel_size=[3, 2])", "conv(6, (3, 2))"),
        ("conv(6, (3), bias = False)", "conv(6, 3, bias=False)"),
        ('conv(6, 3, padding="same")', "conv(6, 3, padding='same')"),
        ("microbatch(tanh, size=2)", "microbatch(tanh, 2)"),
        ("dense(1_000)", "dense(1000)"),
        ("finite(tanh)", "check_finite(tanh)"),
        ("dropout(.5)", "dropout(0.5)"),
        ("dense(3, w_init=constant(2))", "dense(3, w_init=constant(2))"),
    ],
)
def test_parse_net_accepts_other_spellings(text: str, expected: str) -> None:
    assert repr(parse_net(text)) == expected


KNOWN = "the name of an operator or initialiser of fnn"
CONV = "(out_channels, kernel_size, stride, padding, dilation, groups, bias, w_init, b_init)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a value, got the end of the text (line 1, column 1)"),
        ("serial(cnov(3, 3))", f"expected {KNOWN}, got 'cnov'; did you mean conv? (line 1, column 8)"),
        ("serial(\n  tanh,\n  Dense(3))", f"expected {KNOWN}, got 'Dense'; did you mean dense? (line 3, column 3)"),
        ("dense(3, w_init=he_norm)", f"expected {KNOWN}, got 'he_norm'; did you mean he_normal? (line 1, column 17)"),
        ("serial(tanh relu)", "expected , or ), got 'relu' (line 1, column 13)"),
        ("serial(tanh, relu", "expected , or ), got the end of the text (line 1, column 18)"),
        ("conv(3, [3, 3)", "expected , or ], got ')' (line 1, column 14)"),
        ("dense(3,, 4)", "expected a value, got ',' (line 1, column 9)"),
        ("tanh relu", "expected the end of the text, got 'relu' (line 1, column 6)"),
        ("dense(bias=False, 3)", "expected another keyword argument or ), got '3' (line 1, column 19)"),
        ("dense(bias=False, bias=True)", "expected each keyword argument once, got 'bias' (line 1, column 19)"),
        ("dense(-relu)", "expected a number after -, got 'relu' (line 1, column 8)"),
        (f"dense({'9' * 101})", "expected a number of at most 100 characters, got '9999999"),
        ("dense(1__0)", "expected a number, got '1__0' (line 1, column 7)"),
        ("named('a, tanh)", 'expected a string with a closing quote, got "\'" (line 1, column 7)'),
        ("named('\\U00110000', tanh)", "expected a string, got \"'\\\\U00110000'\" (line 1, column 7)"),
        ("tanh()", "expected tanh, got a call of it; remove the () (line 1, column 1)"),
        ("dense(3, w_init=zeros(1))", "expected zeros, got a call of it; remove the () (line 1, column 17)"),
        ("serial(maxpool)", "expected maxpool(...), got maxpool (line 1, column 8)"),
        ("3", "expected an operator, got an int (line 1, column 1)"),
        ("constant(3)", "expected an operator, got a function (line 1, column 1)"),
        ("(tanh, relu)", "expected an operator, got a tuple (line 1, column 1)"),
        ("serial(conv(3))", f"conv: expected {CONV}, got no 'kernel_size' (line 1, column 8)"),
        ("conv(3, 3, n=2)", f"conv: expected {CONV}, got an unexpected keyword argument 'n' (line 1, column 1)"),
        ("conv(1, 2, out_channels=1)", f"conv: expected {CONV}, got multiple values for argument 'out_channels'"),
        ("flatten(1)", "expected flatten, got a call of it; remove the () (line 1, column 1)"),
        ("dropout(1, 2)", "dropout: expected (rate), got too many positional arguments (line 1, column 1)"),
        ("serial(dense(0))", "dense: out_features: expected an int of at least 1, got 0 (line 1, column 8)"),
        ("serial(3)", "serial: expected an operator, got 3 (line 1, column 1)"),
        ("dropout(1e999)", "dropout: rate: expected a finite number of at least 0 and below 1, got inf"),
        ("dense(3, w_init=constant('a'))", "constant: value: expected a finite number, got 'a' (line 1, column 17)"),
        (
            "dense(3, w_init=truncated_normal(-1))",
            "truncated_normal: std: expected a finite number of at least 0, got -1 (line 1, column 17)",
        ),
        (
            "dense(3, w_init='he')",
            "dense: w_init: expected an initialiser such as he_normal, got 'he' (line 1, column 1)",
        ),
        (
            "dense(3, b_init=tanh)",
            "dense: b_init: expected an initialiser such as he_normal, got an Op (line 1, column 1)",
        ),
        ("repeat(tanh, 1000000000)", f"repeat: expected at most {MAX_OPERATORS} operators, got more"),
        (f"repeat(repeat(fnn.batch_norm, {MAX_OPERATORS}", f"expected {KNOWN}, got 'fnn'"),
        (f"{'[' * 60}", f"expected at most {MAX_DEPTH} nested brackets, got '[' (line 1, column 51)"),
        (" " * (MAX_LENGTH + 1), f"expected a text of at most {MAX_LENGTH} characters, got {MAX_LENGTH + 1}"),
        (tanh, "expected a text, got an Op"),
        (b"tanh", "expected a text, got b'tanh'"),
        (None, "expected a text, got None"),
    ],
)
def test_parse_net_error_says_what_it_expected_and_where(text: Any, message: str) -> None:
    with pytest.raises(OpError) as caught:
        parse_net(text)
    assert str(caught.value).startswith(f"net: {message}")


def test_parse_net_names_are_the_operators_and_initialisers() -> None:
    """No check, class or helper function of the modules has a name in texts."""
    names: set[str] = set()
    for name in {*vars(fnn), *vars(fnn.init), *vars(builtins)}:
        for text in (name, f"{name}()"):
            try:
                parse_net(text)
            except OpError as error:
                if str(error).startswith(f"net: expected {KNOWN}"):
                    continue
            names.add(name)
    operators = {*TABLE, "finite"}
    initialisers = {"constant", "truncated_normal", "zeros", "ones", "orthogonal"}
    initialisers |= {f"{name}_{kind}" for name in ("glorot", "he", "lecun") for kind in ("normal", "uniform")}
    assert names == operators | initialisers | {"True", "False", "None"}


@operator
def block(features: int, activation: Op = tanh) -> Op:
    """An operator of a user."""
    return serial(dense(features), activation)


def test_parse_net_takes_operators_of_the_user_only_as_an_argument() -> None:
    net = serial(block(3), noise, block(4, activation=relu))
    assert repr(parse_net(repr(net), {"block": block, "noise": noise})) == repr(net)
    with pytest.raises(OpError, match=r"got 'block'; pass your own operators by operators={name: operator} \(line 1"):
        parse_net(repr(net))
    with pytest.raises(OpError, match=r"^net: block: expected \(features, activation\), got no 'features' \(line 1"):
        parse_net("block()", {"block": block})
    assert repr(parse_net("repeat(dense(2))", {"repeat": residual})) == "residual(dense(2))"


# Texts that are no nets. Most come from a valid net by random edits.

CODE = [
    *("__import__('os').system('x')", "().__class__.__bases__", "lambda: 0", "[n for n in (1, 2)]", "f'{open(0)}'"),
    *("(n := 3)", "*(tanh, relu)", "**{}", "{}", "{1, 2}", "tanh.apply", "x[0]", "1 if 1 else 2", "10**9", "9 * 9"),
    *("'a' 'b'", "b'a'", "r'\\'", "await x", "yield", "print(1)", "eval('1')", "open('f', 'w')", "exec", "...", "1j"),
    *("0x10", "9" * 5000, "1e400", "-" * 200, "not 1", "(" * 99, "[" * 99, "()" * 50, ")" * 9, "'" * 9, '"""', "\\"),
    *("\x00", "\ud800", "é", "\uff11", "٣", "\u202e", "\xa0", "🙂", "\r", "#", ";", "=", "==", ":", "@", "`", "$", "%"),
    *("repeat(tanh, 10**9)", "repeat(batch_norm(), 1999)", "dense(1000000000000)", "conv(1000000, 1000)", "None"),
    *("orthogonal", "zeros(0, (1000000,), 1, 1)", "w_init=", "inf", "nan", "-1", ",", "\\N{BULLET}", "'\\xff'"),
]
TEXTS = [*map(repr, [*EXAMPLES.values(), transformer.net]), *(repr(row.op) for row in ROWS)]


def mutate(rng: Random, text: str) -> str:
    """Returns the text after one to four random edits."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.choices(range(len(text) + 1), k=2))
        j = min(j, i + rng.choice([0, 1, 5, 100]))
        cut, character = text[i:j], rng.choice([rng.randrange(128), rng.randrange(0x110000)])
        number = str(rng.randrange(10 ** rng.randint(1, 40)))
        edits = ["", cut * rng.randint(2, 5), f"({cut})", cut[::-1], number, chr(character)]
        edits += [rng.choice(CODE), rng.choice(TEXTS)]
        text = text[:i] + rng.choice(edits) + text[j:]
    return text


@contextmanager
def code_forbidden() -> Iterator[None]:
    """Makes Python's functions that run code or open files fail; turns off garbage collection, for exact times.

    A test may call `gc.collect` itself. Objects of other tests are hidden from it, so that it takes no 0.3 s.
    """

    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the text was evaluated")

    gc.disable()
    gc.freeze()
    try:
        with mock.patch.multiple(builtins, eval=fail, exec=fail, open=fail, __import__=fail, print=fail, input=fail):
            yield
    finally:
        gc.unfreeze()
        gc.enable()


def check_text(text: str, seconds: float = 0.1, memory: int = 1 << 20) -> bool:
    """Whether the text gives an operator. Checks that it gives a clear error otherwise, and the time and memory."""
    op, took = None, inf
    for _ in range(5):  # on a busy machine, another program can slow down one of them
        start = time.thread_time()
        op = parse_or_explain(text)
        took = min(took, time.thread_time() - start)
        if took < seconds:
            break
    tracemalloc.start()  # not before, because it makes Python three times as slow
    try:
        parse_or_explain(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < seconds, text[:200]
    assert peak < memory, text[:200]
    return op is not None


def parse_or_explain(text: str) -> Op | None:
    """Parses the text; None if it gives a clear error."""
    try:
        op = parse_net(text)
    except OpError as error:
        message = str(error)
        assert re.fullmatch(r"net: (.+: )?expected .+, got .+", message, re.DOTALL), (text[:200], message)
        assert len(message) < 400, text[:200]
        return None
    assert isinstance(op, Op)
    return op


def check_mutated(numbers: range) -> None:
    count = 0
    with code_forbidden():
        for number in numbers:
            rng = Random(f"text {number}")
            count += check_text(mutate(rng, rng.choice(TEXTS)))
            if number % 100 == 0:
                gc.collect()
    assert 0 < count < len(numbers) / 2


def test_parse_net_of_300_mutated_texts_gives_an_operator_or_a_clear_error() -> None:
    check_mutated(range(300))


@pytest.mark.slow
def test_parse_net_of_10000_mutated_texts_gives_an_operator_or_a_clear_error() -> None:
    check_mutated(range(300, 10_000))


def test_parse_net_evaluates_no_code() -> None:
    with code_forbidden():
        for code in CODE:
            for text in (code, f"serial(dense({code}), tanh)", f"dense(3, w_init={code})", f"named({code}, tanh)"):
                check_text(text)


FULL = MAX_LENGTH - 100


@pytest.mark.parametrize(
    "text",
    [
        *("(" * FULL, "[" * FULL, "-" * FULL, "'" * FULL, " " * FULL, "\n" * FULL, "9" * FULL, "a" * FULL, "1e" * FULL),
        *("'" + "\\" * FULL, "'" + "a" * FULL + "'", "serial(" * (FULL // 7), "a=" * (FULL // 2), "_" * FULL),
        *(f"reshape({'9,' * (FULL // 2)})", f"conv(1, [{'[1],' * (FULL // 4)}])", f"serial({'tanh,' * (FULL // 5)})"),
        *(f"named({'[' * 40}{'0,' * (FULL // 3)}", f"conv(1, {'é' * FULL})", f"dense({'a=1,' * (FULL // 4)})"),
        *(f"dense(1, w_init=constant({'9' * 400}))", f"dense({'9' * 4000})", f"reshape(-1, -1{', 9' * 6000})"),
        *(
            "dense(1000000000000)",
            "conv(1000000, 1000)",
            "embedding(1000000000, 1000000000)",
            "attention(1000000000)",
        ),
        *("shared(tanh, 1000000000)", "microbatch(tanh, 1000000000)", "shard(tanh, size=1000000000)"),
        *(
            "maxpool(1000000000)",
            f"serial({'repeat(tanh, 999), ' * 2})",
            "repeat(batch_norm(), 999)",
            "layer_norm(1000000000)",
        ),
        f"serial({'repeat(repeat(batch_norm(), 30), 30), ' * 9})",
        "serial(" * 40 + "repeat(batch_norm(), 45)" + ")" * 40,
    ],
    ids=lambda text: f"{text[:12]} {text[-12:]}",
)
def test_parse_net_of_long_texts_and_large_numbers_takes_little_time_and_memory(text: str) -> None:
    with code_forbidden():
        check_text(text)


def test_parse_net_of_the_largest_net_takes_time_and_memory_for_its_operators_only() -> None:
    with code_forbidden():
        assert check_text(f"serial({'conv(1,1),' * (FULL // 10)})", seconds=1, memory=6 << 20)
