"""Which photographs are meant, and what the files of their results are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from relo.errors import ReloError
from relo.images import WRITABLE, ImageError
from relo.training.inference.given_masks import MASK_ENDING
from relo.training.inference.photographs import PHOTOGRAPHS, RAW

Format = Literal["png", "tif", "jpg"]


class Names:
    """Names of result files, each for one photograph alone.

    Parameters
    ----------
    inputs : iterable of Path
        Files that are never overwritten.
    """

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._taken = {file.resolve(): file for file in inputs}

    def require_free(self, results: Iterable[Path], source: Path) -> None:
        """Refuse names that belong to an input or to the result of another one.

        Raises
        ------
        ImageError
        """
        for result in results:
            owner = self._taken.get(result.resolve())
            if owner is not None:
                raise ImageError(
                    f"would overwrite {result}, which belongs to {owner}",
                    file=source,
                    advice="Give another folder with -o, or not both at once.",
                )

    def take(self, results: Iterable[Path], source: Path) -> None:
        """Reserve names for what is now there."""
        self._taken.update((result.resolve(), source) for result in results)


def result_files(source: Path, out: Path, image_format: Format | None, masks: bool) -> list[Path]:
    """Files for a photograph's restoration and, if asked for, its mask."""
    target = out / (source.stem + _ending(source, image_format))
    return [target, out / f"{source.stem}{MASK_ENDING}"] if masks else [target]


def find_photographs(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, and what in folders has the ending of a photograph; each once.

    Raises
    ------
    ReloError
        A folder cannot be listed.
    """
    sources: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                sources += sorted(
                    entry for entry in path.iterdir() if entry.suffix.lower() in PHOTOGRAPHS and entry.is_file()
                )
            except OSError as error:
                raise ReloError(f"cannot be listed ({error.strerror})", file=path) from error
        else:
            sources.append(path)
    return list(dict.fromkeys(sources))


def _ending(source: Path, image_format: Format | None) -> str:
    if image_format:
        return f".{image_format}"
    suffix = source.suffix.lower()
    if suffix in RAW:
        return ".tif"
    return suffix if suffix in WRITABLE else ".png"
