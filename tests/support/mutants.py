"""Mutation testing: changes one place of a file at a time, and looks whether a test fails.

`python -m tests.support.mutants fnn/tree.py` prints each mutant for which no test fails. Write a test that fails for
it, or list it in `mutants.toml` with the reason. No file changes: each mutant is a forked process that imports other
code. So the tests may not start programs. A warning about processor time is normal: such a mutant never ends.
"""

import argparse
import ast
import gc
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in tests/conftest.py, because NumPy is imported here

import numpy  # noqa: F401  here, and not again in each process

try:
    import coverage
    import hypothesis
    import pytest
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator
except ImportError as error:
    raise ImportError(f"mutation tests: {error}; run pip install '.[mutants]'") from error

ROOT = Path(__file__).parents[2]
NAMES = "accuracy calibration checks combinators extremes float16 grad init loaded_params losses nesting op operators"
DEFAULTS = "tests/torch/test_defaults.py"  # it tests defaults without a call
TESTS = ["tests/ops", "tests/optim", "tests/kernels", "tests/torch/test_ops.py"]
TESTS += ["tests/torch/test_optim.py", DEFAULTS]
TESTS += [f"tests/test_{name}.py" for name in f"{NAMES} serial shard transforms tree".split()]
OPTIONS = ["-x", "-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]

BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul LShift_RShift BitOr_BitAnd BitAnd_BitOr"
COMPARISON = "Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_GtE LtE_Gt Gt_LtE GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
KINDS = [f"ReplaceBinaryOperator_{kind}" for kind in BINARY.split()]
KINDS += [f"ReplaceComparisonOperator_{kind}" for kind in COMPARISON.split()]
KINDS += [f"ReplaceUnaryOperator_Delete_{kind}" for kind in ("USub", "Not", "Invert")]
KINDS += ["AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"]
KINDS += ["ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"]
KINDS += ["RemoveDecorator", "ZeroIterationForLoop"]
INVERSE = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}

MAX_BYTES, MAX_SECONDS = 8 << 30, 20  # a mutant that takes more memory or processor time is killed


class Mutant(NamedTuple):
    """A change of a line in the function `where`. `number` counts equal changes in the function."""

    file: str
    where: str
    before: str
    after: str
    number: int = 1


class _Plain(ast.NodeTransformer):
    """Drops docstrings, annotations, type aliases and double negations, so that equal code looks equal."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        is_alias, node.annotation = ast.unparse(node.annotation) == "TypeAlias", ast.Constant(None)
        return None if is_alias else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        inner = self.generic_visit(node.operand)
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and type(inner.ops[0]) in INVERSE:
            inner.ops[0] = INVERSE[type(inner.ops[0])]()
            return inner
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
            return inner.operand
        return node


def find_mutants(file: str) -> Iterator[tuple[Mutant, str, set[int]]]:
    """Yields each mutant of a file, with the changed text of the file and the lines of the changed statement."""
    text = (ROOT / file).read_text("utf-8")
    lines, seen, counts = text.splitlines(), {_normal_form(text)}, Counter[Mutant]()
    for kind in KINDS:
        for i in range(text.count("\n") * 100):
            changed = mutate_code(text, get_operator(f"core/{kind}")(), i)
            if changed is None:
                break
            try:
                form = _normal_form(changed)
            except SyntaxError:
                continue
            if form in seen:
                continue
            seen.add(form)
            pairs = zip(lines, [*changed.splitlines(), ""], strict=False)
            at, after = next((n, pair[1].strip()) for n, pair in enumerate(pairs) if pair[0] != pair[1])
            if kind == "RemoveDecorator":  # together with the blank lines before it
                at, after = next(n for n in range(at, len(lines)) if lines[n].strip().startswith("@")), ""
            where, statement = _locate(text, at + 1)
            mutant = Mutant(file, where, lines[at].strip(), after)
            counts[mutant] += 1
            yield mutant._replace(number=counts[mutant]), changed, statement


def _normal_form(text: str) -> str:
    return ast.dump(_Plain().visit(ast.parse(text)))


def _locate(text: str, line: int) -> tuple[str, set[int]]:
    """The path of the function around a line, and the lines of the innermost statement (of a block: its head)."""
    names, lines = [], {line}
    for node in ast.walk(ast.parse(text)):  # outer ones first
        start = min([getattr(node, "lineno", line + 1), *(d.lineno for d in getattr(node, "decorator_list", []))])
        if isinstance(node, ast.stmt) and start <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            lines = set(range(start, body[0].lineno if body else (node.end_lineno or 0) + 1))
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    return ".".join(names), lines


class _Plugin:
    """Collects the tests. Then runs mutants instead of the tests."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.failed = args, folder, ""

    def pytest_collection(self) -> None:
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # nobody needs small examples
        hypothesis.settings.register_profile("mutants", hypothesis.settings(), phases=phases)
        hypothesis.settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = report.nodeid if report.failed else self.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        run_mutants(self)
        return True

    def run_test(self, name: str, following: str | None = None) -> bool:
        """Runs a test. Returns whether it failed."""
        self.items[name].ihook.pytest_runtest_protocol(item=self.items[name], nextitem=self.items.get(following or ""))
        return bool(self.failed)


