"""What a shard may be made of: the structure of a file is checked before any number in it is believed.

Allowed is what relo writes, and nothing that leaves the file (external or soft links, external storage, virtual
datasets), decodes by unknown filters, or claims sizes that no camera has. It runs where a crash of HDF5 does no
harm (`relo.shards.probe`), because HDF5 itself does not survive every damaged file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from relo.errors import ShardError
from relo.shards import schema, stored

MAX_SIDE = 65_535
MAX_PAIRS = 100_000
# A camera of 166 megapixels in 16 bits; a frame is the largest thing that is read at once.
MAX_FRAME_BYTES = 1_000_000_000
MAX_TILE_BYTES = 64_000_000
MAX_SMALL_BYTES = 64_000_000  # a calibration or a preview; the dense rest of a flow may be as large as a frame
MAX_TEXT_BYTES = 64_000_000  # all attributes of one object
MAX_OBJECTS = 1000
MAX_ATTRIBUTES = 200

_RESIDUAL = "calibration/flow/residual"
_JSON_ATTRIBUTES = ("config", "sources", "libraries")
_COLUMNS = ("id", "flags", "blur_fraction")  # those that every relo has written
ADVICE = "Copy it again, or run the same 'relo process' again: it makes anew only what is damaged."
_FOREIGN = "Use the file as relo has written it."
_NUMBERS = (
    h5py.h5t.STD_U8LE, h5py.h5t.STD_U16LE, h5py.h5t.STD_U32LE, h5py.h5t.STD_U64LE,
    h5py.h5t.STD_I8LE, h5py.h5t.STD_I16LE, h5py.h5t.STD_I32LE, h5py.h5t.STD_I64LE,
    h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F64LE,
)  # fmt: skip
_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}


def check_shard(path: Path) -> None:
    """Check the structure of the HDF5 file at `path`, and read everything in it but the images.

    Raises
    ------
    ShardError
        It is no shard, of another version, incomplete, or holds something that no shard holds.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ShardError(
            "cannot be opened as HDF5: missing, damaged or half copied", file=path, advice=ADVICE
        ) from error
    with file:
        _check_format(file, path)
        file_bytes = path.stat().st_size
        for name, item in _objects(file, path):
            for attribute in _attribute_names(item, path):
                _attribute(item, _decoded(attribute, path), path)
            if isinstance(item, h5py.Dataset):
                _check_dataset(name, item, file_bytes, path)
        _check_pairs(file, path)
        _check_images(file, file_bytes, path)
        _check_texts(file, path)
        _check_flow(file, path)


def _check_format(file: h5py.File, path: Path) -> None:
    """First of all whether it is a shard: of another file nothing else is worth telling."""
    names = _attribute_names(file, path)
    if b"format" not in names or _attribute(file, "format", path) != schema.FORMAT:
        advice = "Give a shard that relo has made."
        raise ShardError("is no relo shard (attribute format is missing)", file=path, advice=advice)
    version = _attribute(file, "version", path) if b"version" in names else None
    if not isinstance(version, int | np.integer) or version != schema.VERSION:
        raise ShardError(
            f"has format version {_shown(version)}, this relo reads version {schema.VERSION}",
            file=path,
            advice="Install the relo version that made it, or process again.",
        )


