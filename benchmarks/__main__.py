"""Times fnn beside its peers in one run and tells it in Markdown: `python -m benchmarks` (`--help` tells its flags)."""

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

BESIDE = ("memory", "growth", "imports")
"""What is measured beside the workloads, chosen by the same flag."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the command line asks for, prints the report, and writes it to a file where one is named."""
    args = arguments(argv)
    plan = Plan(args.peers, args.rounds, args.seconds, tell)
    wanted, others = args.workloads, Others()
    report = [setting(args)]
    if works := select([name for name in wanted if name not in BESIDE]):
        report += [steps(plan, works, threads) for threads in args.threads]
    if "memory" in wanted:
        report.append(memory(plan, max(args.threads)))
    if "growth" in wanted and "fnn" in args.peers:
        report.append(growth(plan, max(args.threads)))
    if "imports" in wanted:
        report.append(imports(plan))
    tell("")
    if (busy := others.cores()) is not None:
        report.append(f"Meanwhile other programs kept {busy:.1f} cores busy.")
    text = "\n\n".join(report)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def tell(progress: str) -> None:
    """Shows what is under way, in the place of what was shown before, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked: whatever is wrong is said before anything is measured."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Times fnn beside PyTorch and JAX on a CPU.")
    names = [*FAMILIES, *BESIDE]
    parser.add_argument("--workloads", nargs="+", default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="numbers of threads")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each peer has its turn")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="how long a turn lasts")
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where the report is written as well")
    args = parser.parse_args(argv)
    try:
        select([name for name in args.workloads if name not in BESIDE])
    except ValueError as error:
        parser.error(f"{error}; beside them {', '.join(BESIDE)}")
    cores = usable_cores()
    if wrong := [n for n in args.threads if not 1 <= n <= cores]:
        parser.error(f"--threads {wrong[0]}: this process may use 1 to {cores}")
    if args.rounds < 1 or not 0 < args.seconds < 3600:
        parser.error(f"--rounds {args.rounds} --seconds {args.seconds}: wanted a round at least, of 0 to 3600 seconds")
    if args.out and (args.out.is_dir() or not os.access(args.out.parent, os.W_OK)):
        parser.error(f"--out {args.out}: wanted a file in a folder that can be written to")
    args.peers = [peer for peer in PEERS if peer in args.peers]
    return args


def setting(args: argparse.Namespace) -> str:
    """A line on what was measured with what."""
    packages = dict.fromkeys(["numpy", *(PEERS[peer].package for peer in args.peers if peer != "fnn")])
    versions = ", ".join(f"{package} {installed(package)}" for package in packages)
    return (
        f"{processor()}, {usable_cores()} cores; Python {platform.python_version()}, {versions}. "
        f"Medians of {args.rounds} rounds of {args.seconds:g} s."
    )


def installed(package: str) -> str:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
