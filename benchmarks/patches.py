"""Training patches a second: from shards, from the usual PNG folder, from whole images as .npy.

    python benchmarks/patches.py [--shards DIR] [--seconds 6] [--quick] [--json]

A patch is 256 x 256 pixels of the blurred frame, the sharp frame and the mask, half of them centred on a blurred
pixel, mirrored or not, as uint8 tensors, made in a loader process. The PNG folder is read as public training codes
do: three whole images are decoded (OpenCV), one window of each is used. "Cold" means that the system's cache was
emptied of the files before; "first" is the first pass over shards, in which masks are counted.

Without --shards a session of 20 pairs of 2152 x 1436 pixels is simulated and processed. PNG files are written with
OpenCV's and with Pillow's defaults, which differ in size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from relo.parallel import reuse_freed_memory
from relo.shards import Dataset, open_dataset
from relo.training.data import EndlessBatches, Patches
from relo.training.recipe import Recipe, load_recipe
from relo.training.sampling import Box, blur_aware_corner, mirror

BATCH = 8
Frames = tuple[np.ndarray, np.ndarray, np.ndarray]


class WholeFiles(TorchDataset[Any]):
    """The usual way: every image of a pair is read whole, then a window is cut."""

    def __init__(self, count: int, read: Callable[[int], Frames], recipe: Recipe) -> None:
        self.count, self.read, self.recipe = count, read, recipe

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        blur, sharp, mask = self.read(draw[1])
        rng = np.random.default_rng([self.recipe.seed, *draw])
        size = self.recipe.crop

        def pick(share: float) -> tuple[int, int] | None:
            found = np.flatnonzero(mask)
            if not found.size:
                return None
            y, x = divmod(int(found[int(share * found.size)]), mask.shape[1])
            return y, x

        y, x = blur_aware_corner(Box(0, 0, *mask.shape), size, rng, pick, self.recipe.bapc)
        cut = [image[y : y + size, x : x + size] for image in (blur, sharp, mask)]
        blur, sharp, mask = mirror(cut, rng, self.recipe.hflip, self.recipe.vflip)
        planes = {"blur": blur.transpose(2, 0, 1), "sharp": sharp.transpose(2, 0, 1), "mask": mask[None]}
        return {name: torch.from_numpy(np.ascontiguousarray(plane)) for name, plane in planes.items()}


class ReadPng:
    """Frames of a pair from PNG files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, index: int) -> Frames:
        """Read pair `index`."""
        blur, sharp = (cv2.imread(str(self.folder / f"{index:04d}_{name}.png")) for name in ("blur", "sharp"))
        mask = cv2.imread(str(self.folder / f"{index:04d}_mask.png"), cv2.IMREAD_GRAYSCALE)
        return blur[..., ::-1], sharp[..., ::-1], mask


class ReadNpy:
    """Frames of a pair from .npy files, mapped: the system reads only the pages that are touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, index: int) -> Frames:
        """Map pair `index`."""
        blur, sharp, mask = (
            np.load(self.folder / f"{index:04d}_{name}.npy", mmap_mode="r") for name in ("blur", "sharp", "mask")
        )
        return blur, sharp, mask


def _start_worker(_: int) -> None:
    reuse_freed_memory()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def rate(patches: TorchDataset[Any], workers: int, seconds: float, epoch: int = 0) -> float:
    """Patches a second that `workers` loader processes deliver, without the time they take to start."""
    batches = EndlessBatches(len(patches), BATCH, seed=epoch)  # type: ignore[arg-type]
    loader = DataLoader(
        patches, batch_sampler=batches, num_workers=workers, prefetch_factor=2, worker_init_fn=_start_worker
    )
    stream = iter(loader)
    for _ in range(2 * workers):
        next(stream)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        next(stream)
        count += BATCH
    return count / elapsed


def forget(files: list[Path]) -> None:
    """Ask the system to drop files from its cache."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_files(dataset: Dataset, folder: Path) -> dict[str, int]:
    """Write each pair as PNG and as .npy; bytes of either, and of Pillow's PNG."""
    sizes = {"png": 0, "png_pillow": 0, "npy": 0}
    for index, sample in enumerate(dataset):
        for name in ("blur", "sharp", "mask"):
            image = getattr(sample, name)
            path = folder / f"{index:04d}_{name}.png"
            cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
            sizes["png"] += path.stat().st_size
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "png")
            sizes["png_pillow"] += len(stream.getvalue())
            np.save(path.with_suffix(".npy"), image)
            sizes["npy"] += path.with_suffix(".npy").stat().st_size
    return sizes


