"""Pairs a CPU second: `relo process` against the same steps strung together from the packages.

    python benchmarks/pipeline_speed.py [--size 2152x1436] [--pairs 20] [--session DIR] [--whole] [--json]

relo runs as a program of its own; everything counts, from start-up to the report. It also makes synthetic short
exposures, quality numbers, checksums and the report, which the reference does not.

The reference is `reference` below: rawpy, numpy, colour-demosaicing, relo's coarse2fine with the parameters of the
published demo (the same flow as pyflow's), OpenCV and h5py, frames kept in memory. It runs on the first four pairs,
and what a scene of all pairs takes is composed from each step's CPU seconds and how often the step runs. Its masks
are the paper's, a background model for each target. "Cheapest masks" has one model, which learns every frame: a
bound on the cost of masks, not masks, because that model takes the targets for background. --whole runs both
variants of the reference on all pairs instead.

One scene of simulated pairs, which --session replaces. Seconds are CPU seconds of all threads, user and system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import h5py
import numpy as np

from relo import atomic
from relo.capture import RawFrame, Session, open_session
from relo.capture.frame import channel_of_position
from relo.capture.session import CAMERAS, Camera
from relo.masks import combined
from relo.masks.lbfmg import BackgroundModel, clean_up
from relo.postprocess import FlowModel, isp, pipeline, quality
from relo.postprocess.flow.coarse2fine import estimate_coarse2fine
from relo.report import write_report
from relo.shards import ShardWriter, build, open_dataset, scene, tiles

# So many pairs tell the CPU seconds of each of the reference's steps.
SAMPLE = 4
LIMIT_PER_PIXEL, LIMIT_FIXED = 260, 300e6


# ---- relo as a program ----------------------------------------------------------------------------------------


class Usage(NamedTuple):
    """What a program took."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def run(*arguments: str | Path) -> Usage:
    """Run Python with these arguments and account for it."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    # Not RUSAGE_CHILDREN: that adds up all children, and keeps the largest one's memory.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(map(str, arguments))} ended with {process.returncode}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Usage(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, peak)


def simulate(folder: Path, size: str, pairs: int, seed: int) -> Path:
    """Simulate a session of one scene, in a program of its own: what it takes must not count for anything here."""
    options = ("--size", size, "--scenes", 1, "--pairs", pairs, "--seed", seed)
    run("-m", "relo", "simulate", folder, *map(str, options), "--json")
    return folder


def run_relo(session: Path, folder: Path) -> tuple[Usage, Path]:
    """CPU seconds and memory of `relo process`, after a tiny session has compiled everything; and its output."""
    tiny = simulate(folder / "tiny", "269x180", 2, 0)
    run("-m", "relo", "process", tiny, folder / "tiny-shards", "--json")
    out = folder / "relo-shards"
    return run("-m", "relo", "process", session, out, "--json"), out


# ---- the reference ---------------------------------------------------------------------------------------------


class Clock:
    """CPU seconds and calls of each step."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self.busy = False

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Account what is done meanwhile for a step, unless another one is being accounted for."""
        if self.busy:
            yield
            return
        self.busy, start = True, time.process_time()
        yield
        self.seconds[step] += time.process_time() - start
        self.calls[step] += 1
        self.busy = False


READ, NORMALISE = "read a RAW file", "black, white, colour cast"
FIT_CAST, CAST = "fit a colour cast", "evaluate its polynomial"
GAIN, APPLY_GAIN = "gain of the static pair", "apply the gain"
DEMOSAIC, DEVELOP = "Menon (colour-demosaicing)", "white balance, matrix, sRGB"
FLOW, REMAP, BYTES = "coarse2fine, static pair", "cv2.remap, Lanczos4", "8 bits"
LEARN, SEGMENT, CLEAN = "MOG2 update", "MOG2 segmentation", "morphology"
WRITE = "write a pair, h5py"


def steps_of(pairs: int, single: bool) -> dict[str, int]:
    """How often each step of `reference` runs in a scene of so many pairs."""
    return {
        READ: 2 * pairs + 5,  # two lightbox frames, the static pair, one whiteboard frame
        FIT_CAST: 2,
        CAST: 2,
        NORMALISE: 2 * pairs + 3,
        GAIN: 1,
        APPLY_GAIN: pairs + 1,
        DEMOSAIC: 2 * pairs + 2,
        DEVELOP: 2 * pairs + 2,
        FLOW: 1,
        REMAP: pairs + 1,
        BYTES: 2 * pairs + 2,
        LEARN: 2 * pairs + 2 if single else pairs * (2 * pairs - 1),
        SEGMENT: pairs,
        CLEAN: pairs,
        WRITE: pairs,
    }


def reference(session: Session, out: Path, pairs: int, single: bool = False) -> Clock:
    """Process the first pairs of a session's scene the way the paper describes, written the straight way.

    Parameters
    ----------
    session : Session
        With lightbox frames, and a static and a whiteboard pair in its scene.
    out : path
        The HDF5 file.
    pairs : int
    single : bool
        One background model, which learns every frame, instead of one for each target, which learns all but it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from colour_demosaicing import demosaicing_CFA_Bayer_Menon2007 as menon
    clock, own = Clock(), session.scenes[0]

    def read(path: Path, camera: Camera) -> RawFrame:
        with clock(READ):
            return session.read(path, camera)

    factors: dict[Camera, np.ndarray] = {}
    for camera in CAMERAS:
        lightbox = read(session.lightbox[camera][0], camera)
        with clock(FIT_CAST):
            coefficients = fit_cast(lightbox)
        with clock(CAST):
            factors[camera] = evaluate_cast(coefficients, lightbox)

    def corrected(path: Path, camera: Camera) -> tuple[RawFrame, np.ndarray]:
        frame = read(path, camera)
        with clock(NORMALISE):
            return frame, frame.normalised() * factors[camera]

    board, mosaic = corrected(own.whiteboard[0].sharp, "S")
    quarter = [side // 8 * 2 for side in mosaic.shape]
    middle = mosaic[quarter[0] : -quarter[0], quarter[1] : -quarter[1]]
    red, green, blue = channel_means(middle, board.pattern)
    balance = np.array([green / red, 1, green / blue], np.float32)
    balance /= balance.min()

    def developed(mosaic: np.ndarray, frame: RawFrame) -> np.ndarray:
        with clock(DEMOSAIC):
            rgb = menon(mosaic, frame.pattern).astype(np.float32)
        with clock(DEVELOP):
            linear = np.clip(rgb * balance, 0, 1) @ board.colour_matrix.T.astype(np.float32)
            linear = np.clip(linear, 0, 1)
            return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)

    static = own.static[0]
    frame_blur, mosaic_blur = corrected(static.blur, "B")
    frame_sharp, mosaic_sharp = corrected(static.sharp, "S")
    with clock(GAIN):
        gain = channel_means(mosaic_sharp, frame_sharp.pattern) / channel_means(mosaic_blur, frame_blur.pattern)

    def balanced(mosaic: np.ndarray, pattern: str) -> np.ndarray:
        with clock(APPLY_GAIN):
            for position, channel in enumerate(channel_of_position(pattern)):
                mosaic[position // 2 :: 2, position % 2 :: 2] *= gain[channel]
        return mosaic

    image_blur = developed(balanced(mosaic_blur, frame_blur.pattern), frame_blur)
    image_sharp = developed(mosaic_sharp, frame_sharp)
    with clock(FLOW):
        flow = estimate_coarse2fine(image_sharp, image_blur)
        rows, columns = np.indices(flow.shape[:2], np.float32)
        x, y = columns + flow[..., 0], rows + flow[..., 1]

    def finished(image: np.ndarray, warped: bool) -> np.ndarray:
        if warped:
            with clock(REMAP):
                image = cv2.remap(image, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        with clock(BYTES):
            return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)

    stills = [finished(image_blur, warped=True), finished(image_sharp, warped=False)]
    blurs, sharps = [], []
    for pair in own.pairs[:pairs]:
        frame, mosaic = corrected(pair.blur, "B")
        blurs.append(finished(developed(balanced(mosaic, frame.pattern), frame), warped=True))
        frame, mosaic = corrected(pair.sharp, "S")
        sharps.append(finished(developed(mosaic, frame), warped=False))

    def background(frames: list[np.ndarray]) -> cv2.BackgroundSubtractorMOG2:
        model = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
        for frame in frames:
            with clock(LEARN):
                model.apply(frame)
        return model

    model = background(stills + blurs + sharps) if single else None
    height, width = flow.shape[:2]
    tile = min(tiles.TILE, height), min(tiles.TILE, width)
    with h5py.File(out, "w") as file:
        for name in ("blur", "sharp", "mask"):
            shape, chunk = ((height, width), tile) if name == "mask" else ((height, width, 3), (*tile, 3))
            chunks = {"chunks": (1, *chunk)} | tiles.PLAIN_COMPRESSION
            file.create_dataset(name, (len(blurs), *shape), np.uint8, **chunks)
        for index, target in enumerate(blurs):
            learnt = model or background(sharps + blurs[:index] + blurs[index + 1 :])
            with clock(SEGMENT):
                raw = learnt.apply(target, learningRate=0) > 0
            with clock(CLEAN):
                mask = clean_up(raw)
            with clock(WRITE):
                file["blur"][index], file["sharp"][index], file["mask"][index] = target, sharps[index], mask
    return clock


def channel_means(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Means of R, G and B over a mosaic, (3,)."""
    sums, counts = np.zeros(3), np.zeros(3)
    for position, channel in enumerate(channel_of_position(pattern)):
        sums[channel] += mosaic[position // 2 :: 2, position % 2 :: 2].mean(dtype=np.float64)
        counts[channel] += 1
    return sums / counts


def cubic_terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The ten monomials of a cubic, along the last axis."""
    return np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], axis=-1)


