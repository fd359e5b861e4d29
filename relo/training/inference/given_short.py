"""Short exposures that users give: which file belongs to a photograph, and its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from relo.errors import ConfigError, TrainingError
from relo.training.inference.photographs import PHOTOGRAPHS, read_photograph


def require_short(place: Path) -> None:
    """Refuse a file or folder that is not there.

    Raises
    ------
    ConfigError
    """
    if not place.exists():
        raise ConfigError(
            "does not exist", file=place, advice="--short takes a short exposure, or a folder of them."
        )


def read_short(place: Path, photograph: Path, size: tuple[int, int]) -> NDArray[Any]:
    """Pixels (H, W, 3) of the short exposure of a photograph of `size` (H, W).

    Raises
    ------
    TrainingError
        There is none, it cannot be read, or it has another size.
    """
    file = find_short(place, photograph)
    image = read_photograph(file).image
    if image.shape[:2] != size:
        (height, width), (rows, columns) = size, image.shape[:2]
        raise TrainingError(
            f"the short exposure is {columns}x{rows}, the photograph {width}x{height}",
            file=file,
            advice="Both must come from the same camera, uncropped and of one size.",
        )
    return image


def find_short(place: Path, photograph: Path) -> Path:
    """File of the short exposure of a photograph.

    Parameters
    ----------
    place : Path
        A file, the short exposure of every photograph; or a folder with one of the same name, or of the same name
        with another ending.
    photograph : Path
        Never taken as its own short exposure.

    Raises
    ------
    TrainingError
        A folder holds none, or several with other endings.
    """
    if not place.is_dir():
        return place
    same = place / photograph.name
    if same.is_file() and same.resolve() != photograph.resolve():
        return same
    found = sorted(
        file
        for file in place.iterdir()
        if file.stem == photograph.stem
        and file.suffix.lower() in PHOTOGRAPHS
        and file.resolve() != photograph.resolve()
    )
    if len(found) == 1:
        return found[0]
    if found:
        told = f"holds several short exposures of {photograph.name}: {', '.join(file.name for file in found)}"
        raise TrainingError(told, file=place, advice="Leave one of them there.")
    raise TrainingError(
        f"holds no short exposure of {photograph.name}",
        file=place,
        advice=f"Its file is called {photograph.stem}, with any ending of a photograph.",
    )
