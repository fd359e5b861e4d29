"""The house rules: who imports whom, what stays light, what every file must and must not have."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.program import environment

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "relo"

# What each part may import besides itself. Data moves left to right; nothing imports what lies on its right.
SHARED = {
    "cluster",
    "errors",
    "config",
    "atomic",
    "images",
    "exif",
    "metadata",
    "kernels",
    "locks",
    "parallel",
    "progress",
    "provenance",
    "resources",
    "srgb",
    "units",
    "__init__",
}
ALLOWED = {
    "capture": SHARED,
    "postprocess": SHARED | {"capture"},
    "masks": SHARED | {"capture"},
    "shards": SHARED | {"capture", "postprocess", "masks"},
    "models": {"errors", "kernels"},
    "training": SHARED | {"capture", "postprocess", "masks", "shards", "models"},
    "report": SHARED | {"capture", "postprocess", "masks", "shards", "models", "training"},
    "doctor": SHARED,
}
ALLOWED["cli"] = SHARED | set(ALLOWED)
ALLOWED["__main__"] = {"cli"}
ALLOWED |= dict.fromkeys(SHARED, SHARED)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the house a module belongs to: its first folder below relo/, or its own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(path: Path) -> set[str]:
    """Parts of relo that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "relo":
                inner = parts[1] if len(parts) > 1 else "__init__"
                known = (PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").is_file()
                found.add(inner if known else "__init__")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dependencies_point_to_the_left(path: Path):
    part = part_of(path)
    assert part in ALLOWED, f"a new part of the house: say in {Path(__file__).name} what it may import"
    assert imported_parts(path) - {part} <= ALLOWED[part]


def test_the_check_of_dependencies_sees_imports():
    assert imported_parts(PACKAGE / "shards" / "build.py") >= {
        "capture",
        "postprocess",
        "errors",
        "shards",
        "locks",
    }
    assert "shards" in imported_parts(PACKAGE / "cli" / "process.py"), "imports inside functions count"


def loaded(code: str) -> set[str]:
    """Names in sys.modules after `code`, run in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)), file=sys.stderr)"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_everything_left_of_training_works_without_torch():
    names = loaded(
        "import relo.shards.build, relo.shards.inspect, relo.capture.simulator, relo.capture.check\n"
        "import relo.masks.lbfmg, relo.postprocess.pipeline, relo.report.page"
    )
    assert "cv2" in names and "h5py" in names
    assert "torch" not in names


def test_packages_are_light():
    names = loaded("import relo.capture, relo.postprocess, relo.masks, relo.models, relo.training")
    assert not names & {"torch", "cv2", "colour_demosaicing", "colour", "dask", "numba", "matplotlib"}


HELP = """
from relo.cli.main import main
try:
    main(["--help"])
except SystemExit as leave:
    assert leave.code == 0
"""


def test_help_imports_nothing_heavy():
    names = loaded(HELP)
    assert "click" in names
    assert not names & {
        "torch",
        "cv2",
        "colour_demosaicing",
        "colour",
        "dask",
        "numba",
        "numpy",
        "h5py",
        "pydantic",
    }


def test_help_takes_less_than_300_ms_of_cpu():
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "relo", "--help"], env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3, times


NAMES = {
    "relo.capture": "RawFrame read_raw write_dng open_session simulate_session plan_exposure",
    "relo.postprocess": "fit_colour_cast apply_colour_cast fit_gain apply_gain demosaic_menon develop "
    "estimate_flow warp short_exposure process_pair",
    "relo.masks": "blur_mask",
    "relo.shards": "open_dataset ShardWriter process_session",
    "relo.models": "create_model list_models load_weights",
    "relo.training": "losses metrics train evaluate deblur",
    "relo.training.losses": "l1 ssim msfr shift_invariant",
    "relo.training.metrics": "psnr ssim weighted_psnr weighted_ssim aligned_psnr",
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names.split()]
)
def test_promised_names(module: str, name: str):
    found = getattr(import_module(module), name)
    assert callable(found) or name in ("losses", "metrics")
    public = getattr(import_module(module), "__all__", None)
    assert public is None or name in public


def test_every_folder_with_python_is_a_package():
    """`packages = find:` leaves a folder without __init__ out of the wheel."""
    folders = {path.parent for path in modules()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_data_file_goes_into_the_wheel():
    text = (ROOT / "setup.cfg").read_text()
    data = re.search(r"\[options\.package_data\]\n(.*?)\n\[", text, re.DOTALL)
    assert data is not None
    patterns = {}
    for line in data[1].strip().splitlines():
        package, _, pattern = line.partition("=")
        patterns[package.strip()] = [item.strip() for item in pattern.split(",")]
    packed = {
        file
        for package, globs in patterns.items()
        for glob in globs
        for file in (ROOT / package.replace(".", "/")).glob(glob)
    }
    files = {
        path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".nbi", ".nbc")
    }
    assert files - packed == set()
    assert len(packed) >= 3


def tracked() -> list[Path]:
    """Files of the project, as git knows them; as they lie there, where this is no checkout."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    paths = [ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_no_file_is_large():
    assert {str(path): path.stat().st_size for path in tracked() if path.stat().st_size > 1_000_000} == {}


def test_no_file_names_a_place_of_one_machine():
    places = re.compile(rb"/(?:work|home/[a-z]+|root|Users)/" + rb"\w")
    found = [str(path.relative_to(ROOT)) for path in tracked() if places.search(path.read_bytes())]
    assert found == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
