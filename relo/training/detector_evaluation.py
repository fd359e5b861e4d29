"""Score a blur detector on a dataset: patches told right, beside what saying the same of all of them would give."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relo.atomic import write_text, writing_to
from relo.errors import TrainingError
from relo.models.exprdiff.detector import BlurDetector
from relo.training.checkpoint import Checkpoint
from relo.training.data import WholeImages
from relo.training.detection import PatchCounts, count_patches, sum_of_counts
from relo.training.evaluation_result import CSV_NAME, JSON_NAME
from relo.training.inference.memory_estimate import device_of
from relo.training.inference.whole_image import on_device
from relo.training.sources import scored_split


@dataclass(frozen=True)
class DetectorEvaluation:
    """What `evaluate_detector` found.

    Attributes
    ----------
    checkpoint : Path
    model : str
    dataset : str
        Fingerprint of the dataset.
    split : str
        Split that was scored, or "all".
    blurred_from : float
        Share of blurred pixels above which a patch counts as blurred.
    images : tuple of (str, str, PatchCounts)
        Scene and id of each image, and its patches.
    notes : tuple of str
    """

    checkpoint: Path
    model: str
    dataset: str
    split: str
    blurred_from: float
    images: tuple[tuple[str, str, PatchCounts], ...]
    notes: tuple[str, ...]

    @property
    def overall(self) -> dict[str, float]:
        """Quality over all patches, see `relo.training.detection.PatchCounts.quality`."""
        return sum_of_counts([counts for _, _, counts in self.images]).quality

    @property
    def scenes(self) -> dict[str, dict[str, float]]:
        """The same of each scene."""
        names = dict.fromkeys(scene for scene, _, _ in self.images)
        return {
            name: sum_of_counts([counts for scene, _, counts in self.images if scene == name]).quality
            for name in names
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values; a share of nothing becomes None."""
        return {
            "checkpoint": str(self.checkpoint),
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "blurred_from": self.blurred_from,
            "images": len(self.images),
            "patches": sum(counts.patches for _, _, counts in self.images),
            "overall": _finite(self.overall),
            "scenes": {scene: _finite(quality) for scene, quality in self.scenes.items()},
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """What to print."""
        names = tuple(self.overall)
        width = max(7, *(len(scene) for scene in self.scenes))
        table = {**self.scenes, "overall": self.overall} if len(self.scenes) > 1 else {"overall": self.overall}
        return [
            f"{self.model} on split {self.split}: patches of which more than {self.blurred_from:.0%} is blurred",
            f"{'':{width}}" + "".join(f"{name:>11}" for name in names),
            *(
                f"{scene:{width}}" + "".join(f"{_number(quality[name]):>11}" for name in names)
                for scene, quality in table.items()
            ),
            "majority: the accuracy of saying the same of every patch",
            *(f"note: {note}" for note in self.notes),
        ]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write evaluation.csv, one line of counts per image, and evaluation.json.

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
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["scene", "id", *PatchCounts._fields])
        writer.writerows([scene, name, *counts] for scene, name, counts in self.images)
        with writing_to(folder, "Choose another folder with -o."):
            write_text(folder / CSV_NAME, table.getvalue())
            write_text(folder / JSON_NAME, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        return folder / CSV_NAME, folder / JSON_NAME


def evaluate_detector(
    checkpoint: Checkpoint,
    src: str | Path,
    *,
    split: str = "test",
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> DetectorEvaluation:
    """Count the patches that a trained blur detector tells right on a split.

    Frames are cropped to a large valid rectangle, from whose top-left corner the patches are counted.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a `BlurDetector`.
    src : path
        Dataset folder or shard.
    split : str
        A dataset without a split "test" is scored as a whole, and the result says so.
    device : str, optional
        "cpu", "cuda", …; the GPU if there is one.
    progress : callable, optional
        Called with (images done, images in all, name of the image).

    Raises
    ------
    TrainingError
        The checkpoint is of another network, or there are no images.
    ShardError
        The dataset cannot be read or has no split of that name.
    ConfigError
        There is no such device.
    """
    detector = checkpoint.model
    if not isinstance(detector, BlurDetector):
        raise TrainingError(f"holds a {checkpoint.name}, no blur detector", file=checkpoint.path)
    dataset, scored = scored_split(src, split)
    notes = [f"there is no split 'test': all {len(dataset)} images were scored"] if scored != split else []
    if len(dataset) == 0:
        raise TrainingError("holds no images", file=src)
    on_device(detector, device)
    images = WholeImages(dataset, len(dataset))
    counted = []
    for index in range(len(images)):
        sample, item = dataset[index], images[index]
        blur, mask = (item[name][None].to(device_of(detector)) for name in ("blur", "mask"))
        with torch.inference_mode():
            counts = count_patches(detector, detector(blur), mask)
        counted.append((sample.scene, sample.id, counts))
        if progress:
            progress(len(counted), len(images), item["name"])
    return DetectorEvaluation(
        checkpoint=checkpoint.path,
        model=checkpoint.name,
        dataset=dataset.fingerprint,
        split=scored,
        blurred_from=detector.blurred_from,
        images=tuple(counted),
        notes=tuple(notes),
    )


def require_restoration(checkpoint: Checkpoint) -> None:
    """Refuse a blur detector where a network is needed that restores images.

    Raises
    ------
    TrainingError
        The checkpoint is of a detector.
    """
    if isinstance(checkpoint.model, BlurDetector):
        raise TrainingError(
            "holds a blur detector, which finds blur and restores nothing",
            file=checkpoint.path,
            advice="Deblur with it by `relo deblur exprdiff-instant IMAGE --short SHORT --detector CHECKPOINT`.",
        )


def _finite(quality: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in quality.items()}


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
