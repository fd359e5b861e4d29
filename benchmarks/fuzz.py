"""Damaged shards and RAW files: what comes of thousands of them, and the most memory that one takes.

    python benchmarks/fuzz.py [--count 5000] [--seed 0] [--keep FOLDER]

Shards of 8 and 16 bits, with and without short exposures, are damaged at random, four times out of five in what is
no pixel; then everything in them is read, and `relo inspect --verify` is run. DNG files are damaged in their
headers; TIFF and PNG mosaics likewise, a fifth as many. Every file is read in a child process. A failure is an
exception other than relo's own, an exit code other than 0, 2 or 3, the end of the process, a minute without an
answer, or 1 GB above what the process had. `--keep` keeps the files that failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.datasets import write_shard
from support.fuzzing import Mutation, Outcome, fuzz, metadata, mutation

from relo.capture import RawFrame, write_dng

HEADER_BYTES = 4096

Sources = list[tuple[str, Mutation]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="mutations of shards, and of DNG headers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = (
            ("shards", "shard and inspect", shards(folder), arguments.count),
            ("DNG headers", "raw", headers(folder, (".dng",)), arguments.count),
            ("TIFF and PNG headers", "raw", headers(folder, (".tif", ".zlib.tif", ".png")), arguments.count // 5),
        )
        failed = 0
        for title, kind, sources, count in runs:
            begin = time.monotonic()
            outcome = fuzz(kind, sources, count, arguments.seed, folder)
            show(title, count, outcome, time.monotonic() - begin)
            failed += len(outcome.failures)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("failed-*"):
                (arguments.keep / path.name).write_bytes(path.read_bytes())
    sys.exit(1 if failed else 0)


def shards(folder: Path) -> Sources:
    """Damage to shards: small tiles, several tiles, 16 bits."""
    sources = []
    for name, keywords in (
        ("small.h5", {"short": True}),
        ("tiles.h5", {"size": (200, 300)}),
        ("deep.h5", {"bits": 16, "short": True, "size": (140, 150)}),
    ):
        path = folder / name
        write_shard(path, pairs=2, **keywords)  # type: ignore[arg-type]
        sources.append((name, mutation(path.read_bytes(), metadata(path))))
    return sources


def headers(folder: Path, suffixes: tuple[str, ...]) -> Sources:
    """Damage to the first bytes of RAW files."""
    mosaic = np.random.default_rng(0).integers(0, 16384, (300, 400)).astype(np.uint16)
    sources = []
    for suffix in suffixes:
        path = folder / f"frame{suffix}"
        if suffix == ".dng":
            write_dng(path, RawFrame(mosaic, "RGGB", (512.0,) * 4, 16383.0, (2.1, 1.0, 1.6), exposure_s=0.0125))
            end = 600  # the pixels come behind
        elif suffix == ".png":
            cv2.imwrite(str(path), mosaic)
            end = HEADER_BYTES
        else:
            tifffile.imwrite(path, mosaic, compression="zlib" if suffix == ".zlib.tif" else None)
            end = 300
        sources.append((path.name, mutation(path.read_bytes(), [(0, end)], share=0.95)))
    return sources


def show(title: str, count: int, outcome: Outcome, seconds: float) -> None:
    """Print what came of one kind of file."""
    read = outcome.counts["read"]
    print(f"{title}: {count} damaged, {read} read, {outcome.counts.total() - read} refused, ", end="")
    print(f"{len(outcome.failures)} failed; at most {outcome.peak_bytes / 1e6:.0f} MB; {seconds:.0f} s")
    reasons = ((reason, number) for reason, number in outcome.counts.most_common() if reason != "read")
    for reason, number in list(reasons)[:8]:
        print(f"  {number:5d}  {reason[:100]}")
    for failure in outcome.failures:
        print(f"  {failure}")
    print(flush=True)


if __name__ == "__main__":
    main()