def measure(plugin: _Plugin) -> tuple[dict[str, dict[int, list[str]]], dict[str, float]]:
    """The tests that run each line of each file, and the seconds of each test. Raises an error if a test fails."""
    files, seconds = plugin.args.files, {}
    cover = coverage.Coverage(data_file=None, include=[str(ROOT / file) for file in files])
    with cover.collect():
        for name, following in zip(plugin.items, [*plugin.items, None][1:], strict=True):
            cover.switch_context(name)
            start = time.monotonic()
            if plugin.run_test(name, following):
                raise RuntimeError(f"expected tests that succeed without a mutant, got {name}")
            seconds[name] = time.monotonic() - start
    return {file: cover.get_data().contexts_by_lineno(str(ROOT / file)) for file in files}, seconds


def kill(plugin: _Plugin, mutant: Mutant, text: str, tests: list[str]) -> str:
    """Runs the tests with `text` instead of the file. Returns the first test that fails, or an empty string."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    if mutant.after and replace_code(str(ROOT / mutant.file), text):
        for name, following in zip(tests, [*tests, None][1:], strict=True):
            if plugin.run_test(name, following):
                break
        return plugin.failed
    return _kill_by_import(plugin.args, mutant, text, tests)


def replace_code(path: str, text: str) -> int:
    """Gives the functions of a file the code from `text`. Returns how many functions change.

    Nothing is imported again, which is ten times as fast. What was computed at the import stays.
    """
    pairs = zip(_codes(Path(path).read_text("utf-8"), path), _codes(text, path), strict=False)
    codes = {(old.co_qualname, old.co_linetable): new for old, new in pairs if old.co_qualname == new.co_qualname}
    count = 0
    for f in functions_of(path):
        new = codes.get((f.__code__.co_qualname, f.__code__.co_linetable))
        if new is not None and new != f.__code__ and new.co_freevars == f.__code__.co_freevars:
            f.__code__, count = new, count + 1
    return count


def _codes(text: str, path: str) -> Iterator[CodeType]:
    """The code of each function, outer ones first."""
    todo = [compile(text, path, "exec", dont_inherit=True)]
    for code in todo:
        yield code
        todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


@cache
def functions_of(path: str) -> list[FunctionType]:
    """All functions from a file that exist now."""
    return [f for f in gc.get_objects() if type(f) is FunctionType and f.__code__.co_filename == path]


def _kill_by_import(args: argparse.Namespace, mutant: Mutant, text: str, tests: list[str]) -> str:
    """Imports everything again, with `text` instead of the file, and runs the tests for a few seconds."""
    module, original = mutant.file.removesuffix(".py").replace("/", "."), SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, name: str) -> CodeType | None:
        if name == module:
            return compile(text, str(ROOT / mutant.file), "exec", dont_inherit=True)
        return original(self, name)

    SourceFileLoader.get_code = get_code  # type: ignore[assignment, method-assign]
    for name in [name for name in sys.modules if name.split(".")[0] in ("fnn", "tests")]:
        del sys.modules[name]
    files = list(dict.fromkeys(name.split("::")[0] for name in tests))
    for some in (files[:2], files[2:]):  # to import the likeliest files alone is faster
        plugin = _Again([name for name in tests if name.split("::")[0] in some])
        if some and (code := pytest.main([*OPTIONS, *some], plugins=[plugin])):
            return plugin.failed or f"exit {code}"
    return ""


class _Again:
    """Runs only the chosen tests, with all their parameters, because a mutant may change the names of these."""

    def __init__(self, chosen: list[str]) -> None:
        self.rank, self.failed = {name.split("[")[0]: -i for i, name in enumerate(reversed(chosen))}, ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [(self.rank[name], item) for item in items if (name := item.nodeid.split("[")[0]) in self.rank]
        items[:] = [item for _, item in sorted(chosen, key=lambda pair: pair[0])]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = report.nodeid if report.failed else self.failed


def _fork(output: Path, work: Callable[..., Any], *arguments: Any) -> int:
    """Calls `work` in a child process and pickles its result. Returns the id of the process."""
    if pid := os.fork():
        return pid
    os.setsid()
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(output.parent)
    for stream in (1, 2):
        os.dup2(os.open(output.with_suffix(".txt"), os.O_CREAT | os.O_WRONLY), stream)
    try:
        output.write_bytes(pickle.dumps(work(*arguments)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


def run_mutants(plugin: _Plugin) -> None:
    """Runs the mutants of all files, and prints those for which no test fails."""
    args, folder = plugin.args, plugin.folder
    rows = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log and args.log.exists() else []
    known = {Mutant(*row[:5]): row[5] for row in rows if row[5]}
    groups = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text("utf-8"))["listed"]
    listed = {(group["file"], *change) for group in groups for change in group["mutants"]}
    for file in args.files:
        functions_of(str(ROOT / file))
    gc.freeze()
    os.waitpid(_fork(folder / "measure", measure, plugin), 0)
    if not (folder / "measure").exists():
        raise SystemExit((folder / "measure.txt").read_text()[-3000:])
    lines, seconds = pickle.loads((folder / "measure").read_bytes())
    touching = {file: seconds.keys() & set().union(*lines[file].values()) for file in args.files}
    near = {file: {test.split("::")[0] for test in touching[file]} | {DEFAULTS} for file in args.files}
    kills: defaultdict[str, Counter[str]] = defaultdict(Counter)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    running: dict[int, tuple[Mutant, float, Path]] = {}

    def note(mutant: Mutant, killer: str) -> None:
        counts[mutant.file]["killed" if killer else "survived"] += 1
        kills[mutant.file][killer] += 1
        if not killer:
            print(f"{mutant.file}: {mutant.where}: {mutant.before!r} -> {mutant.after!r}", flush=True)
        if args.log:
            with args.log.open("a") as out:
                out.write(json.dumps([*mutant, killer]) + "\n")

    def wait(most: int) -> None:
        while len(running) > most:
            time.sleep(0.005)
            for pid, (mutant, start, output) in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    if not status and not output.exists():
                        raise SystemExit(output.with_suffix(".txt").read_text())
                    note(mutant, f"signal {status}" if status else pickle.loads(output.read_bytes()))
                    del running[pid]
                elif time.monotonic() - start > 6 * MAX_SECONDS:
                    os.killpg(pid, signal.SIGKILL)  # it waits for something

    for file in args.files:
        for i, (mutant, text, statement) in enumerate(find_mutants(file)):
            if mutant in known or mutant[:4] in listed:
                counts[file]["killed" if mutant in known else "listed"] += 1
                continue
            wait(args.workers - 1)
            found = {test for line in statement for test in lines[file].get(line, ())} & seconds.keys()
            if not found or not mutant.after:  # it runs at the import
                found = {test for test in seconds if test.split("::")[0] in near[file]}
            stem, most, tests = Path(file).stem, args.budget, list[str]()
            for test in sorted(found, key=lambda test: (-kills[file][test], stem not in test, seconds[test])):
                most -= seconds[test]
                tests += [test] if most > 0 or not tests else []
            output = folder / f"{stem}-{i}"
            running[_fork(output, kill, plugin, mutant, text, tests)] = mutant, time.monotonic(), output
        wait(0)
        print(f"{file}: {sum(counts[file].values())} mutants, {dict(counts[file])}", flush=True)


def main() -> None:
    """Reads the command line and runs the mutants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files and folders of tests")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of tests for a mutant")
    parser.add_argument("--log", type=Path, help="a file of results; mutants that were killed in it do not run again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pytest.main([*OPTIONS, "-s", *args.tests], plugins=[_Plugin(args, Path(folder))])


if __name__ == "__main__":
    main()
