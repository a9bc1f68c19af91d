"""How training scales over ranks of MPI: measured on this machine, predicted for more: `python -m benchmarks.scaling`.

The predicted time of a step is the sum of measured and modelled times. Measured are a step of one rank with its part of
the batch, and the packing of the gradients. Messages are modelled by latency and rate (Hockney, "The communication
challenge for MPP", 1994), which are measured on this machine and assumed for networks.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from math import log2
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.harness import ROOT
from benchmarks.machine import Others, processor, usable_cores
from benchmarks.peers import PEERS
from benchmarks.report import ratio_text, table, time_text
from benchmarks.workloads import FAMILIES

RANKS = [1 << i for i in range(11)]
TOTAL = RANKS[-1]
"""The images per step in strong scaling: one for each of the largest number of ranks."""

SMALL = 3
"""The small messages per step: all ranks' counts, twice, and losses."""


class Network(NamedTuple):
    """The costs of messages between ranks on different nodes, without other traffic."""

    name: str
    latency: float
    """Seconds per message."""

    rate: float
    """Bytes per second."""


NETWORKS = (Network("100 Gbit/s InfiniBand", 2e-6, 11e9), Network("10 Gbit/s Ethernet", 30e-6, 1.1e9))
"""Assumed values, close to what MPI reaches in practice."""


class Net(NamedTuple):
    """The measurements of a net by `benchmarks.ranks`, and predictions from them."""

    net: str
    bytes: int
    times: dict[str, list[float]]

    def best(self, what: str) -> float:
        """Returns the seconds of the best round, because disturbances only add time."""
        return min(self.times[what])

    def gains(self, images: int, one: int) -> list[float]:
        """Returns the speedup of all ranks with `images` per step over one rank with `one`, for each round."""
        turns = zip(self.times[f"one {one}"], self.times[f"all {images}"], strict=True)
        return [images / one * before / after for before, after in turns]

    def here(self) -> Network:
        """Returns this machine as a network."""
        latency = self.best("swap")
        return Network("this machine", latency, self.bytes / max(self.best("swap all") - latency, 1e-9))

    def step(self, images: int, ranks: int, network: Network) -> float:
        """Returns the predicted seconds of a step of all ranks with that many images in total.

        The exchange sends the gradients twice, and each level of its tree costs two latencies.
        """
        levels, sent = log2(ranks), 2 * (1 - 1 / ranks) * self.bytes
        exchange = self.best("packing") + (2 + SMALL) * levels * network.latency + sent / network.rate
        return self.best(f"one {images // ranks}") + (exchange if ranks > 1 else 0)

    def gain(self, images: int, one: int, ranks: int, network: Network) -> float:
        """Returns the predicted speedup; see `gains`."""
        return images / one * self.step(one, 1, network) / self.step(images, ranks, network)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, predicts, prints the report, and writes it to a file if asked to."""
    args = arguments(argv)
    others = Others()
    nets = run_ranks(args)
    busy = others.cores()
    paragraphs = [
        f"{processor()}, {usable_cores()} cores; {args.rounds} rounds of {args.seconds:g} s per step.",
        scaling(nets, args.ranks, args.batch),
        costs(nets),
        *(predictions(nets, args.batch, network) for network in NETWORKS),
        CAVEATS.format(batch=args.batch, most=60_000 // args.batch),
    ]
    if busy is not None:
        paragraphs.append(f"Other programs used {busy:.1f} cores meanwhile.")
    text = "\n\n".join(paragraphs)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def run_ranks(args: argparse.Namespace) -> list[Net]:
    """Runs `benchmarks.ranks` and returns its measurements."""
    plan = {"nets": args.nets, "images": RANKS, "shared": [args.ranks * args.batch, TOTAL]}
    plan |= {"rounds": args.rounds, "seconds": args.seconds}
    command = [args.mpiexec, "-n", str(args.ranks), sys.executable, "-m", "benchmarks.ranks", json.dumps(plan)]
    environment = {**os.environ, **PEERS["fnn"].environment(1)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the ranks ended with status {done.returncode}")
    return [Net(**net) for net in json.loads(done.stdout)]


def scaling(nets: Sequence[Net], ranks: int, batch: int) -> str:
    """Compares the measured and the predicted speedup of several ranks on this machine."""
    rows = []
    for net in nets:
        for kind, images, one in (("weak", ranks * batch, batch), ("strong", TOTAL, TOTAL)):
            before, after = (median(net.times[what]) for what in (f"one {one}", f"all {images}"))
            gains, predicted = net.gains(images, one), net.gain(images, one, ranks, net.here())
            rates = f"{one / before:,.0f}", f"{images / after:,.0f}"
            rows.append([f"{net.net}, {kind}, {images}", *rates, ratio_text(gains), f"{predicted:.2f}"])
    header = ["net, scaling, total images", "images/s of 1 rank", f"images/s of {ranks}", "speedup", "predicted"]
    note = f"In weak scaling one rank has {batch} images, in strong scaling all of them. Each rank has one thread."
    return f"### Measured: {ranks} ranks and one rank\n\n{table(header, rows)}\n\n{note}"


def costs(nets: Sequence[Net]) -> str:
    """Returns the measurements that the predictions use."""
    sizes = [1, 16, 64, 256, 1024]
    rows = []
    for net in nets:
        here, steps = net.here(), [time_text(1e3 * net.best(f"one {size}")) for size in sizes]
        message = f"{net.bytes / 1e6:.2f}", time_text(1e3 * net.best("packing"))
        rows.append([net.net, *steps, *message, f"{1e6 * here.latency:.1f}", f"{here.rate / 1e9:.1f}"])
    header = ["net", *(f"ms, {size}" for size in sizes), "message MB", "packing ms", "latency µs", "GB/s"]
    note = (
        "Best rounds. Steps of one rank with that many images; the size of the gradients, and the time to pack them "
        "into a message and to add another message; the latency and the rate of messages on this machine."
    )
    return f"### Measured: the input of the predictions\n\n{table(header, rows)}\n\n{note}"


def predictions(nets: Sequence[Net], batch: int, network: Network) -> str:
    """Returns the predicted efficiency (1 is perfect scaling) for every number of ranks, and each net's limits."""
    rows = [[f"{ranks:,}"] for ranks in RANKS]
    for net in nets:
        for ranks, row in zip(RANKS, rows, strict=True):
            gains = net.gain(ranks * batch, batch, ranks, network), net.gain(TOTAL, TOTAL, ranks, network)
            row += [f"{gain / ranks:.0%}" for gain in gains]
    header = ["ranks", *(f"{net.net}, {kind}" for net in nets for kind in ("weak", "strong"))]
    assumed = f"assumed: {1e6 * network.latency:g} µs and {network.rate / 1e9:g} GB/s"
    lines = "\n".join(limits(net, batch, network) for net in nets)
    return f"### Predicted efficiency with {network.name} ({assumed})\n\n{table(header, rows)}\n\n{lines}"


