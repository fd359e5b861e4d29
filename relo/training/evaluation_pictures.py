"""Pictures of the images that were restored worst: blurred, restored and sharp side by side."""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relo.images import outline, write_image
from relo.training.run.sample_images import densest_window, side_by_side

SIDE = 512  # largest side of what is shown of an image [px], at full resolution
OUTLINE_COLOUR = (1.0, 0.8, 0.0)
_OWN_NAME = re.compile(r"\d{2,}_.+\.png")


@dataclass(frozen=True)
class Picture:
    """What is shown of one image.

    Attributes
    ----------
    score : float
        Lower is worse.
    scene, id : str
    pixels : (h, 3 w, 3) uint8 array
        Blurred, restored, sharp.
    """

    score: float
    scene: str
    id: str
    pixels: NDArray[np.uint8]


class Worst:
    """Keeps the pictures of the images with the lowest scores, the lowest first; of equals, those that came first.

    Parameters
    ----------
    count : int
        How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pictures: list[Picture] = []

    def wants(self, score: float) -> bool:
        """Whether an image of this score is among the worst so far."""
        return len(self.pictures) < self.count or (self.count > 0 and score < self.pictures[-1].score)

    def add(self, picture: Picture) -> None:
        """Take a picture in, and drop the best one if there are too many."""
        insort(self.pictures, picture, key=lambda entry: entry.score)
        del self.pictures[self.count :]


def draw_comparison(blur: Tensor, restored: Tensor, sharp: Tensor, mask: Tensor) -> NDArray[np.uint8]:
    """Show where most is blurred, or the middle where nothing is.

    Parameters
    ----------
    blur, restored, sharp : (3, H, W) tensor in [0, 1]
    mask : (1, H, W) tensor
        Above 0 where blurred; its outline is drawn on the blurred image, the other two are left as they are.

    Returns
    -------
    (h, 3 w, 3) uint8 array
        RGB, h and w at most `SIDE`.
    """
    inside = (mask[0] > 0).cpu().numpy()
    window = densest_window(inside, SIDE)
    images = [image.float().permute(1, 2, 0).cpu().numpy() for image in (blur, restored, sharp)]
    images[0] = images[0].copy()
    images[0][outline(inside)] = OUTLINE_COLOUR
    return side_by_side(images, window)


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> list[Path]:
    """Write one PNG a picture, named by rank, scene and id; pictures of an earlier call that are not among them go.

    Parameters
    ----------
    folder : Path
    pictures : sequence of Picture
        The worst first.
    """
    paths = [
        folder / (f"{rank:02d}_" + re.sub(r"[^\w.-]", "_", f"{picture.scene}_{picture.id}") + ".png")
        for rank, picture in enumerate(pictures, start=1)
    ]
    for path, picture in zip(paths, pictures, strict=True):
        write_image(path, picture.pixels)
    if folder.is_dir():
        for path in sorted(set(folder.iterdir()) - set(paths)):
            if _OWN_NAME.fullmatch(path.name):
                path.unlink()
    return paths
