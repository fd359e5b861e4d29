"""The shard format: names, dtypes and attributes of one HDF5 file. See docs/format.md."""

from __future__ import annotations

from typing import Any

import numpy as np

FORMAT = "relo-shard"
VERSION = 1
DATASET_FORMAT = "relo-dataset"
DATASET_VERSION = 1

DATASET_FILE = "dataset.json"
QUARANTINE_FILE = "quarantine.jsonl"
REPORT_FILE = "report.html"

IMAGES = ("blur", "sharp", "short")
# Attribute of a shard, JSON: what of its scene was left out, as in quarantine.jsonl. So a shard tells by itself
# whether its scene is finished, also where the run was stopped before it wrote any list.
QUARANTINED = "quarantined"

# One row a pair. NaN where a number could not be had.
PAIR_DTYPE = np.dtype(
    [
        ("id", "S64"),
        ("t_long", "<f8"),  # exposure of camera B [s]
        ("t_short", "<f8"),  # exposure of camera S [s]
        ("blur_fraction", "<f8"),  # share of the valid pixels that the mask covers
        ("mask_agreement", "<f8"),  # intersection over union of what the pair and the background tell of motion
        ("mask_fragments", "<f8"),  # connected parts of the mask
        ("mask_border", "<f8"),  # share of the mask whose part touches the border of the valid area
        ("gain_r", "<f8"),  # factors that were applied to camera B
        ("gain_g", "<f8"),
        ("gain_b", "<f8"),
        ("gain_deviation", "<f8"),  # largest relative deviation of this pair's own gain from the scene's
        ("residual_before", "<f8"),  # misalignment of the static area [px]
        ("residual_after", "<f8"),
        ("bump", "<f8"),  # how far camera B has moved as a whole since the static pair [px]
        ("psnr_before", "<f8"),  # of the static area, demosaiced and developed only [dB]
        ("psnr", "<f8"),  # of the static area, after all corrections [dB]
        ("clipped_blur", "<f8"),  # share of saturated RAW sites
        ("clipped_sharp", "<f8"),
        ("noise_blur", "<f8"),  # standard deviation of the developed image in flat areas, [0, 1]
        ("noise_sharp", "<f8"),
        ("short_scale", "<f8"),  # HSV value factor of /short
        ("short_noise", "<f8"),  # noise sigma of /short, [0, 1]
        ("short_ratio", "<f8"),  # the physical model of /short: exposure ratio
        ("short_shot", "<f8"),  # variance per unit of signal, linear light of full scale 1
        ("short_read", "<f8"),  # standard deviation of the read noise, likewise
        ("short_gain", "<f8"),  # digital gain after the noise
        ("short_red", "<f8"),  # factors of the colour shift
        ("short_blue", "<f8"),
        ("sha256", "S64"),  # of the pair's stored tiles, see `relo.shards.tiles.stored_sha256`
        ("flags", "S128"),  # comma-separated, empty if nothing is doubtful
    ]
)


def empty_row(pair_id: str) -> dict[str, Any]:
    """A row of /pairs with every number unknown."""
    row: dict[str, Any] = {name: float("nan") for name in PAIR_DTYPE.names or ()}
    return row | {"id": pair_id, "sha256": "", "flags": ""}


def image_dtype(bits: int) -> np.dtype[Any]:
    """Dtype of /blur, /sharp and /short: uint8 for 8 bits, uint16 for 16."""
    return np.dtype(np.uint8 if bits == 8 else np.uint16)
