"""What an evaluation found, and the files it is written to."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relo.atomic import write_text, writing_to
from relo.training.evaluation_pictures import Picture, write_pictures

CSV_NAME, JSON_NAME, PICTURES = "evaluation.csv", "evaluation.json", "worst"

Row = dict[str, Any]
# Columns that say what was scored; all others are metrics.
PLACE = ("scene", "id", "crop", "y", "x", "height", "width", "blurred")


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
        mask (above 0.5). NaN where a metric is undefined. Under a protocol of crops one per crop, and "image" here
        and below is a crop: after id its number within the image, y, x, height and width within the frame [px], and
        the share of pixels that are blurred. Under one of metrics without reference also niqe (lower is better),
        clipiqa_plus and musiq_paq2piq (higher is better), None where there is no pyiqa.
    scenes : dict
        Scene -> means over its images.
    overall : dict
        Means over all images. An image for which a metric of input or output is NaN is left out of both means, so
        that the two can be compared. One infinite PSNR makes the mean infinite.
    excluded : dict of str to int
        Metric -> number of images left out of its means: psnr_w and ssim_w where nothing is masked, psnr_static
        where everything is, psnr_a where the images cannot be aligned, mask_iou where neither mask has a pixel,
        metrics without reference below 192 px, and niqe of flat images. Metrics that could not be computed at all
        are missing here and in the means.
    infinite : dict of str to int
        Column -> number of images whose PSNR is infinite, because nothing differs; columns without are left out.
    notes : tuple of str
        Deviations from the protocol that the data called for, how crops were chosen, and what is missing.
    pictures : tuple of Picture
        Of the worst images by PSNR_w of the output, or its PSNR where there is no PSNR_w.
    crops : dict, optional
        Under a protocol of crops: `side` [px], `blurred_share` above which they were kept, `kept` of `all`.
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
    crops: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is undefined or infinite becomes None (`infinite` tells which is which).

        `images` and `images_by_scene` count images, not crops.
        """
        images = [row for row in self.rows if row.get("crop", 0) == 0]
        result = {
            "checkpoint": str(self.checkpoint),
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "protocol": self.protocol,
            "mask_versions": list(self.mask_versions),
            "images": len(images),
            "crops": self.crops,
            "overall": self.overall,
            "excluded": self.excluded,
            "infinite": self.infinite,
            "notes": list(self.notes),
            "worst": [f"{picture.scene}/{picture.id}" for picture in self.pictures],
            "images_by_scene": dict(Counter(row["scene"] for row in images)),
            "scenes": self.scenes,
            "rows": self.rows,
        }
        return _finite(result)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write evaluation.csv (one line per row), evaluation.json (everything) and worst/NN_scene_id.png.

        Numbers in the CSV are written so that reading them gives the same float64; "nan" and "inf" occur, and what
        could not be computed is empty. Pictures of an earlier evaluation in the same folder are removed.

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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
