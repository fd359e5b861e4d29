"""Render a whole session: calibration frames, scenes, pairs, and the truth behind them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from relo import atomic
from relo.capture.dng import write_dng
from relo.capture.simulator import truth
from relo.capture.simulator.alignment import (
    SPLINE_PAD,
    Alignment,
    add_change,
    draw_alignment,
    flow_field,
    largest_displacement,
    view_from_b,
)
from relo.capture.simulator.config import SimulationConfig, Stream, generator
from relo.capture.simulator.integrate import Patch, apply, coverage, expose, flicker_level
from relo.capture.simulator.motion import MovingObject, draw_objects
from relo.capture.simulator.rig import CAMERAS, Camera, draw_cameras, lightbox, radiance_cap, record
from relo.capture.simulator.scene import draw_scene, whiteboard
from relo.errors import CaptureError
from relo.parallel import lost_interrupts
from relo.progress import Progress

if TYPE_CHECKING:
    import h5py


MASK_COVERAGE = 0.05
_OWN_ENTRIES = {"session.yaml", "calibration", "scenes", "truth.h5"}


def simulate_session(
    out: str | Path, config: SimulationConfig | None = None, *, progress: Progress | None = None
) -> Path:
    """Render a session folder (see the design's section 5) with `truth.h5` beside it.

    Everything follows from `config`: the same configuration gives the same bytes, and another number of
    scenes or pairs leaves the others as they are. The folder is built under the name `OUT.part` and renamed
    at the end, so it is either complete or visibly not.

    Parameters
    ----------
    out : path
        Folder to make; it must not exist or be empty.
    config : SimulationConfig, optional
    progress : callable, optional
        Called as progress(done, total, what).

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    CaptureError
        The folder holds something already, or cannot be written.

    Notes
    -----
    The layout of `truth.h5` is described in `relo.capture.simulator.truth`.
    """
    out, config = Path(out), config or SimulationConfig()
    part = _claim(out)
    try:
        with lost_interrupts() as check:

            def step(done: int, total: int, what: str) -> None:
                check()
                if progress:
                    progress(done, total, what)

            _render(part, config, step)
        part.replace(out)
    except OSError as error:
        raise CaptureError(f"{out}: cannot be written ({error}). Choose a folder with room and access.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _claim(out: Path) -> Path:
    """Make the folder to build in; whatever an interrupted run of ours left there goes."""
    if out.resolve() == Path.cwd():
        raise CaptureError("is the current folder", file=out, advice="Give the name of a new one.")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CaptureError("is in the way of the session folder", file=out, advice="Give another name.")
    if out.is_dir() and any(out.iterdir()):
        raise CaptureError("is not empty", file=out, advice="Give a new folder, or empty this one first.")
    part = atomic.part_name(out)
    try:
        if part.exists():
            if not {entry.name.removesuffix(".part") for entry in part.iterdir()} <= _OWN_ENTRIES:
                raise CaptureError("is in the way, with other files in it", file=part, advice="Move it elsewhere.")
            shutil.rmtree(part)
        part.mkdir(parents=True)
    except OSError as error:
        raise CaptureError(f"cannot be made ({error})", file=part, advice="Choose another place.") from error
    return part


def _render(folder: Path, config: SimulationConfig, progress: Progress) -> None:
    import h5py

    total = 1 + config.scenes * (1 + config.pairs)
    progress(0, total, "calibration")
    cameras = draw_cameras(config)
    with h5py.File(folder / "truth.h5", "w") as file:
        truth.start(file, config)
        for index, name in enumerate(CAMERAS):
            rng = generator(config.seed, Stream.CALIBRATION, index)
            write_dng(folder / "calibration" / f"lightbox_{name}.dng", lightbox(config, cameras[name], rng))
            truth.put_array(file.require_group(f"cameras/{name}"), "alpha", cameras[name].alpha)
        file["cameras/B"].create_dataset("gain", data=cameras["B"].gain, track_times=False)
        done = 1
        for number in range(config.scenes):
            scene = SceneRenderer(config, cameras, number)
            place = folder / "scenes" / scene.name
            progress(done, total, scene.name)
            scene.write_static(place, file.create_group(f"scenes/{scene.name}"))
            done += 1
            for pair in range(config.pairs):
                progress(done, total, f"{scene.name} {pair:04d}")
                atomic.require_space(folder, 40 * config.width * config.height)
                scene.write_pair(place, file[f"scenes/{scene.name}"], pair)
                done += 1
    atomic.write_text(folder / "session.yaml", _session_yaml(config))
    progress(total, total, "done")


def _session_yaml(config: SimulationConfig) -> str:
    cameras = {
        "B": {"exposure_s": config.t_long_s, "nd_transmittance": config.tau, "mirrored": config.mirrored},
        "S": {"exposure_s": config.t_short_s},
    }
    return yaml.safe_dump({"rig": f"simulated rig, seed {config.seed}", "cameras": cameras}, sort_keys=False)


class SceneRenderer:
    """One scene: its still picture in both geometries, and the pairs shot before it.

    Attributes
    ----------
    canvas : (H + 2 margin, W + 2 margin, 3) float32 array
        Radiance of the still scene in S geometry.
    margin : int
        Pixels around the frame, so that camera B sees real content at its borders.
    alignment : Alignment
    """

    def __init__(self, config: SimulationConfig, cameras: dict[str, Camera], number: int) -> None:
        self.config, self.cameras, self.number = config, cameras, number
        self.name = f"scene_{number:02d}"
        self.alignment = draw_alignment(config, number)
        rng = generator(config.seed, Stream.SCENE_ALIGNMENT, number, 1)
        # Only the first scene is knocked: the others tell what a steady rig gives.
        self._bump_from = int(rng.integers(1, 3)) if config.bump_px and number == 0 else None
        turn = rng.uniform(0, 2 * math.pi)
        self.bump = (config.bump_px * math.cos(turn), config.bump_px * math.sin(turn))
        reach = largest_displacement(self.alignment) + config.bump_px
        self.margin = math.ceil(reach) + SPLINE_PAD
        self.cap = radiance_cap(config, cameras)
        shape = config.height + 2 * self.margin, config.width + 2 * self.margin
        self.canvas = draw_scene(config, generator(config.seed, Stream.SCENE, number), shape, self.cap)
        self._still_view: tuple[Alignment, np.ndarray] | None = None

    def alignment_of(self, pair: int) -> Alignment:
        """Geometry of camera B in this pair."""
        return self.alignment.bumped(*self.bump) if self.is_bumped(pair) else self.alignment

    def is_bumped(self, pair: int) -> bool:
        """Tell whether the rig had been knocked before this pair."""
        return self._bump_from is not None and pair >= self._bump_from

    def view_from_b(self, alignment: Alignment) -> np.ndarray:
        """(H, W, 3) float32: the still scene as camera B sees it; kept, because all pairs build on it."""
        if self._still_view is None or self._still_view[0] != alignment:
            self._still_view = alignment, view_from_b(self.canvas, self.margin, alignment)
        return self._still_view[1]

    def in_frame(self, canvas: np.ndarray) -> np.ndarray:
        """Cut the margin off."""
        m = self.margin
        return canvas[m:-m, m:-m]

    def objects(self, pair: int) -> list[MovingObject]:
        """Objects of a pair, back to front."""
        rng = generator(self.config.seed, Stream.OBJECTS, self.number, pair)
        return draw_objects(self.config, rng, self.cap, generator(self.config.seed, Stream.OBJECTS, self.number))

    def expose(self, objects: list[MovingObject], camera: str, phase: float) -> list[Patch]:
        """Integrate the objects over the exposure of one camera, in S geometry."""
        start, end = (0.0, 1.0) if camera == "B" else self.config.short_span
        depth, omega = self.config.flicker, 2 * math.pi * 100.0 * self.config.t_long_s
        brightness = (lambda s: 1 + depth * np.cos(omega * s + phase)) if depth else None
        return expose(objects, end, self.canvas.shape[:2], self.margin, brightness, start=start)

    def images(self, pair: int, objects: list[MovingObject], phase: float) -> tuple[np.ndarray, ...]:
        """Render a pair without noise.

        Returns
        -------
        sharp, blur : (H, W, 3) float32 arrays
            Radiance in S geometry.
        view : (H, W, 3) float32 array
            `blur` in the geometry of camera B.
        mask : (H, W) uint8 array
        """
        short, long = (self.expose(objects, camera, phase) for camera in ("S", "B"))
        sharp = self.in_frame(apply(self.canvas, short))
        blur = self.in_frame(apply(self.canvas, long))
        alignment = self.alignment_of(pair)
        view = self.view_from_b(alignment).copy()
        for patch in long:
            change = patch.over(self.canvas) - self.canvas[patch.window]
            add_change(view, change, (patch.box[0] - self.margin, patch.box[1] - self.margin), alignment)
        covered = self.in_frame(coverage(long, self.canvas.shape[:2])) > MASK_COVERAGE
        return sharp, blur, view, covered.astype(np.uint8) * np.uint8(255)

    def write_static(self, folder: Path, group: h5py.Group) -> None:
        """Write static and whiteboard pairs, and the scene's truth."""
        light = generator(self.config.seed, Stream.SCENE_LIGHT, self.number)
        board = whiteboard(self.canvas, self.config, self.margin, self.cap)
        truth.put_array(group, "flow", flow_field(self.alignment))
        bumped = [f"{pair:04d}" for pair in range(self.config.pairs) if self.is_bumped(pair)]
        group.attrs["bumped_pairs"] = truth.canonical_json(bumped)
        group.attrs["bump_px"] = self.bump if self._bump_from is not None else (0.0, 0.0)
        for kind, (what, canvas) in enumerate((("static", self.canvas), ("whiteboard", board))):
            levels = self._levels(light.uniform(0, 2 * math.pi))
            if what == "static":
                view = self.view_from_b(self.alignment)
            else:
                view = view_from_b(canvas, self.margin, self.alignment)
            for index, (name, image) in enumerate((("B", view), ("S", self.in_frame(canvas)))):
                rng = generator(self.config.seed, Stream.SCENE_NOISE, self.number, kind, index)
                average = self.config.lightbox_frames if what == "whiteboard" else 1
                frame = record(self.config, self.cameras[name], image, rng, level=levels[name], average=average)
                write_dng(folder / f"{what}_{name}.dng", frame)
                group.attrs[f"{what}_level_{name}"] = levels[name]

    def write_pair(self, folder: Path, group: h5py.Group, pair: int) -> None:
        """Write both frames of a pair and its truth."""
        config = self.config
        phase = generator(config.seed, Stream.PAIR_LIGHT, self.number, pair).uniform(0, 2 * math.pi)
        levels = self._levels(phase)
        objects = self.objects(pair)
        sharp, blur, view, mask = self.images(pair, objects, phase)
        for index, (name, image) in enumerate((("B", view), ("S", sharp))):
            rng = generator(config.seed, Stream.PAIR_NOISE, self.number, pair, index)
            frame = record(config, self.cameras[name], image, rng, level=levels[name])
            write_dng(folder / f"{pair:04d}_{name}.dng", frame)
        group = group.create_group(f"pairs/{pair:04d}")
        truth.put_array(group, "sharp", truth.quantised(sharp))
        truth.put_array(group, "blur", truth.quantised(blur))
        truth.put_array(group, "mask", mask)
        group.attrs["mask_share"] = float(np.count_nonzero(mask)) / mask.size
        group.attrs["bump_px"] = self.bump if self.is_bumped(pair) else (0.0, 0.0)
        for name in CAMERAS:
            group.attrs[f"level_{name}"] = levels[name]
        motions = [item.motion for item in objects]
        group.attrs["blur_px"] = [motion.path_length(0.0, 1.0) for motion in motions]
        group.attrs["sharp_px"] = [motion.path_length(*config.short_span) for motion in motions]
        group.attrs["start"] = np.stack([motion.position(0.0) for motion in motions])
        group.attrs["end"] = np.stack([motion.position(1.0) for motion in motions])

    def _levels(self, phase: float) -> dict[str, float]:
        """Light level during each camera's exposure."""
        if not self.config.flicker:
            return dict.fromkeys(CAMERAS, 1.0)
        opened = {"B": 0.0, "S": self.config.short_span[0] * self.config.t_long_s}
        return {
            name: flicker_level(self.config.flicker, phase, start, start + self.cameras[name].exposure_s)
            for name, start in opened.items()
        }
