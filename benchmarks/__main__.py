"""Measures fnn and its peers in one run and reports in Markdown: `python -m benchmarks` (`--help` lists the flags)."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.layers import LAYERS, STRIDED
from benchmarks.machine import Others, blas_kernel, forcing_variables, processor, usable_cores
from benchmarks.nets import PREDICTING, TRAINING
from benchmarks.peers import ISAS, OLD, PEERS
from benchmarks.sections import Plan, Section, growth, imports, layer_memory, memory, steps, summary
from benchmarks.workloads import FAMILIES, matching, select

OTHER = ("memory", "growth", "imports")
"""Measurements other than workloads; the same flag selects them."""

SECONDS = {"workloads": 1.0, "nets": 0.4, "layers": 0.1}
"""The seconds per turn, unless the command line says otherwise."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the measurements of the command line, prints the report, and writes it to a file if asked to."""
    args, others = arguments(argv), Others()
    report = [describe_setup(args), *measure(args)]
    show("")
    if (busy := others.cores()) is not None:
        report.append(f"Other programs used {busy:.1f} cores meanwhile.")
    text = "\n\n".join(report)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def measure(args: argparse.Namespace) -> list[str]:
    """Runs the measurements and returns the sections of the report."""
    plan = Plan(args.peers, args.rounds, 0.0, show, args.isa, args.against or ROOT)
    plans = {group: plan._replace(seconds=args.seconds or seconds) for group, seconds in SECONDS.items()}
    cores = min(2, usable_cores())
    few, many = args.threads or [1], args.threads or list(range(1, cores + 1))
    measured: list[Section] = []
    for group, title, works, threads in (
        ("workloads", "Steps", select([name for name in args.workloads if name not in OTHER]), many),
        ("nets", "Training steps with Adam", [work for work in args.nets if work.task == "train"], many),
        ("nets", "Forward passes", [work for work in args.nets if work.task == "predict"], many),
        ("layers", "Layers, forward and vjp", args.layers, few),
    ):
        measured += [steps(plans[group], title, works, n) for n in threads if works]
    report = [section.text for section in measured]
    if args.strided:
        report.append(layer_memory(plan, args.strided))
    plan = plans["workloads"]
    if "memory" in args.workloads:
        report.append(memory(plan, max(many)))
    if "growth" in args.workloads and "fnn" in args.peers:
        report.append(growth(plan, max(many)))
    if "imports" in args.workloads:
        report.append(imports(plan))
    return [*report, summary(measured)] if any(section.ratios for section in measured) else report


def show(progress: str) -> None:
    """Replaces the progress line on a terminal; prints nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses and checks the command line; `workloads` are names, `nets`, `layers` and `strided` lists of workloads."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Times fnn beside its peers on a CPU.")
    add = parser.add_argument
    names = [*FAMILIES, *OTHER]
    add("--workloads", nargs="+", metavar="NAME", help=f"from {', '.join(names)}; the default without the next two")
    add("--nets", nargs="*", metavar="PATTERN", help="kinds of nets: all, or those that match, such as 'u*'")
    add("--layers", nargs="*", metavar="PATTERN", help="single layers: all, or those that match, such as 'conv*'")
    add("--threads", nargs="+", type=int, metavar="N", help="numbers of threads (default: 1 and 2; for layers 1)")
    add("--rounds", type=int, default=5, metavar="N", help="rounds, with one turn per peer")
    add("--seconds", type=float, metavar="S", help=f"seconds per turn (default: {SECONDS})")
    peers = [peer for peer in PEERS if peer != OLD]
    add("--peers", nargs="+", choices=peers, default=peers, metavar="NAME", help=f"from {', '.join(peers)}")
    add("--isa", choices=ISAS, help="limits all peers to these instructions of the processor")
    add("--against", type=Path, metavar="FOLDER", help="also compares with the fnn in another checkout")
    add("--out", type=Path, metavar="FILE.md", help="also write the report to this file")
    args = parser.parse_args(argv)
    if args.workloads is None:
        args.workloads = names if args.nets is None and args.layers is None else []
    try:
        select([name for name in args.workloads if name not in OTHER])
    except ValueError as error:
        parser.error(f"--workloads: {error}; also allowed: {', '.join(OTHER)}")
    for flag, works in (("nets", (*TRAINING, *PREDICTING)), ("layers", (*LAYERS, *STRIDED))):
        try:
            setattr(args, flag, [] if (patterns := getattr(args, flag)) is None else matching(patterns, works))
        except ValueError as error:
            parser.error(f"--{flag}: {error}")
    args.strided = [work for work in args.layers if work in STRIDED]
    args.layers = [work for work in args.layers if work not in STRIDED]
    cores = usable_cores()
    if wrong := [n for n in args.threads or () if not 1 <= n <= cores]:
        parser.error(f"--threads: expected 1 to {cores}, got {wrong[0]}")
    if args.rounds < 1 or not (args.seconds is None or 0 < args.seconds < 3600):
        parser.error(f"expected rounds from 1 and seconds from 0 to 3600, got {args.rounds} and {args.seconds}")
    if args.against and not (args.against / "fnn" / "__init__.py").is_file():
        parser.error(f"--against: expected a folder with fnn, got {args.against}")
    if args.out and (args.out.is_dir() or not os.access(args.out.parent, os.W_OK)):
        parser.error(f"--out: expected a file in a writable folder, got {args.out}")
    args.peers = [peer for peer in PEERS if peer in args.peers or (peer == OLD and args.against)]
    return args


def describe_setup(args: argparse.Namespace) -> str:
    """Returns lines about the environment, if it slows NumPy down, and about the machine and the versions."""
    forced = forcing_variables({} if args.isa else os.environ)
    warning = (
        f"Warning: NumPy does not use the whole processor, because the environment sets {forced}." if forced else ""
    )
    note = "onnxruntime cannot be limited." if args.isa and "onnxruntime" in args.peers else ""
    environment = {**os.environ, **PEERS["fnn"].environment(1, args.isa)}
    packages = dict.fromkeys(["numpy", *(PEERS[peer].package for peer in args.peers if PEERS[peer].package != "fnn")])
    facts = [
        f"{processor()}, {usable_cores()} cores" + (f", limited to {args.isa}" if args.isa else ""),
        f"NumPy's BLAS: {blas_kernel(environment)}",
        f"Python {platform.python_version()}",
        *(f"{package} {get_version(package)}" for package in packages),
    ]
    machine = f"{'; '.join(facts)}. Medians of {args.rounds} rounds. {note}".strip()
    return "\n\n".join(filter(None, [warning, machine]))


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
