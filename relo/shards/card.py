"""The dataset card: `README.md` beside the shards, for people who find the folder without relo.

It is written from `dataset.json` and the shards alone, without dates and places: equal datasets have equal cards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relo import atomic
from relo.shards import schema
from relo.shards.reader import Shard, close_files, read_index
from relo.units import in_bytes

CARD_FILE = "README.md"
# A card without this line is somebody's own and stays as it is.
MARK = (
    "<!-- relo writes this card with every change of the dataset; remove this line to keep a text of your own. -->"
)

_MASKS = {
    "ones": "none: 255 everywhere, every pixel counts as blurred",
    "v1": "v1, as first published with ReLoBlur",
    "annotated": "annotated, the later set of LMD-ViT; scores with v1 masks cannot be compared",
    "unknown": "of unknown origin",
}


def write_card(root: Path) -> bool:
    """Write the card of the dataset folder `root`; tell whether it is new.

    Raises
    ------
    ShardError
        `dataset.json` or a shard cannot be read.
    """
    path = root / CARD_FILE
    if path.is_file() and not has_card(root):
        return False
    index = read_index(root)
    close_files()
    shards = [Shard.open(root / entry["file"]) for entry in index["shards"]]
    text = card_text(index, shards)
    close_files()
    changed = not path.is_file() or path.read_text(encoding="utf-8") != text
    atomic.write_text(path, text)
    return changed


def has_card(root: Path) -> bool:
    """Whether `root` has a card that relo may write anew."""
    path = root / CARD_FILE
    return path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")


def card_text(index: Mapping[str, Any], shards: Sequence[Shard]) -> str:
    """Text of the card.

    Parameters
    ----------
    index : mapping
        Content of `dataset.json`.
    shards : sequence of Shard
        Those the index lists.
    """
    licence = _plain(index.get("licence", ""))
    facts = {
        "scenes": str(len({shard.scene for shard in shards})),
        "pairs": str(sum(shard.count for shard in shards)),
        "frames": _counted(f"{shard.size[1]}x{shard.size[0]}, {shard.bits} bits" for shard in shards) or "none",
        "masks": _counted(_mask_words(shard) for shard in shards) or "none",
        "short exposures": _counted("yes" if "short" in shard.file else "no" for shard in shards) or "none",
        "on disk": in_bytes(sum(shard.path.stat().st_size for shard in shards)),
        "left out": f"{index.get('quarantined', 0)}, listed in `{schema.QUARANTINE_FILE}`",
        "licence": licence or "unknown: ask whoever took the photographs before you pass them on",
        "origin": _plain(index.get("origin", "")) or "unknown",
        "made by": f"relo {index.get('relo_version', 'unknown')}",
        "config_sha256": f"`{index.get('config_sha256') or 'unknown'}`",
    }
    front = ["license: other", f'license_name: "{licence}"'] if licence else ["license: unknown"]
    lines = [
        "---",
        *front,
        "task_categories: [image-to-image]",
        "tags: [deblurring, motion-blur, relo]",
        "---",
        MARK,
        "",
        "# Pairs of blurred and sharp photographs",
        "",
        "Each pair is a frame with motion blur, the sharp frame of the same moment, and a mask of what is blurred.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
        "| split | scenes | pairs |",
        "| --- | ---: | ---: |",
        *_split_rows(shards),
        "",
        _READING.format(shard=shards[0].path.name if shards else "<shard>.h5"),
    ]
    return "\n".join(lines)


_READING = """\
## Reading it

With relo:

```python
from relo.shards import open_dataset

dataset = open_dataset(".")  # this folder; open_dataset(".", split="train") for one split
sample = dataset[0]
sample.blur, sample.sharp, sample.mask  # numpy arrays: (H, W, 3), (H, W, 3), (H, W)
sample.scene, sample.id, sample.split
```

With h5py alone (`pip install h5py hdf5plugin`):

```python
import h5py, hdf5plugin

with h5py.File("{shard}") as shard:
    blur, sharp = shard["blur"][0], shard["sharp"][0]  # (H, W, 3), RGB, sRGB-encoded
    mask = shard["mask"][0]  # (H, W), 255 blurred, 0 not
    names = [name.decode() for name in shard["pairs"]["id"]]
    scene, split = shard.attrs["scene"], shard.attrs["split"]
```

`dataset.json` lists the shards with scene, split, number of pairs and SHA-256, and the settings that made them.
`relo inspect . --verify` recomputes the checksums and decodes every image.
"""


def _split_rows(shards: Sequence[Shard]) -> list[str]:
    rows = []
    for split in sorted({shard.split for shard in shards}):
        members = [shard for shard in shards if shard.split == split]
        scenes = len({shard.scene for shard in members})
        rows.append(f"| {split} | {scenes} | {sum(shard.count for shard in members)} |")
    return rows


def _mask_words(shard: Shard) -> str:
    """Say what `mask_version` means: a word for imported masks, a number for computed ones."""
    version = shard.attrs.get("mask_version", "unknown")
    return _MASKS.get(version, _plain(version)) if isinstance(version, str) else f"computed, version {version}"


def _counted(values: Any) -> str:
    """`a` where all shards agree, else `a (2 shards); b (1 shards)`."""
    counts = Counter(values)
    if len(counts) < 2:
        return "".join(counts)
    most = counts.most_common(4)
    listed = "; ".join(f"{value} ({count} shards)" for value, count in sorted(most, key=lambda item: item[0]))
    return listed + (f"; and {len(counts) - len(most)} more" if len(counts) > len(most) else "")


def _plain(text: object) -> str:
    """One line that breaks neither a table nor a quoted string."""
    return " ".join(str(text).split()).replace("|", "/").replace('"', "'").replace("\\", "/")
