"""Measures fnn and its peers in one run and reports in Markdown: `python -m benchmarks` (`--help` lists the flags)."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.machine import Others, processor, usable_cores
from benchmarks.peers import PEERS
from benchmarks.sections import Plan, growth, imports, memory, steps
from benchmarks.workloads import FAMILIES, select

OTHER = ("memory", "growth", "imports")
"""Measurements other than workloads; the same flag selects them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the measurements of the command line, prints the report, and writes it to a file if asked to."""
    args = arguments(argv)
    plan = Plan(args.peers, args.rounds, args.seconds, show)
    wanted, others = args.workloads, Others()
    report = [describe_setup(args)]
    if works := select([name for name in wanted if name not in OTHER]):
        report += [steps(plan, works, threads) for threads in args.threads]
    if "memory" in wanted:
        report.append(memory(plan, max(args.threads)))
    if "growth" in wanted and "fnn" in args.peers:
        report.append(growth(plan, max(args.threads)))
    if "imports" in wanted:
        report.append(imports(plan))
    show("")
    if (busy := others.cores()) is not None:
        report.append(f"Other programs used {busy:.1f} cores meanwhile.")
    text = "\n\n".join(report)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def show(progress: str) -> None:
    """Replaces the progress line on a terminal; prints nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Times fnn beside PyTorch and JAX on a CPU.")
    names = [*FAMILIES, *OTHER]
    parser.add_argument("--workloads", nargs="+", default=names, metavar="NAME", help=f"from {', '.join(names)}")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, with one turn per peer")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="seconds per turn")
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=f"from {', '.join(PEERS)}"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="also write the report to this file")
    args = parser.parse_args(argv)
    try:
        select([name for name in args.workloads if name not in OTHER])
    except ValueError as error:
        parser.error(f"--workloads: {error}; also allowed: {', '.join(OTHER)}")
    cores = usable_cores()
    if wrong := [n for n in args.threads if not 1 <= n <= cores]:
        parser.error(f"--threads: expected 1 to {cores}, got {wrong[0]}")
    if args.rounds < 1 or not 0 < args.seconds < 3600:
        parser.error(f"expected rounds from 1 and seconds from 0 to 3600, got {args.rounds} and {args.seconds}")
    if args.out and (args.out.is_dir() or not os.access(args.out.parent, os.W_OK)):
        parser.error(f"--out: expected a file in a writable folder, got {args.out}")
    args.peers = [peer for peer in PEERS if peer in args.peers]
    return args


def describe_setup(args: argparse.Namespace) -> str:
    """Returns a line about the machine, the versions and the rounds."""
    packages = dict.fromkeys(["numpy", *(PEERS[peer].package for peer in args.peers if peer != "fnn")])
    versions = ", ".join(f"{package} {get_version(package)}" for package in packages)
    return (
        f"{processor()}, {usable_cores()} cores; Python {platform.python_version()}, {versions}. "
        f"Medians of {args.rounds} rounds of {args.seconds:g} s."
    )


def get_version(package: str) -> str:
    """Returns a package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