def fit_cast(lightbox: RawFrame) -> np.ndarray:
    """(3, 10) coefficients of a cubic through mean / patch of 23 x 15 patches of each channel."""
    mosaic = lightbox.normalised()
    rows, columns = (np.indices((15, 23)) + 0.5) / np.array([15, 23])[:, None, None] * 2 - 1
    patches = np.zeros((3, 15, 23))
    for position, channel in enumerate(channel_of_position(lightbox.pattern)):
        plane = np.ascontiguousarray(mosaic[position // 2 :: 2, position % 2 :: 2])
        patches[channel] += cv2.resize(plane, (23, 15), interpolation=cv2.INTER_AREA)
    alpha = patches.mean(axis=(1, 2), keepdims=True) / patches
    terms = cubic_terms(columns.ravel(), rows.ravel())
    return np.linalg.lstsq(terms, alpha.reshape(3, -1).T, rcond=None)[0].T


def evaluate_cast(coefficients: np.ndarray, frame: RawFrame) -> np.ndarray:
    """(H, W) float32 factor of each site's own channel."""
    factor = np.empty(frame.shape, np.float32)
    y, x = (np.linspace(-1, 1, side) for side in frame.shape)
    for position, channel in enumerate(channel_of_position(frame.pattern)):
        grid = np.meshgrid(x[position % 2 :: 2], y[position // 2 :: 2])
        factor[position // 2 :: 2, position % 2 :: 2] = cubic_terms(*grid) @ coefficients[channel]
    return factor


def measure_reference(session: Session, folder: Path, whole: bool) -> dict[str, Any]:
    """CPU seconds of both variants of the reference, and of each step."""
    pairs = len(session.scenes[0].pairs)
    first = run("-W", "ignore", "-c", "import colour_demosaicing, cv2, h5py, hdf5plugin, rawpy").cpu_s
    noise = np.random.default_rng(0).random((64, 96, 3))
    estimate_coarse2fine(noise, noise)  # compile
    sample = pairs if whole else min(pairs, SAMPLE)
    start = time.process_time()
    clock = reference(session, folder / "reference.h5", sample)
    seconds = time.process_time() - start
    assert clock.calls == steps_of(sample, single=False), clock.calls
    each = {step: clock.seconds[step] / clock.calls[step] for step in clock.calls}
    composed, cheapest = (
        sum(each[step] * times for step, times in steps_of(pairs, single).items()) for single in (False, True)
    )
    if whole:
        composed = seconds
        start = time.process_time()
        reference(session, folder / "reference-cheapest.h5", pairs, single=True)
        cheapest = time.process_time() - start
    return {
        "run_whole": whole,
        "start_up_cpu_s": first,
        "steps": {
            step: {
                "cpu_s": each[step],
                "times": steps_of(pairs, single=False)[step],
                "times_cheapest_masks": steps_of(pairs, single=True)[step],
            }
            for step in each
        },
        "cpu_s_per_pair": (first + composed) / pairs,
        "cpu_s_per_pair_cheapest_masks": (first + cheapest) / pairs,
    }


# ---- relo, stage by stage ----------------------------------------------------------------------------------------


# Functions, where relo looks them up. What they call in turn counts for their own stage.
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "read RAW files": ((Session, "read_pair"),),
    "black, white, colour cast, gains": tuple((pipeline, f) for f in ("correct_colour", "pair_gain", "apply_gain")),
    "white balance, demosaic": ((pipeline, "balanced_rgb"),),
    "matrix, sRGB": ((isp, "develop"),),
    "flow, warp": ((FlowModel, "dense"), (pipeline, "resample")),
    "8 bits": ((isp, "quantise"),),
    "short exposure": ((scene, "short_exposure"),),
    "compress, write": tuple((ShardWriter, method) for method in ("append", "set_mask", "finish")),
    "masks: read back": ((ShardWriter, "read"),),
    "masks: reduce": ((scene, "reduced"),),
    "masks: MOG2": ((BackgroundModel, "learn"), (BackgroundModel, "foreground")),
    "masks: difference of the pair": ((combined, "pair_foreground"),),
    "masks: morphology": ((combined, "clean_up"), (combined, "close_gaps")),
    "quality numbers": (
        *((quality, function) for function in ("noise_level", "misalignment", "psnr")),
        *((isp, "grey"), (RawFrame, "saturated")),
    ),
    "checksums": ((atomic, "file_sha256"),),
    "calibration, once a scene": ((build, "session_casts"), (scene, "calibrate_scene"), (scene, "valid_pixels")),
}


def measure_stages(session: Path, folder: Path) -> dict[str, float]:
    """CPU seconds of relo's stages, from a run in this process in which the functions of `STAGES` are accounted."""
    build.process_session(folder / "tiny", folder / "tiny-again")  # load what is compiled
    clock = Clock()

    def accounted(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with clock(stage):
                return function(*arguments, **named)

        return wrapped

    with ExitStack() as stack:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                stack.enter_context(patch.object(owner, name, accounted(stage, getattr(owner, name))))
        result = build.process_session(session, folder / "again")
    with clock("report"):
        write_report(result.out)
    return {stage: clock.seconds[stage] for stage in (*STAGES, "report")}


def measure_floor(session: Session, shards: Path, folder: Path, runs: int = 5) -> float:
    """CPU seconds of what no program can do without: reading a pair's RAW files, writing two compressed images."""
    pair, file = session.scenes[0].pairs[0], open_dataset(shards).shards[0].file
    images = {name: file[name][0] for name in ("blur", "sharp")}
    height, width, _ = images["blur"].shape
    with ShardWriter(folder / "floor.h5", size=(height, width), scene="", split="") as writer:
        writer.append("warm up", blur=images["blur"], sharp=images["sharp"])
        start = time.process_time()
        for number in range(runs):
            session.read_pair(pair)
            writer.append(f"{number}", blur=images["blur"], sharp=images["sharp"])
        return (time.process_time() - start) / runs


# ---- the figures -------------------------------------------------------------------------------------------------


def measure(session_dir: Path, folder: Path, whole: bool) -> dict[str, Any]:
    """All figures; relo comes first, while this process is small: its memory would count as its child's."""
    session, load = open_session(session_dir), os.getloadavg()[0]
    if len(session.scenes) != 1 or not (session.scenes[0].static and session.scenes[0].whiteboard):
        raise SystemExit(f"{session_dir}: needs one scene, with a static and a whiteboard pair")
    usage, out = run_relo(session_dir, folder)
    pairs = len(session.scenes[0].pairs)
    height, width = open_dataset(out).shards[0].valid.shape
    stages = {stage: seconds / pairs for stage, seconds in measure_stages(session_dir, folder).items()}
    per_pair = usage.cpu_s / pairs
    stages["start-up, all else"] = per_pair - sum(stages.values())
    base = measure_reference(session, folder, whole)
    return {
        "size": f"{width}x{height}",
        "pairs": pairs,
        "load_average": load,
        "relo": {
            "cpu_s_per_pair": per_pair,
            "pairs_per_cpu_s": 1 / per_pair,
            "wall_s": usage.wall_s,
            "peak_bytes": usage.peak_bytes,
            "peak_limit_bytes": LIMIT_PER_PIXEL * height * width + LIMIT_FIXED,
            "stages": stages,
            "floor_cpu_s": measure_floor(session, out, folder),
        },
        "reference": base,
        "ratio": base["cpu_s_per_pair"] / per_pair,
        "ratio_cheapest_masks": base["cpu_s_per_pair_cheapest_masks"] / per_pair,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as text."""
    relo, base = figures["relo"], figures["reference"]
    load = f"load average {figures['load_average']:.1f} at the start"
    print(f"{figures['pairs']} pairs of {figures['size']}, {load}; CPU seconds a pair:")
    print(
        f"  {'relo process':26} {relo['cpu_s_per_pair']:8.2f} s, {relo['pairs_per_cpu_s']:.3f} pairs a CPU second"
    )
    for name, suffix in (("reference", ""), ("reference, cheapest masks", "_cheapest_masks")):
        seconds, ratio = base[f"cpu_s_per_pair{suffix}"], figures[f"ratio{suffix}"]
        print(f"  {name:26} {seconds:8.2f} s, {1 / seconds:.3f} pairs a CPU second; relo: {ratio:.1f} times that")
    peak, limit = relo["peak_bytes"] / 1e6, relo["peak_limit_bytes"] / 1e6
    print(f"relo's peak memory {peak:.0f} MB, limit {limit:.0f} MB; {relo['wall_s']:.0f} s on the clock")
    print("relo, CPU seconds a pair:")
    for name, seconds in relo["stages"].items():
        print(f"  {name:38} {seconds:8.3f}")
    print(f"  {'(floor: read two RAW, write two images)':38} {relo['floor_cpu_s']:7.3f}")
    how = "run on all pairs" if base["run_whole"] else "COMPOSED of measured steps: seconds of one run x runs"
    print(f"reference, {how}; in brackets with the cheapest masks:")
    print(f"  {'start-up':38} {base['start_up_cpu_s']:8.3f} s x    1")
    for name, step in base["steps"].items():
        times, cheapest = step["times"], step["times_cheapest_masks"]
        print(f"  {name:38} {step['cpu_s']:8.3f} s x {times:4} ({cheapest}) = {step['cpu_s'] * times:.1f} s")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2152x1436")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--session", type=Path, help="take this session instead of simulating one")
    parser.add_argument("--whole", action="store_true", help="run the reference on all pairs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session = options.session or simulate(folder / "session", options.size, options.pairs, options.seed)
        figures = measure(session, folder, options.whole)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)


if __name__ == "__main__":
    main()
