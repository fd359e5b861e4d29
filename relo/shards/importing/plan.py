"""What an import is going to do: which pairs go to which shard, and which are left out before they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relo import atomic
from relo.capture.session import Problem
from relo.errors import ConfigError, ReloError
from relo.images import ImageError
from relo.shards import schema
from relo.shards.config import moved_splits
from relo.shards.folder import file_stems, storable
from relo.shards.importing.config import ONES, UNKNOWN, ImportConfig
from relo.shards.layouts import gopro, pairs, realblur, reloblur
from relo.shards.layouts.files import STAGE, Found, FrameKind, LayoutPair, frame_kind
from relo.shards.layouts.manifest import read_manifest, renamed

# Prefix and folder of the names under which source files are recorded.
Folders = tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Part:
    """One shard to be: pairs of one scene, one size and one depth.

    Attributes
    ----------
    path : Path
    scene, split : str
    size : (H, W)
    bits : int
        Of the files.
    short : bool
        Whether the pairs have short exposures.
    pairs : tuple of LayoutPair
    """

    path: Path
    scene: str
    split: str
    size: tuple[int, int]
    bits: int
    short: bool
    pairs: tuple[LayoutPair, ...]

    @property
    def frame_bytes(self) -> int:
        """Size of the part's images and masks without compression [bytes]."""
        pixels = self.size[0] * self.size[1]
        return len(self.pairs) * pixels * (3 * (3 if self.short else 2) * self.bits // 8 + 1)


@dataclass
class Plan:
    """Everything that is known before a frame is decoded.

    Attributes
    ----------
    config : ImportConfig
        With the masks' version filled in.
    parts : list of Part
    problems : list of Problem
    folders : tuple of (str, Path)
    masks : Path or None
    licence : str
        That an exported folder carries along.
    notes : list of str
    """

    config: ImportConfig
    parts: list[Part]
    problems: list[Problem]
    folders: Folders
    masks: Path | None
    licence: str = ""
    notes: list[str] = field(default_factory=list)


def make_plan(
    src: Path,
    out: Path,
    config: ImportConfig,
    *,
    masks: Path | None = None,
    blur: str | None = None,
    sharp: str | None = None,
) -> Plan:
    """Find the pairs of a layout and assign them to shards.

    Raises
    ------
    ReloError
        `src` is not laid out like that, a scene is in two splits, or an option does not fit.
    """
    found = _find(src, config, masks, blur, sharp)
    base = reloblur.base_folder(src) if config.layout == "reloblur" else src
    manifest = read_manifest(base) if config.layout in ("reloblur", "pairs") else {}
    found.pairs = [renamed(pair, manifest) for pair in found.pairs]
    notes: list[str] = []
    config = _with_version(config, found, str(manifest.get("mask_version", "")), notes)
    splits = moved_splits(_splits(found.pairs), config.split, config.seed)
    usable = _distinct(found)
    parts = list(_parts(usable, out, config, splits, found.problems))
    folders = [("", src), ("", base), *((f"{name}:", folder) for name, folder in _outside(masks, blur, sharp))]
    licence = str(manifest.get("licence", ""))
    return Plan(config, parts, found.problems, tuple(folders), found.masks, licence, notes)


def source_name(path: Path, folders: Folders) -> str:
    """Name of a source file that no machine's folders are part of."""
    for prefix, folder in folders:
        for base in (folder, folder.resolve()):
            if path.is_relative_to(base):
                return prefix + path.relative_to(base).as_posix()
    return path.name


def needed_space(plan: Plan) -> int:
    """Bytes that shards which are not there yet will take: as PNG files do, at most what the frames hold."""
    total = 0
    for part in plan.parts:
        if not part.path.is_file():
            files = sum(path.stat().st_size for pair in part.pairs for path in pair.files if path.is_file())
            packed = all(path.suffix.lower() == ".png" for pair in part.pairs for path in pair.files)
            total += min(part.frame_bytes, 5 * files // 4) if packed else part.frame_bytes
    return total


def _find(src: Path, config: ImportConfig, masks: Path | None, blur: str | None, sharp: str | None) -> Found:
    given = {"--masks": masks, "--blur": blur, "--sharp": sharp, "--gamma": config.gamma}
    given |= {"--variant": config.variant, "--scene": config.scene}
    allowed = {
        "reloblur": ("--masks",),
        "gopro": ("--gamma",),
        "realblur": ("--variant",),
        "pairs": ("--masks", "--blur", "--sharp", "--scene"),
    }[config.layout]
    for option, value in given.items():
        if value and option not in allowed:
            raise ConfigError(f"the layout {config.layout} knows no {option}")
    if config.layout == "reloblur":
        return reloblur.find_all(src, masks)
    if config.layout == "gopro":
        return gopro.find_all(src, gamma=config.gamma)
    if config.layout == "realblur":
        return realblur.find_all(src, variant=config.variant)
    return pairs.find_all(src, blur=blur or "blur", sharp=sharp or "sharp", masks=masks, scene=config.scene)


def _outside(masks: Path | None, blur: str | None, sharp: str | None) -> Iterator[tuple[str, Path]]:
    for name, folder in (("masks", masks), ("blur", blur), ("sharp", sharp)):
        if folder:
            yield name, Path(folder)


def _with_version(config: ImportConfig, found: Found, exported: str, notes: list[str]) -> ImportConfig:
    """Fill in the version of the masks where it was not said."""
    version = config.masks.version
    if found.masks is None:
        if version:
            raise ConfigError(f"--mask-version {version}: there are no masks", advice="Give --masks DIR.")
        version = ONES
        notes.append("there are no masks: every pixel counts as blurred, mask_version is 'ones'")
    elif not version:
        version = exported or ("relo" if (found.masks / "masks.json").is_file() else UNKNOWN)
        if version == UNKNOWN:
            notes.append(
                "nobody said which masks these are: --mask-version v1 or annotated; their scores cannot be compared"
            )
    return config.model_copy(update={"masks": config.masks.model_copy(update={"version": version})})


def _splits(found: list[LayoutPair]) -> dict[str, str]:
    """Split of each scene, as the folders say."""
    splits: dict[str, str] = {}
    for pair in found:
        if splits.setdefault(pair.scene, pair.split) != pair.split:
            raise ConfigError(
                f"scene '{pair.scene}' is in {splits[pair.scene]} and in {pair.split}",
                file=pair.blur.parent,
                advice="Rename one of the two folders: a scene in two splits would be trained and tested on.",
            )
    return splits


def _distinct(found: Found) -> list[LayoutPair]:
    """Pairs whose names can be stored, each once."""
    count = Counter((pair.scene, pair.id) for pair in found.pairs)
    longest = schema.PAIR_DTYPE["id"].itemsize
    usable = []
    for pair in found.pairs:
        if count[pair.scene, pair.id] > 1:
            reason, advice = "is one of several pairs of that name", "Give each pair of a scene its own."
        elif not (storable(pair.scene) and storable(pair.id)):
            reason, advice = "has a name that no shard can hold", "Rename it: letters, digits, _ and - will do."
        elif len(pair.id.encode()) > longest:
            reason, advice = f"has a name longer than {longest} bytes", "Give the pair a shorter one."
        else:
            usable.append(pair)
            continue
        found.leave_out(pair.blur, reason, advice, pair.scene, pair.id)
    return usable


def _parts(
    usable: list[LayoutPair], out: Path, config: ImportConfig, splits: Mapping[str, str], problems: list[Problem]
) -> Iterator[Part]:
    """Shards of each scene: its sizes in order of appearance, `config.pairs` pairs each."""
    scenes: dict[str, dict[tuple[int, int, int, bool], list[LayoutPair]]] = {}
    for pair in usable:
        kind = _kind(pair, config.convert, problems)
        if kind is not None:
            groups = scenes.setdefault(pair.scene, {})
            groups.setdefault((kind.height, kind.width, kind.bits, pair.short is not None), []).append(pair)
    stems = file_stems(scenes)
    for scene in sorted(scenes):
        number = 0
        for (height, width, bits, short), members in scenes[scene].items():
            for start in range(0, len(members), config.pairs):
                path = out / f"{stems[scene]}-{number:03d}.h5"
                chosen = tuple(members[start : start + config.pairs])
                yield Part(path, scene, splits[scene], (height, width), bits, short, chosen)
                number += 1


def _kind(pair: LayoutPair, convert: bool, problems: list[Problem]) -> FrameKind | None:
    """What both frames hold; None and an entry in `problems` where they cannot be used together."""
    try:
        kind = _checked_kind(pair.blur, convert)
        for path in (pair.sharp, pair.short):
            other = kind if path is None else _checked_kind(path, convert)
            if other[:3] != kind[:3]:
                raise ImageError(
                    f"is {other}, its partner {pair.blur.name} is {kind}",
                    file=path,
                    advice="Copy both again, or take the pair out.",
                )
    except ReloError as error:
        problems.append(Problem.from_error(error, pair.blur, pair.scene, pair.id, STAGE))
        return None
    return kind


def _checked_kind(path: Path, convert: bool) -> FrameKind:
    kind = frame_kind(path)
    if kind.colours != "rgb" and not convert:
        said = {"grey": "is a grey image", "palette": "is a palette image", "alpha": "has an alpha channel"}
        raise ImageError(
            said[kind.colours], file=path, advice="Save it as RGB, or give --convert to take it as RGB."
        )
    return kind


def require_space(plan: Plan, out: Path) -> None:
    """Raise the error of a full disk before anything is written."""
    atomic.require_space(out, needed_space(plan))
