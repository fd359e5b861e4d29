"""The explicit way: a CSV file that says which files belong together. `ingest.csv`, the plan, is one too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from relo.capture.ingest.files import ROLES, Role, RoleRule, is_raw_name
from relo.errors import CaptureError

COLUMNS = ("scene", "id", "role", "blur", "sharp")
TABLE_FILE = "ingest.csv"

_SEPARATORS = ",;\t"
_NEEDED = ("blur", "sharp")

# What a pair's name must not start with: a session takes it for a reference.
SCENE_REFERENCES = ("static", "whiteboard")

# Other wrong lines whose numbers a message names.
_NAMED = 5


@dataclass(frozen=True)
class Entry:
    """One line of the plan: what becomes of a pair, or of one lightbox frame.

    Attributes
    ----------
    scene : str
        Empty for a lightbox frame.
    id : str
        Name in the session: `0000`, `static`, `lightbox_00`.
    role : {"pair", "static", "whiteboard", "lightbox"}
    blur, sharp : Path or None
        Files of camera B and S; one of a lightbox frame's is None.
    """

    scene: str
    id: str
    role: Role
    blur: Path | None
    sharp: Path | None


@dataclass(frozen=True)
class Row:
    """One line as it was given; `scene` is None where there is no such column, `id` where none is given."""

    line: int
    blur: Path | None
    sharp: Path | None
    scene: str | None
    id: str | None
    role: Role


@dataclass(frozen=True)
class _Mistake:
    line: int
    column: str
    reason: str
    advice: str


def table_text(entries: Iterable[Entry]) -> str:
    """The plan as a CSV file that `read_table` accepts."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in entries:
        writer.writerow([entry.scene, entry.id, entry.role, entry.blur or "", entry.sharp or ""])
    return stream.getvalue()


def bad_name(name: str) -> str:
    """What is wrong with `name` as a scene's or a pair's name; empty if nothing is."""
    if not name:
        return "is empty"
    if name.startswith("."):
        return "starts with a dot"
    if any(letter in '/\\:*?"<>|' or letter < " " for letter in name):
        return "holds a letter that file names do not take everywhere"
    return "is longer than 100 letters" if len(name) > 100 else ""


def read_table(path: Path, dir_b: Path, dir_s: Path, rule: RoleRule) -> list[Row]:
    """Read a CSV of pairs.

    The separator is the one of comma, semicolon and tab that the first line holds most of; the columns may
    stand in any order; empty lines do not count. Without a column `role` the names tell it by `rule`.

    Raises
    ------
    CaptureError
        Whatever is wrong, with line and column: nothing of a table with a mistake is used.
    """
    header, lines = _read_lines(path)
    rows: list[Row] = []
    mistakes: list[_Mistake] = []
    seen: dict[Path, int] = {}
    for line, cells in lines:
        if len(cells) > len(header) and any(cells[len(header) :]):
            advice = "Put a cell that holds the separator into double quotes."
            mistakes.append(_Mistake(line, header[-1], f"is followed by {len(cells) - len(header)} more", advice))
            continue
        values = dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False))
        row, wrong = _read_row(line, values, {"blur": dir_b, "sharp": dir_s}, rule)
        for column, file in (("blur", row.blur), ("sharp", row.sharp)):
            if file is None:
                continue
            earlier = seen.setdefault(file.resolve(), line)
            if earlier != line or (column == "sharp" and row.blur and row.blur.resolve() == file.resolve()):
                reason = f"'{file.name}' stands in line {earlier} already"
                wrong.append(_Mistake(line, column, reason, "Use each file once."))
        mistakes += wrong
        rows.append(row)
    if mistakes:
        first = mistakes[0]
        others = [str(number) for number in dict.fromkeys(mistake.line for mistake in mistakes[1:])]
        more = f" (also wrong: line {', '.join(others[:_NAMED])}" if others else ""
        more += (f" and {len(others) - _NAMED} more)" if len(others) > _NAMED else ")") if others else ""
        raise CaptureError(
            f"line {first.line}, column '{first.column}': {first.reason}{more}", file=path, advice=first.advice
        )
    if not rows:
        raise CaptureError("holds no line below its first", file=path, advice="Name one pair a line.")
    return rows