def stored_bytes(dataset: Dataset) -> int:
    """Bytes that blur, sharp and mask take in the shards."""
    return sum(
        int(shard.file[name].id.get_storage_size())
        for shard in dataset.shards
        for name in ("blur", "sharp", "mask")
    )


def passes(dataset: Dataset, recipe: Recipe, folder: Path, seconds: float) -> Iterator[tuple[str, int, str, float]]:
    """Yield (source, workers, cache, patches a second)."""
    shards = [shard.path for shard in dataset.shards]
    sources: dict[str, tuple[Callable[[], TorchDataset[Any]], list[Path]]] = {
        "shards": (lambda: Patches(dataset, recipe), shards),
        "png": (lambda: WholeFiles(len(dataset), ReadPng(folder), recipe), sorted(folder.glob("*.png"))),
        "npy": (lambda: WholeFiles(len(dataset), ReadNpy(folder), recipe), sorted(folder.glob("*.npy"))),
    }
    for name, (make, files) in sources.items():
        for workers in (1, 2):
            forget(files)
            yield name, workers, "cold", rate(make(), workers, seconds / 2)
            patches = make()
            if isinstance(patches, Patches):
                yield name, workers, "first", rate(patches, workers, seconds / 2)
                for index in range(len(patches)):
                    for epoch in range(6):  # the loader's processes inherit what has been counted here
                        patches[(epoch, index)]
            yield name, workers, "warm", rate(patches, workers, seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Training patches a second")
    parser.add_argument("--shards", type=Path, help="dataset folder; simulated if not given")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="a small session")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    reuse_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = arguments.shards
        if shards is None:
            size, pairs = ("538x359", "6") if arguments.quick else ("2152x1436", "20")
            relo = [sys.executable, "-m", "relo"]
            simulate = [*relo, "simulate", str(folder / "s"), "--scenes", "1", "--pairs", pairs, "--size", size]
            subprocess.run(simulate, check=True, stdout=subprocess.DEVNULL)
            shards = folder / "s-shards"
            subprocess.run(
                [*relo, "process", str(folder / "s"), str(shards)], check=True, stdout=subprocess.DEVNULL
            )
        dataset = open_dataset(shards)
        recipe = load_recipe("lbag", ["crop=256"])
        files = folder / "files"
        files.mkdir()
        sizes = write_files(dataset, files) | {"shards": stored_bytes(dataset)}
        rates = list(passes(dataset, recipe, files, arguments.seconds))
    warm = {(name, workers): value for name, workers, cache, value in rates if cache == "warm"}
    summary = {
        "pairs": len(dataset),
        "bytes": sizes,
        "shards_to_png": sizes["shards"] / sizes["png"],
        "shards_to_png_pillow": sizes["shards"] / sizes["png_pillow"],
        "patches_per_second": [list(row) for row in rates],
        "one_worker": warm["shards", 1],
        "speed_up_over_png": warm["shards", 1] / warm["png", 1],
    }
    if arguments.json:
        print(json.dumps(summary))
        return
    height, width = dataset.shards[0].size
    print(f"{len(dataset)} pairs of {width}x{height}, patches a second")
    for name, workers, cache, value in rates:
        print(f"  {name:7} {workers} worker{'s' if workers > 1 else ' '} {cache:6} {value:8.1f}")
    print(f"shards over PNG, one worker: {summary['speed_up_over_png']:.1f}x")
    print(
        f"disk: shards {sizes['shards'] / 1e6:.1f} MB, {summary['shards_to_png']:.2f}x PNG (OpenCV), "
        f"{summary['shards_to_png_pillow']:.2f}x PNG (Pillow), .npy {sizes['npy'] / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
