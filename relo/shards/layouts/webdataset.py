"""WebDataset: tar files in which the images of a pair follow each other, `<key>.blur.png`, `.sharp.png` and so on.

Tar files are written with equal headers (no times, no owners): equal pairs give equal bytes.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from relo.atomic import unfinished

Member = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Member]) -> None:
    """Write (name, content) of each member to the tar file `path`, atomically and one at a time."""
    with unfinished(path) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), 0o644
            tar.addfile(header, io.BytesIO(content))


def tar_path(split: str, number: int) -> Path:
    """Name of the tar file `number` of a split: `train-000003.tar`."""
    return Path(f"{split}-{number:06d}.tar")


def png(image: np.ndarray) -> bytes:
    """PNG of an (H, W, 3) RGB image of 8 or 16 bits, or of an (H, W) mask."""
    _, encoded = cv2.imencode(".png", image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1]))
    return encoded.tobytes()


def json_member(content: dict[str, Any]) -> bytes:
    """JSON of scene, id, split and what is known of the pair's numbers; JSON has no NaN, they are left out."""
    known = {key: value for key, value in content.items() if not (isinstance(value, float) and math.isnan(value))}
    return (json.dumps(known, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
