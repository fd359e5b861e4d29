"""Score a checkpoint on a dataset by the published metrics, input beside output."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relo.atomic import write_text
from relo.errors import TrainingError
from relo.shards import Dataset, open_dataset
from relo.training import metrics
from relo.training.checkpoint import load_checkpoint
from relo.training.data import WholeImages

METRICS = ("psnr", "ssim", "psnr_w", "ssim_w")
COLUMNS = tuple(f"{metric}_{side}" for metric in METRICS for side in ("input", "output"))
CSV_NAME, JSON_NAME = "evaluation.csv", "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the blurred input and of the restored output under the `reloblur` protocol.

    Attributes
    ----------
    checkpoint : Path
    model : str
    dataset : str
        Fingerprint of the dataset.
    split : str
        Split that was scored, or "all".
    rows : list of dict
        One per image: scene, id and `psnr_input`, `psnr_output`, … NaN where the mask is empty.
    scenes : dict
        Scene -> means over its images.
    overall : dict
        Means over all images.
    excluded : dict of str to int
        Metric -> number of images left out of its mean because nothing in them is masked.
    notes : tuple of str
        Deviations from the protocol that the data called for.
    """

    checkpoint: Path
    model: str
    dataset: str
    split: str
    rows: list[dict[str, Any]]
    scenes: dict[str, dict[str, float]]
    overall: dict[str, float]
    excluded: dict[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is undefined or infinite becomes None."""
        result = {
            "checkpoint": str(self.checkpoint),
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "protocol": "reloblur",
            "images": len(self.rows),
            "overall": self.overall,
            "excluded": self.excluded,
            "notes": list(self.notes),
            "scenes": self.scenes,
            "rows": self.rows,
        }
        return _finite(result)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write evaluation.csv (one line per image) and evaluation.json (everything); return both paths."""
        table = io.StringIO()
        writer = csv.DictWriter(table, ["scene", "id", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(folder / CSV_NAME, table.getvalue())
        write_text(folder / JSON_NAME, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        return folder / CSV_NAME, folder / JSON_NAME


def evaluate(
    checkpoint: str | os.PathLike[str],
    src: str | Path,
    *,
    split: str = "test",
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Score a trained model on every image of a split.

    The protocol is that of the ReLoBlur code: whole images, 8-bit rounding, RGB, mean over images. Where
    a frame has invalid borders, blurred and sharp image and mask are first cropped to a large valid
    rectangle, and the result says so. Images with an empty mask are left out of PSNR_w and SSIM_w.

    Parameters
    ----------
    checkpoint : path
        Run folder or .safetensors file.
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
        The checkpoint cannot be read, or a frame has no valid part large enough for SSIM.
    ShardError
        The dataset cannot be read or has no split of that name.
    """
    loaded = load_checkpoint(checkpoint)
    dataset, scored, notes = _choose(src, split)
    if len(dataset) == 0:
        raise TrainingError("holds no images", file=src)
    images = WholeImages(dataset, len(dataset))
    small = next((path for path, box in images.areas.items() if min(box.height, box.width) < 11), None)
    if small:
        raise TrainingError("has no valid area of at least 11 x 11 px to evaluate on", file=small)
    cropped = sum(images.areas[sample.shard.path][2:] != sample.size for sample in dataset)
    if cropped:
        notes.append(f"{cropped} of {len(dataset)} images were cropped to the area that both cameras see")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = loaded.model.to(target)
    rows = []
    for index in range(len(images)):
        sample, item = dataset[index], images[index]
        blur, sharp, mask = (item[key][None].to(target) for key in ("blur", "sharp", "mask"))
        with torch.inference_mode():
            restored = model(blur).image
        row: dict[str, Any] = {"scene": sample.scene, "id": sample.id}
        for side, image in (("input", blur), ("output", restored)):
            row[f"psnr_{side}"] = metrics.psnr(image, sharp).item()
            row[f"ssim_{side}"] = metrics.ssim(image, sharp).item()
            row[f"psnr_w_{side}"] = metrics.weighted_psnr(image, sharp, mask).item()
            row[f"ssim_w_{side}"] = metrics.weighted_ssim(image, sharp, mask).item()
        rows.append(row)
        if progress:
            progress(index + 1, len(images), item["name"])
    excluded = {name: metrics.mean_and_excluded(row[f"{name}_output"] for row in rows)[1] for name in METRICS}
    scenes = {scene: _means([row for row in rows if row["scene"] == scene]) for scene in dataset.scenes}
    return Evaluation(
        loaded.path,
        loaded.name,
        dataset.fingerprint,
        scored,
        rows,
        scenes,
        _means(rows),
        excluded,
        tuple(notes),
    )


def _choose(src: str | Path, split: str) -> tuple[Dataset, str, list[str]]:
    dataset = open_dataset(src)
    if split == "test" and "test" not in dataset.splits:
        found = ", ".join(dataset.splits)
        note = f"there is no split 'test': all {len(dataset)} images were scored (splits: {found})"
        return dataset, "all", [note]
    return open_dataset(src, split=split), split, []


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: metrics.mean_and_excluded(row[name] for row in rows)[0] for name in COLUMNS}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