def limits(net: Net, batch: int, network: Network) -> str:
    """Returns a line about the number of ranks beyond which a net gains little."""
    weak = {ranks: net.gain(ranks * batch, batch, ranks, network) for ranks in RANKS}
    strong = {ranks: net.gain(TOTAL, TOTAL, ranks, network) for ranks in RANKS}
    most = max(RANKS, key=lambda ranks: strong[ranks])
    half, half_weak = (max(ranks for ranks in RANKS if gain[ranks] >= ranks / 2) for gain in (strong, weak))
    return (
        f"- {net.net}: with {batch} images per rank, efficiency is at least 50% up to {half_weak:,} ranks; with "
        f"{TOTAL:,} in total, up to {half:,}, and the maximum speedup is {strong[most]:.0f}, with {most:,} ranks."
    )


CAVEATS = (
    "These predictions are for single steps: larger batches need more epochs, and with {batch} images per rank, more "
    "than {most} ranks would use all of MNIST in one step. Other assumptions: one rank per node, with one thread and "
    "the speed measured here; no slower ranks; the exchange starts when all gradients are computed."
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scaling", description="Measures how fnn scales over ranks of MPI."
    )
    nets = [name for name in FAMILIES if name in ("cnn", "fc", "lenet")]
    parser.add_argument("--nets", nargs="+", choices=nets, default=nets, metavar="NAME", help=f"from {', '.join(nets)}")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks to measure (2)")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="images per rank in weak scaling (256)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, with one turn per step (5)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="seconds per turn (0.5)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="also write the report to this file")
    args = parser.parse_args(argv)
    cores = usable_cores()
    if not 2 <= args.ranks <= cores:
        parser.error(f"--ranks: expected 2 to {cores}, one per core, got {args.ranks}")
    if args.batch not in RANKS:
        parser.error(f"--batch: expected a power of two up to {TOTAL}, got {args.batch}")
    if args.rounds < 1 or not 0 < args.seconds < 3600:
        parser.error(f"expected rounds from 1 and seconds from 0 to 3600, got {args.rounds} and {args.seconds}")
    if args.out and (args.out.is_dir() or not os.access(args.out.parent, os.W_OK)):
        parser.error(f"--out: expected a file in a writable folder, got {args.out}")
    args.mpiexec = launcher()
    if not (args.mpiexec and find_spec("mpi4py")):
        parser.error("needs mpiexec and mpi4py: pip install '.[mpi]'")
    return args


def launcher() -> str | None:
    """Returns the path of mpiexec: the one installed with this Python, else the one on the path."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("mpiexec", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