def _read_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and the number and the trimmed cells of each further line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptureError("is no UTF-8 text", file=path, advice="Save it as 'CSV UTF-8'.") from error
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", file=path, advice="Check its name.") from error
    top = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(_SEPARATORS, key=top.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            trimmed = [cell.strip() for cell in cells]
            if any(trimmed):
                lines.append((reader.line_num, trimmed))
    except csv.Error as error:
        advice = "Mend its quotes."
        raise CaptureError(f"line {reader.line_num}: is no CSV ({error})", file=path, advice=advice) from error
    known = f"The first line names the columns: {', '.join(_NEEDED)}, and scene, id, role where wanted."
    if not lines:
        raise CaptureError("is empty", file=path, advice=known)
    (number, header), *rest = lines
    header = [name.lower() for name in header]
    while not header[-1]:
        header.pop()
    for name in header:
        if name not in COLUMNS:
            raise CaptureError(f"line {number}: unknown column '{name}'", file=path, advice=known)
        if header.count(name) > 1:
            raise CaptureError(f"line {number}: column '{name}' stands there twice", file=path, advice=known)
    for name in _NEEDED:
        if name not in header:
            raise CaptureError(f"line {number}: column '{name}' is missing", file=path, advice=known)
    return header, rest


def _read_row(
    line: int, values: dict[str, str], folders: dict[str, Path], rule: RoleRule
) -> tuple[Row, list[_Mistake]]:
    wrong: list[_Mistake] = []
    files: dict[str, Path | None] = {}
    for column, folder in folders.items():
        text = values[column]
        files[column] = folder / text if text else None
        if text and not is_raw_name(folder / text):
            wrong.append(_Mistake(line, column, f"'{text}' is no RAW file by its suffix", "Name the RAW file."))
        elif text and not _is_file(folder / text):
            advice = "Give the name with its suffix, relative to the camera's folder, or the whole path."
            wrong.append(_Mistake(line, column, f"'{text}' is no file in {folder}", advice))
    role, mistake = _role(line, values, folders, rule)
    if mistake:
        wrong.append(mistake)
    missing = [column for column, file in files.items() if file is None]
    if len(missing) == 2 or (missing and role != "lightbox"):
        advice = "Name both files; only a lightbox frame stands alone."
        wrong.append(_Mistake(line, missing[0], "is empty", advice))
    scene = values.get("scene")
    if scene is not None and (problem := bad_name(scene)) and (scene or role != "lightbox"):
        advice = "Name the scene as its folder shall be called; only a lightbox frame belongs to none."
        wrong.append(_Mistake(line, "scene", f"'{scene}' {problem}" if scene else problem, advice))
    pair_id = values.get("id") or None
    if pair_id and (problem := bad_name(pair_id)):
        wrong.append(_Mistake(line, "id", f"'{pair_id}' {problem}", "Give another id, or none."))
    elif pair_id and role == "pair" and pair_id.startswith(SCENE_REFERENCES):
        advice = "Give another id, or the role that the name says."
        wrong.append(_Mistake(line, "id", f"'{pair_id}' is the name of a reference, not of a pair", advice))
    return Row(line, files["blur"], files["sharp"], scene, pair_id, role), wrong


def _role(
    line: int, values: dict[str, str], folders: dict[str, Path], rule: RoleRule
) -> tuple[Role, _Mistake | None]:
    """Role of a line: from its cell (empty: a pair), or from the names of its files."""
    if "role" in values:
        text = values["role"]
        role = next((role for role in ROLES if role == (text.lower() or "pair")), None)
        if role is None:
            return "pair", _Mistake(line, "role", f"unknown role '{text}'", f"Give one of {', '.join(ROLES)}.")
        return role, None
    said: set[Role] = set()
    for column, folder in folders.items():
        path = folder / values[column]
        said |= set(rule.roles(path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)))
    if len(said) > 1:
        advice = "Add a column 'role'."
        return "pair", _Mistake(line, "blur", f"the names say {' and '.join(sorted(said))}", advice)
    return (said.pop() if said else "pair"), None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False
