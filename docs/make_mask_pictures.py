"""Draw docs/masks.jpg: what the methods find in the three kinds of scenes.

python docs/make_mask_pictures.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))

from masks import KINDS, load, process  # noqa: E402

from relo.masks.config import MaskConfig  # noqa: E402
from relo.masks.scene import scene_masks  # noqa: E402

SEED, PAIRS, SHOWN = 31, 8, 2
METHODS = ("fused", "lbfmg", "pair")


def painted(blur: np.ndarray, mask: np.ndarray, truth: np.ndarray, title: str) -> np.ndarray:
    """The blurred frame, dark, with what was found (green), missed (blue) and falsely found (red)."""
    picture = (blur * 0.55).astype(np.uint8)
    for area, colour in (
        (mask & truth, (0, 200, 90)),
        (mask & ~truth, (240, 60, 40)),
        (~mask & truth, (60, 120, 255)),
    ):
        picture[area] = (0.45 * picture[area] + 0.55 * np.array(colour)).astype(np.uint8)
    return titled(picture, title)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture with a line of text on it."""
    picture = picture.copy()
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, title, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width, cv2.LINE_AA)
    return picture


def drawn(kind: str, options: dict[str, Any]) -> np.ndarray:
    """One row: a blurred frame of a scene of this kind, and what each method finds in it."""
    with tempfile.TemporaryDirectory() as folder:
        pairs, valid = load(process(Path(folder), seed=SEED, pairs=PAIRS, **options))
    blur, _, truth = pairs[SHOWN]
    row = [titled(blur, kind)]
    for method in METHODS:
        config = MaskConfig(method=method)
        found = dict(scene_masks(range(PAIRS), lambda index: pairs[index][:2], config, valid=valid))
        row.append(painted(blur, found[SHOWN].mask > 0, truth & (valid > 0), method))
    return np.concatenate(row, axis=1)


def main() -> None:
    """Simulate a scene of each kind and draw one pair of it."""
    sheet = np.concatenate([drawn(kind, options) for kind, options in KINDS.items()], axis=0)
    sheet = cv2.resize(sheet, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(DOCS / "masks.jpg"), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
