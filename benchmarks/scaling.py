"""How training scales over ranks of MPI, measured here and predicted beyond: `python -m benchmarks.scaling`.

The prediction is a sum of what is measured here, a step of one rank with its part of the batch and the packing of the
gradients, and of what messages cost by two numbers, latency and rate (Hockney, "The communication challenge for MPP",
1994). Those of this machine are measured and those of the networks are assumed.
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
"""The images of a step in strong scaling: so many that the most ranks have one each."""

SMALL = 3
"""The messages of a few bytes in a step beside the gradients: everyone's counts, twice, and losses."""


class Network(NamedTuple):
    """What messages cost between ranks of which each has a node, and the network, for itself."""

    name: str
    latency: float
    """Seconds for any message."""

    rate: float
    """Bytes a second."""


NETWORKS = (Network("100 Gbit/s InfiniBand", 2e-6, 11e9), Network("10 Gbit/s Ethernet", 30e-6, 1.1e9))
"""Assumed, and near to what MPI reaches of their nominal rates."""


class Net(NamedTuple):
    """What `benchmarks.ranks` measured of a net, and what follows from it."""

    net: str
    bytes: int
    times: dict[str, list[float]]

    def best(self, what: str) -> float:
        """The seconds that something takes, in the best round: whatever disturbs makes it slower."""
        return min(self.times[what])

    def gains(self, images: int, one: int) -> list[float]:
        """How many times the images a second of one rank all took together, with so many images a step, in each round.

        One rank's step had `one` images.
        """
        turns = zip(self.times[f"one {one}"], self.times[f"all {images}"], strict=True)
        return [images / one * before / after for before, after in turns]

    def here(self) -> Network:
        """This machine as a network."""
        latency = self.best("swap")
        return Network("this machine", latency, self.bytes / max(self.best("swap all") - latency, 1e-9))

    def step(self, images: int, ranks: int, network: Network) -> float:
        """The predicted seconds of a step of so many ranks with so many images in all.

        The exchange sends the gradients twice in all, along a tree of which each level costs a latency each time.
        """
        levels, sent = log2(ranks), 2 * (1 - 1 / ranks) * self.bytes
        exchange = self.best("packing") + (2 + SMALL) * levels * network.latency + sent / network.rate
        return self.best(f"one {images // ranks}") + (exchange if ranks > 1 else 0)

    def gain(self, images: int, one: int, ranks: int, network: Network) -> float:
        """What `gains` are predicted to be."""
        return images / one * self.step(one, 1, network) / self.step(images, ranks, network)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, predicts, prints the report, and writes it to a file where one is named."""
    args = arguments(argv)
    others = Others()
    nets = measured(args)
    busy = others.cores()
    paragraphs = [
        f"{processor()}, {usable_cores()} cores; {args.rounds} rounds of {args.seconds:g} s for each step.",
        scaling(nets, args.ranks, args.batch),
        costs(nets),
        *(predictions(nets, args.batch, network) for network in NETWORKS),
        CAVEATS.format(batch=args.batch, most=60_000 // args.batch),
    ]
    if busy is not None:
        paragraphs.append(f"Meanwhile other programs kept {busy:.1f} cores busy.")
    text = "\n\n".join(paragraphs)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def measured(args: argparse.Namespace) -> list[Net]:
    """What the ranks answer."""
    plan = {"nets": args.nets, "images": RANKS, "shared": [args.ranks * args.batch, TOTAL]}
    plan |= {"rounds": args.rounds, "seconds": args.seconds}
    command = [args.mpiexec, "-n", str(args.ranks), sys.executable, "-m", "benchmarks.ranks", json.dumps(plan)]
    environment = {**os.environ, **PEERS["fnn"].environment(1)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the ranks ended with status {done.returncode}")
    return [Net(**told) for told in json.loads(done.stdout)]


def scaling(nets: Sequence[Net], ranks: int, batch: int) -> str:
    """What several ranks gained over one, beside what is predicted of this machine."""
    rows = []
    for net in nets:
        for kind, images, one in (("weak", ranks * batch, batch), ("strong", TOTAL, TOTAL)):
            before, after = (median(net.times[what]) for what in (f"one {one}", f"all {images}"))
            gains, predicted = net.gains(images, one), net.gain(images, one, ranks, net.here())
            rates = f"{one / before:,.0f}", f"{images / after:,.0f}"
            rows.append([f"{net.net}, {kind}, {images}", *rates, ratio_text(gains), f"{predicted:.2f}"])
    header = ["net, scaling, images in all", "images/s of one", f"images/s of {ranks}", "gain", "predicted"]
    note = f"One rank had {batch} images in weak scaling, and all of them in strong; each rank has one thread."
    return f"### Measured: {ranks} ranks beside one\n\n{table(header, rows)}\n\n{note}"


def costs(nets: Sequence[Net]) -> str:
    """The measured numbers that the predictions are made of."""
    sizes = [1, 16, 64, 256, 1024]
    rows = []
    for net in nets:
        here, steps = net.here(), [time_text(1e3 * net.best(f"one {size}")) for size in sizes]
        message = f"{net.bytes / 1e6:.2f}", time_text(1e3 * net.best("packing"))
        rows.append([net.net, *steps, *message, f"{1e6 * here.latency:.1f}", f"{here.rate / 1e9:.1f}"])
    header = ["net", *(f"ms, {size}" for size in sizes), "message MB", "packing ms", "latency µs", "GB/s"]
    note = (
        "The best round of each: a step of one rank with so many images; the gradients as one message, to pack it and "
        "to add another to it; and what two ranks of this machine take to swap a number, and how fast messages are."
    )
    return f"### Measured: what the predictions are made of\n\n{table(header, rows)}\n\n{note}"


def predictions(nets: Sequence[Net], batch: int, network: Network) -> str:
    """The share of perfect scaling for every number of ranks, and where each net stops gaining by more."""
    rows = [[f"{ranks:,}"] for ranks in RANKS]
    for net in nets:
        for ranks, row in zip(RANKS, rows, strict=True):
            gains = net.gain(ranks * batch, batch, ranks, network), net.gain(TOTAL, TOTAL, ranks, network)
            row += [f"{gain / ranks:.0%}" for gain in gains]
    header = ["ranks", *(f"{net.net}, {kind}" for net in nets for kind in ("weak", "strong"))]
    assumed = f"assumed: {1e6 * network.latency:g} µs and {network.rate / 1e9:g} GB/s"
    lines = "\n".join(limits(net, batch, network) for net in nets)
    return f"### Predicted efficiency by {network.name} ({assumed})\n\n{table(header, rows)}\n\n{lines}"


def limits(net: Net, batch: int, network: Network) -> str:
    """Where more ranks stop paying: a line."""
    weak = {ranks: net.gain(ranks * batch, batch, ranks, network) for ranks in RANKS}
    strong = {ranks: net.gain(TOTAL, TOTAL, ranks, network) for ranks in RANKS}
    most = max(RANKS, key=lambda ranks: strong[ranks])
    half, half_weak = (max(ranks for ranks in RANKS if gain[ranks] >= ranks / 2) for gain in (strong, weak))
    return (
        f"- {net.net}: with {batch} images a rank, half of perfect or better up to {half_weak:,} ranks; with {TOTAL:,} "
        f"in all, up to {half:,}, and never more than {strong[most]:.0f} times one rank, by {most:,}."
    )


CAVEATS = (
    "Predicted are steps, not trainings: larger batches need more epochs, and with {batch} images a rank more than "
    "{most} ranks would have all of MNIST in a step. Assumed besides: a rank to a node, each with one thread and the "
    "speed measured here; nobody waits for a slower rank; the exchange begins when the gradients are there."
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description="Times fnn over ranks of MPI.")
    nets = [name for name in FAMILIES if name in ("cnn", "fc", "lenet")]
    parser.add_argument("--nets", nargs="+", choices=nets, default=nets, metavar="NAME", help=f"of {', '.join(nets)}")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="how many ranks are measured (2)")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="images a rank in weak scaling (256)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each step has its turn (5)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="how long a turn lasts (0.5)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where the report is written as well")
    args = parser.parse_args(argv)
    cores = usable_cores()
    if not 2 <= args.ranks <= cores:
        parser.error(f"--ranks {args.ranks}: this process may use {cores} cores, and two ranks are needed at least")
    if args.batch not in RANKS:
        parser.error(f"--batch {args.batch}: wanted a power of two up to {TOTAL}")
    if args.rounds < 1 or not 0 < args.seconds < 3600:
        parser.error(f"--rounds {args.rounds} --seconds {args.seconds}: wanted a round at least, of 0 to 3600 seconds")
    if args.out and (args.out.is_dir() or not os.access(args.out.parent, os.W_OK)):
        parser.error(f"--out {args.out}: wanted a file in a folder that can be written to")
    args.mpiexec = launcher()
    if not (args.mpiexec and find_spec("mpi4py")):
        parser.error("there is no mpiexec, or no mpi4py: install fnn[mpi]")
    return args


def launcher() -> str | None:
    """The mpiexec that was installed with this Python's packages, or else the one on the path."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("mpiexec", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
