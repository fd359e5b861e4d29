"""Time and memory of `relo process` against pairs, pixels and processes: linear, flat, shared out.

    python benchmarks/scale.py [--quick] [--json]

Sessions are simulated once, and scenes multiplied by linking their files under other names, so that every scene is
processed anew. Each line is one run of the program, everything from start-up to the report included; memory is the
peak of its largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RELO = [sys.executable, "-m", "relo"]


class Run(NamedTuple):
    """One run of `relo process`."""

    what: str
    size: str
    scenes: int
    pairs: int
    jobs: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    disk_bytes: int


def simulate(folder: Path, size: str, pairs: int) -> Path:
    """Session of one scene."""
    arguments = ["simulate", str(folder), "--scenes", "1", "--pairs", str(pairs), "--size", size]
    subprocess.run([*RELO, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def multiplied(session: Path, out: Path, scenes: int, pairs: int) -> Path:
    """A session of `scenes` scenes of `pairs` pairs each, made of links to the files of one scene."""
    (source,) = (session / "scenes").iterdir()
    shutil.copytree(session / "calibration", out / "calibration", copy_function=os.link)
    shutil.copy(session / "session.yaml", out)
    names = sorted({path.name[:4] for path in source.glob("[0-9]*_B.dng")})
    for scene in range(scenes):
        folder = out / "scenes" / f"scene_{scene:03d}"
        folder.mkdir(parents=True)
        for path in source.glob("[a-z]*"):
            os.link(path, folder / path.name)
        for number in range(pairs):
            for path in source.glob(f"{names[number % len(names)]}_*"):
                os.link(path, folder / f"{number:04d}{path.name[4:]}")
    return out


def measured(session: Path, what: str, size: str, scenes: int, pairs: int, jobs: int) -> Run:
    """Process `session` and say what it took."""
    out = session.with_name("out")
    start = time.perf_counter()
    process = subprocess.Popen(
        [*RELO, "process", str(session), str(out), "--jobs", str(jobs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak, cpu = 0, dict[int, float]()
    while process.poll() is None:
        for pid in _family(process.pid):
            peak, cpu[pid] = max(peak, _peak(pid)), max(cpu.get(pid, 0.0), _cpu_seconds(pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"relo process {session}: exit code {process.returncode}")
    disk = sum(path.stat().st_size for path in out.glob("*.h5"))
    shutil.rmtree(out)
    return Run(what, size, scenes, scenes * pairs, jobs, seconds, sum(cpu.values()), peak, disk)


def _family(pid: int) -> list[int]:
    """A process and everything it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        children = []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def runs(folder: Path, quick: bool) -> Iterator[Run]:
    """Every run, in the order of the table."""
    small, middle, large = "270x180", "538x359", "2152x1436"
    first = simulate(folder / "small", small, 4)
    for pairs in (8, 32) if quick else (8, 32, 128, 512):
        session = multiplied(first, folder / "s", 1, pairs)
        yield measured(session, "pairs of one scene", small, 1, pairs, 1)
        shutil.rmtree(session)
    for scenes in (2, 8) if quick else (2, 8, 32):
        session = multiplied(first, folder / "s", scenes, 8)
        yield measured(session, "scenes", small, scenes, 8, 1)
        shutil.rmtree(session)
    for size in (small, middle) if quick else (middle, "1076x718", large):
        session = multiplied(simulate(folder / size, size, 2), folder / "s", 1, 8)
        yield measured(session, "pixels", size, 1, 8, 1)
        shutil.rmtree(session)
    size, pairs = (middle, 8) if quick else (large, 8)
    for jobs in (1, 2, 1, 2):
        session = multiplied(folder / size, folder / "s", 4, pairs)
        yield measured(session, "cores", size, 4, pairs, jobs)
        shutil.rmtree(session)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time and memory of relo process")
    parser.add_argument("--quick", action="store_true", help="small sessions, a minute")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: list[Run] = []
    with tempfile.TemporaryDirectory() as temporary:
        for run in runs(Path(temporary), arguments.quick):
            found.append(run)
            if not arguments.json:
                counts = f"{run.scenes:3} scenes {run.pairs:4} pairs {run.jobs} cores"
                each = 1000 * run.seconds / run.pairs
                times = f"{run.seconds:6.1f} s  {run.cpu_seconds:6.1f} CPU s  {each:6.0f} ms a pair"
                sizes = f"{run.peak_bytes / 1e6:5.0f} MB  {run.disk_bytes / 1e6:6.1f} MB on disk"
                print(f"{run.what:18} {run.size:>9} {counts}  {times}  {sizes}", flush=True)
    cores = [run for run in found if run.what == "cores"]
    ratios = [one.seconds / two.seconds for one, two in zip(cores[::2], cores[1::2], strict=True)]
    summary: dict[str, Any] = {"runs": [run._asdict() for run in found], "two_cores": ratios}
    print(
        json.dumps(summary)
        if arguments.json
        else f"--jobs 2 over --jobs 1: {', '.join(f'{r:.2f}x' for r in ratios)}"
    )


if __name__ == "__main__":
    main()