def _objects(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every object of the file, each once, reached by hard links only."""
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    seen = {h5py.h5o.get_info(file.id).addr}
    yield "", file
    while waiting:
        prefix, group = waiting.pop()
        names: list[bytes] = []
        group.id.links.iterate(lambda link, names=names: names.append(link) or len(names) > MAX_OBJECTS or None)
        if len(names) > MAX_OBJECTS:
            raise ShardError(f"holds more than {MAX_OBJECTS} objects", file=path, advice=_FOREIGN)
        for link in names:
            name = prefix + _decoded(link, path)
            kind = group.id.links.get_info(link).type
            if kind != h5py.h5l.TYPE_HARD:
                what = _LINKS.get(kind, "a link of an unknown kind")
                raise ShardError(f"/{name} is {what}, which no shard holds", file=path, advice=_FOREIGN)
            identifier = h5py.h5o.open(group.id, link)
            if isinstance(identifier, h5py.h5d.DatasetID):
                item: h5py.Group | h5py.Dataset = h5py.Dataset(identifier)
            elif isinstance(identifier, h5py.h5g.GroupID):
                item = h5py.Group(identifier)
            else:
                raise ShardError(f"/{name} is neither dataset nor group", file=path, advice=_FOREIGN)
            address = h5py.h5o.get_info(identifier).addr
            if address in seen:
                raise ShardError(f"/{name} is another name of an object", file=path, advice=_FOREIGN)
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                raise ShardError(f"holds more than {MAX_OBJECTS} objects", file=path, advice=_FOREIGN)
            if isinstance(item, h5py.Group):
                waiting.append((f"{name}/", item))
            yield name, item


def _decoded(name: bytes, path: Path) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise ShardError(f"holds a name that is no text ({name[:40]!r})", file=path, advice=ADVICE)
    return text


def _attribute_names(item: h5py.Group | h5py.Dataset, path: Path) -> list[bytes]:
    count = h5py.h5a.get_num_attrs(item.id)
    if count > MAX_ATTRIBUTES:
        raise ShardError(f"has {count} attributes at {_place(item)}", file=path, advice=_FOREIGN)
    return [h5py.h5a.open(item.id, index=index).name for index in range(count)]


def _attribute(item: h5py.Group | h5py.Dataset, name: str, path: Path) -> Any:
    """Value of an attribute, once its type and size are found plausible."""
    identifier = h5py.h5a.open(item.id, name.encode())
    kind = identifier.get_type()
    space = identifier.get_space()
    text = isinstance(kind, h5py.h5t.TypeStringID)
    if not text and not _is_number(kind):
        raise ShardError(f"has an attribute of a wrong type: {name}", file=path, advice=ADVICE)
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        raise ShardError(f"has an empty attribute: {name}", file=path, advice=ADVICE)
    if math.prod(space.get_simple_extent_dims()) * kind.get_size() > MAX_TEXT_BYTES:
        raise ShardError(f"has an attribute of an absurd size: {name}", file=path, advice=ADVICE)
    return item.attrs[name]


def _is_number(kind: h5py.h5t.TypeID) -> bool:
    return any(kind.equal(number) for number in _NUMBERS)


def _check_dataset(name: str, dataset: h5py.Dataset, file_bytes: int, path: Path) -> None:
    """What must hold of any dataset: where it lies, what it is made of, how large it says it is."""
    plist = dataset.id.get_create_plist()
    kind, layout = dataset.id.get_type(), plist.get_layout()
    if plist.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise ShardError(f"/{name} lies in other files, which no shard does", file=path, advice=_FOREIGN)
    if dataset.id.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise ShardError(f"/{name} is empty", file=path, advice=ADVICE)
    if name == "pairs":
        _check_columns(kind, path)
    elif not _is_number(kind):
        raise ShardError(f"/{name} has a wrong data type", file=path, advice=ADVICE)
    image = name in (*schema.IMAGES, "mask")
    filters = stored.filters_of(dataset)
    if filters not in stored.PIPELINES:
        raise ShardError(
            f"/{name} is compressed by filters that relo does not use ({', '.join(map(str, filters))})",
            file=path,
            advice=ADVICE,
        )
    nbytes = math.prod(dataset.shape) * kind.get_size()
    largest = MAX_FRAME_BYTES if name in ("valid", "pairs", _RESIDUAL) else MAX_SMALL_BYTES
    if not image and nbytes > largest:
        raise ShardError(f"/{name} has an absurd size, {_by(dataset.shape)}", file=path, advice=ADVICE)
    if layout != h5py.h5d.CHUNKED:
        if image or dataset.id.get_storage_size() > file_bytes:
            raise ShardError(f"/{name} is not stored as relo stores it", file=path, advice=ADVICE)
        return
    if math.prod(dataset.chunks) * kind.get_size() > MAX_TILE_BYTES:
        raise ShardError(f"/{name} has tiles of an absurd size, {_by(dataset.chunks)}", file=path, advice=ADVICE)
    if not image:
        try:
            tiles = stored.index_tiles(dataset, file_bytes)
            if name != _RESIDUAL:  # large and seldom read: checked when it is
                stored.check_small(dataset, tiles)
        except stored.DamagedTileError as error:
            raise ShardError(f"/{name} cannot be decoded: {error}", file=path, advice=ADVICE) from error


def _check_columns(kind: h5py.h5t.TypeID, path: Path) -> None:
    """The columns of /pairs: numbers and short texts, one behind the other."""
    if not isinstance(kind, h5py.h5t.TypeCompoundID):
        raise ShardError("/pairs is no table", file=path, advice=ADVICE)
    end, names = 0, []
    for position in range(kind.get_nmembers()):
        member = kind.get_member_type(position)
        name = _decoded(kind.get_member_name(position), path)
        text = isinstance(member, h5py.h5t.TypeStringID) and not member.is_variable_str()
        known = name in (schema.PAIR_DTYPE.names or ())
        if (known and (schema.PAIR_DTYPE[name].kind == "S") != text) or not (text or _is_number(member)):
            raise ShardError(f"/pairs has a column of a wrong type: {name}", file=path, advice=ADVICE)
        if kind.get_member_offset(position) < end:
            raise ShardError(f"/pairs has columns that overlap: {name}", file=path, advice=ADVICE)
        end = kind.get_member_offset(position) + member.get_size()
        names.append(name)
    missing = [name for name in _COLUMNS if name not in names]
    if end > kind.get_size() or kind.get_size() > 65_536 or missing:
        what = f"lacks {', '.join(missing)}" if missing else "has rows of a wrong size"
        raise ShardError(f"/pairs {what}", file=path, advice=ADVICE)


def _check_pairs(file: h5py.File, path: Path) -> None:
    """The datasets there must be, and their shapes."""
    missing = [name for name in ("blur", "sharp", "mask", "valid", "pairs") if name not in file]
    missing += [name for name in ("scene", "split", "config_sha256") if name not in file.attrs]
    if missing:
        raise ShardError(f"lacks {', '.join(missing)}", file=path, advice=ADVICE)
    names = ["blur", "sharp", "mask", "valid", "pairs"] + (["short"] if "short" in file else [])
    groups = [name for name in names if not isinstance(file[name], h5py.Dataset)]
    if groups:
        raise ShardError(f"has {', '.join(groups)} as a group: it is damaged", file=path, advice=ADVICE)
    if file["pairs"].ndim != 1 or file["valid"].ndim != 2:
        raise ShardError("has pairs or valid of a wrong shape", file=path, advice=ADVICE)
    count, (height, width) = len(file["pairs"]), file["valid"].shape
    if count > MAX_PAIRS or not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE:
        raise ShardError(f"claims {count} pairs of {width}x{height} pixels", file=path, advice=ADVICE)
    image, depth = (count, height, width, 3), file["blur"].dtype
    expected = {"blur": image, "sharp": image, "short": image, "mask": (count, height, width)}
    wrong = [name for name in names if file[name].shape != expected.get(name, file[name].shape)]
    if wrong:
        raise ShardError(f"has {', '.join(wrong)} of a wrong shape", file=path, advice=ADVICE)
    wrong = [name for name in ("mask", "valid") if file[name].dtype != np.uint8]
    wrong += [name for name in schema.IMAGES if name in names and file[name].dtype != depth]
    if wrong or depth not in (np.uint8, np.uint16):
        raise ShardError(f"has {', '.join(wrong) or 'blur'} of a wrong data type", file=path, advice=ADVICE)
    if height * width * 3 * depth.itemsize > MAX_FRAME_BYTES:
        raise ShardError(f"claims frames of {width}x{height} pixels", file=path, advice=ADVICE)


def _check_images(file: h5py.File, file_bytes: int, path: Path) -> None:
    """The tiles of the images lie within the file, and none of them is missing."""
    for name in (*schema.IMAGES, "mask"):
        if name not in file:
            continue
        dataset = file[name]
        colours = dataset.shape[3:]
        if dataset.chunks[0] != 1 or dataset.chunks[3:] != colours:
            raise ShardError(f"/{name} has tiles of {_by(dataset.chunks)}", file=path, advice=ADVICE)
        try:
            missing = stored.index_tiles(dataset, file_bytes).missing
        except stored.DamagedTileError as error:
            raise ShardError(f"/{name} {error}", file=path, advice=ADVICE) from error
        if missing and name != "mask":  # a mask that was never set is stored as nothing
            raise ShardError(f"/{name} lacks {missing} tiles", file=path, advice=ADVICE)


def _check_texts(file: h5py.File, path: Path) -> None:
    """Texts that name things, those in JSON, and the table of pairs."""
    for name in ("scene", "split", "config_sha256", *_JSON_ATTRIBUTES):
        text = file.attrs.get(name, "{}")
        if not isinstance(text, str):
            raise ShardError(f"has an attribute of a wrong type: {name}", file=path, advice=ADVICE)
        if name not in _JSON_ATTRIBUTES:
            _check_name(text, f"attribute {name}", path)
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"has an attribute that is no JSON: {name}", file=path, advice=ADVICE) from error
        if not isinstance(content, dict):
            raise ShardError(f"has an attribute that is no JSON object: {name}", file=path, advice=ADVICE)
    table = file["pairs"][()]
    try:
        for column in (name for name in table.dtype.names if table.dtype[name].kind == "S"):
            for text in table[column]:
                text.decode()
    except UnicodeDecodeError as error:
        raise ShardError(f"/pairs has a column that is no text: {column}", file=path, advice=ADVICE) from error
    for name in table["id"]:
        _check_name(name.decode(), "pair", path)


def _check_name(name: str, what: str, path: Path) -> None:
    """Scenes and pairs become names of files when they are exported."""
    if not name.isprintable() or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise ShardError(f"has a name that cannot be one: {what} {_shown(name)}", file=path, advice=ADVICE)


def _check_flow(file: h5py.File, path: Path) -> None:
    """The flow: a few numbers, and the sensor's size, which is the frames' or twice that."""
    group = file.get("calibration/flow")
    if group is None:
        return
    wrong = ShardError("has a calibration/flow of a wrong shape", file=path, advice=ADVICE)
    if (
        not isinstance(group, h5py.Group)
        or {"shape", "method", "note"} - set(group.attrs)
        or "coefficients" not in group
    ):
        raise wrong
    shape = np.asarray(group.attrs["shape"])
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise wrong
    if not all(
        small <= large <= 2 * small + 1 for small, large in zip(file["valid"].shape, shape.tolist(), strict=True)
    ):
        raise wrong
    if group["coefficients"].shape != (2, 10) or not all(
        isinstance(group.attrs[name], str) for name in ("method", "note")
    ):
        raise wrong
    if "residual" in group and group["residual"].shape != (*shape.tolist(), 2):
        raise wrong


def _place(item: h5py.Group | h5py.Dataset) -> str:
    return str(item.name)[:60]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _shown(value: Any) -> str:
    return ascii(value.item() if isinstance(value, np.generic) else value)[:60]
