"""Score a checkpoint on a dataset by the published metrics, input beside output."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relo.atomic import write_text, writing_to
from relo.errors import ConfigError, TrainingError
from relo.parallel import one_opencv_thread
from relo.progress import Progress
from relo.resources import usable_cores
from relo.shards import Dataset, open_dataset
from relo.training import metrics
from relo.training.checkpoint import load_checkpoint
from relo.training.data import WholeImages
from relo.training.evaluation_pictures import Picture, Worst, draw_comparison, write_pictures
from relo.training.inference.memory_estimate import choose_tile, device_of, memory_at_hand
from relo.training.inference.whole_image import on_device, restore
from relo.training.protocols import PROTOCOLS
from relo.training.structure import WINDOW

SIDES = ("input", "output")
CSV_NAME, JSON_NAME, PICTURES = "evaluation.csv", "evaluation.json", "worst"

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the blurred input and of the restored output under one protocol.

    Attributes
    ----------
    checkpoint : Path
    model : str
    dataset : str
        Fingerprint of the dataset.
    split : str
        Split that was scored, or "all".
    protocol : str
        See `relo.training.protocols`.
    mask_versions : tuple of str
        Of the shards that were scored. Weighted metrics of different masks cannot be compared.
    rows : list of dict
        One per image: scene, id, `psnr_input`, `psnr_output`, the same of ssim, psnr_w, ssim_w, psnr_static (the
        pixels outside the mask) and, if asked for, psnr_a, all but ssim in dB; `mask_iou` if the network predicts a
        mask (above 0.5). NaN where a metric is undefined.
    scenes : dict
        Scene -> means over its images.
    overall : dict
        Means over all images. An image for which a metric of input or output is NaN is left out of both means, so
        that the two can be compared. One infinite PSNR makes the mean infinite.
    excluded : dict of str to int
        Metric -> number of images left out of its means: psnr_w and ssim_w where nothing is masked, psnr_static
        where everything is, psnr_a where the images cannot be aligned, mask_iou where neither mask has a pixel.
    infinite : dict of str to int
        Column -> number of images whose PSNR is infinite, because nothing differs; columns without are left out.
    notes : tuple of str
        Deviations from the protocol that the data called for.
    pictures : tuple of Picture
        Of the worst images by PSNR_w of the output, or its PSNR where there is no PSNR_w.
    """

    checkpoint: Path
    model: str
    dataset: str
    split: str
    protocol: str
    mask_versions: tuple[str, ...]
    rows: list[Row]
    scenes: dict[str, dict[str, float]]
    overall: dict[str, float]
    excluded: dict[str, int]
    infinite: dict[str, int]
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...] = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is undefined or infinite becomes None (`infinite` tells which is which)."""
        result = {
            "checkpoint": str(self.checkpoint),
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "protocol": self.protocol,
            "mask_versions": list(self.mask_versions),
            "images": len(self.rows),
            "overall": self.overall,
            "excluded": self.excluded,
            "infinite": self.infinite,
            "notes": list(self.notes),
            "worst": [f"{picture.scene}/{picture.id}" for picture in self.pictures],
            "images_by_scene": dict(Counter(row["scene"] for row in self.rows)),
            "scenes": self.scenes,
            "rows": self.rows,
        }
        return _finite(result)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write evaluation.csv (one line per image), evaluation.json (everything) and worst/NN_scene_id.png.

        Numbers in the CSV are written so that reading them gives the same float64; "nan" and "inf" occur. Pictures
        of an earlier evaluation in the same folder are removed.

        Returns
        -------
        (Path, Path)
            CSV and JSON.

        Raises
        ------
        ReloError
            The folder cannot be written to.
        """
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with writing_to(folder, "Choose another folder with -o."):
            write_text(folder / CSV_NAME, table.getvalue())
            write_text(folder / JSON_NAME, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
            write_pictures(folder / PICTURES, self.pictures)
        return folder / CSV_NAME, folder / JSON_NAME


def evaluate(
    checkpoint: str | os.PathLike[str],
    src: str | Path,
    *,
    split: str = "test",
    protocol: str = "reloblur",
    aligned: bool = False,
    model: str | None = None,
    worst: int = 10,
    device: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a trained model on every image of a split.

    Whole images are restored one by one, and only numbers and the worst pictures are kept. Where a frame has
    invalid borders, blurred and sharp image and mask are first cropped to a large valid rectangle; where memory
    does not suffice for a whole image, it is restored in windows; the result says so. But for that, the same call
    on the same machine gives the same numbers.

    Parameters
    ----------
    checkpoint : path
        What `load_checkpoint` takes: a run folder, a .safetensors file or published weights.
    src : path
        Dataset folder or shard.
    split : str
        A dataset without a split "test" is scored as a whole, and the result says so.
    protocol : str
        One of `relo.training.protocols.PROTOCOLS`.
    aligned : bool
        Also PSNR_a, which costs seconds of one core for each image; images are aligned side by side.
    model : str, optional
        See `load_checkpoint`.
    worst : int
        How many of the worst images to keep as pictures.
    device : str, optional
        "cpu", "cuda", …; the GPU if there is one.
    progress : callable, optional
        Called with (images done, images in all, name of the image).

    Raises
    ------
    TrainingError
        The checkpoint cannot be read, a frame has no valid part large enough for SSIM, or the network gives values
        that are not finite.
    ShardError
        The dataset cannot be read or has no split of that name.
    ConfigError
        There is no such protocol or device, or `worst` is negative.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol '{protocol}'", advice=f"Known: {', '.join(PROTOCOLS)}.")
    if worst < 0:
        raise ConfigError(f"the number of worst images must not be negative, got {worst}")
    loaded = load_checkpoint(checkpoint, model=model)
    dataset, scored, notes = _choose(src, split)
    images = _whole_images(dataset, src, notes)
    versions = tuple(sorted({str(shard.attrs.get("mask_version", "unknown")) for shard in dataset.shards}))
    if len(versions) > 1:
        notes.append(f"the masks are of different versions ({', '.join(versions)}): look at the scenes one by one")
    network = on_device(loaded.model, device)
    rows: list[Row] = []
    pictures = Worst(worst)
    for row in _rows(loaded.path, network, dataset, images, protocol, aligned, pictures, notes):
        rows.append(row)
        if progress:
            progress(len(rows), len(images), f"{row['scene']}/{row['id']}")
    means, excluded = _means(rows)
    infinite = {name: sum(math.isinf(row[name]) for row in rows) for name in means}
    return Evaluation(
        checkpoint=loaded.path,
        model=loaded.name,
        dataset=dataset.fingerprint,
        split=scored,
        protocol=protocol,
        mask_versions=versions,
        rows=rows,
        scenes={scene: _means([row for row in rows if row["scene"] == scene])[0] for scene in dataset.scenes},
        overall=means,
        excluded=excluded,
        infinite={name: count for name, count in infinite.items() if count},
        notes=tuple(notes),
        pictures=tuple(pictures.pictures),
    )


def _choose(src: str | Path, split: str) -> tuple[Dataset, str, list[str]]:
    dataset = open_dataset(src)
    if split == "test" and "test" not in dataset.splits:
        found = ", ".join(dataset.splits)
        note = f"there is no split 'test': all {len(dataset)} images were scored (splits: {found})"
        return dataset, "all", [note]
    return open_dataset(src, split=split), split, []


def _whole_images(dataset: Dataset, src: str | Path, notes: list[str]) -> WholeImages:
    """Valid parts of all frames; what is cropped is noted."""
    if len(dataset) == 0:
        raise TrainingError("holds no images", file=src)
    images = WholeImages(dataset, len(dataset))
    small = next((path for path, box in images.areas.items() if min(box.height, box.width) < WINDOW), None)
    if small:
        raise TrainingError(f"has no valid area of at least {WINDOW} x {WINDOW} px to evaluate on", file=small)
    cropped = sum(images.areas[sample.shard.path][2:] != sample.size for sample in dataset)
    if cropped:
        notes.append(f"{cropped} of {len(dataset)} images were cropped to the area that both cameras see")
    return images


def _rows(
    checkpoint: Path,
    network: nn.Module,
    dataset: Dataset,
    images: WholeImages,
    protocol: str,
    aligned: bool,
    pictures: Worst,
    notes: list[str],
) -> Iterator[Row]:
    """Rows in the order of the images, a few at most in the making: alignments run beside the network."""
    device, cores = device_of(network), usable_cores()
    running: deque[tuple[Row, Future[Tensor]]] = deque()
    in_windows = 0

    @cache
    def tile_for(height: int, width: int) -> int:
        """Once for each size: an estimate takes some 50 ms."""
        return choose_tile(network, (1, 3, height, width), memory_at_hand(device))

    with one_opencv_thread(), ThreadPoolExecutor(cores) as pool:
        for index in range(len(images)):
            sample, item = dataset[index], images[index]
            blur, sharp, mask = (item[key][None].to(device) for key in ("blur", "sharp", "mask"))
            tile = tile_for(*sharp.shape[2:])
            restored = restore(network, blur, tile=tile)
            in_windows += tile > 0
            output = restored.image.float()
            if not torch.isfinite(output).all():
                raise TrainingError(f"gives values that are not finite for {item['name']}", file=checkpoint)
            row: Row = {"scene": sample.scene, "id": sample.id} | _measure(blur, output, sharp, mask, protocol)
            if restored.masks:
                row["mask_iou"] = metrics.mask_iou(restored.masks[-1], mask).item()
            score = row["psnr_output"] if math.isnan(row["psnr_w_output"]) else row["psnr_w_output"]
            if pictures.wants(score):
                pixels = draw_comparison(blur[0], output[0], sharp[0], mask[0])
                pictures.add(Picture(score, sample.scene, sample.id, pixels))
            if not aligned:
                yield row
                continue
            both = torch.cat([blur, output]).cpu()
            running.append((row, pool.submit(metrics.aligned_psnr, both, sharp.cpu().expand_as(both), protocol)))
            if len(running) > cores:
                yield _with_alignment(*running.popleft())
        while running:
            yield _with_alignment(*running.popleft())
    if in_windows:
        notes.append(f"{in_windows} of {len(images)} images were restored in windows: memory did not suffice")


def _with_alignment(row: Row, alignment: Future[Tensor]) -> Row:
    return row | {f"psnr_a_{side}": value for side, value in zip(SIDES, alignment.result().tolist(), strict=True)}


def _measure(blur: Tensor, output: Tensor, sharp: Tensor, mask: Tensor, protocol: str) -> dict[str, float]:
    row: dict[str, float] = {}
    both = dict(zip(SIDES, (blur, output), strict=True))
    for name, metric in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        row |= {f"{name}_{side}": metric(image, sharp, protocol).item() for side, image in both.items()}
    for name, weighted in (
        ("psnr_w", metrics.weighted_psnr),
        ("ssim_w", metrics.weighted_ssim),
        ("psnr_static", metrics.static_psnr),
    ):
        row |= {f"{name}_{side}": weighted(image, sharp, mask, protocol).item() for side, image in both.items()}
    return row


def _means(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, int]]:
    """Mean of each column, and how many images were left out of those of each metric."""
    means: dict[str, float] = {}
    excluded: dict[str, int] = {}
    for metric in dict.fromkeys(name.removesuffix("_input").removesuffix("_output") for name in rows[0]):
        if metric in ("scene", "id"):
            continue
        columns = [metric] if metric in rows[0] else [f"{metric}_{side}" for side in SIDES]
        kept = [row for row in rows if not any(math.isnan(row[name]) for name in columns)]
        means |= {name: metrics.mean_and_excluded(row[name] for row in kept)[0] for name in columns}
        excluded[metric] = len(rows) - len(kept)
    return means, excluded


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
