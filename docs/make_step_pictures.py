"""Make the pictures of docs/steps/ from simulated sessions.

python docs/make_step_pictures.py [OUT_DIR]
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np

from relo.capture import SimulationConfig, open_session, simulate_session
from relo.postprocess import apply_gain, calibrate_scene, develop, isp, warp
from relo.postprocess.lightbox import fit_casts, picture
from relo.postprocess.steps import BALANCED, DevelopConfig, PostprocessConfig, balanced_rgb, correct_colour

SIZE = (538, 359)
GREY = 0.5
DETAIL, ENLARGED = (340, 60), 4


class Scene:
    """A simulated session of one scene, its static pair without colour cast, and its calibration."""

    def __init__(self, folder: Path, **options: float) -> None:
        config = SimulationConfig(scenes=1, pairs=1, width=SIZE[0], height=SIZE[1], **options)
        self.session = open_session(simulate_session(folder, config))
        self.casts = fit_casts(self.session, PostprocessConfig().colour)
        scene = self.session.scenes[0]
        frames, whiteboard = (self.session.read_pair(pair) for pair in (scene.static[0], scene.whiteboard[0]))
        self.calibration = calibrate_scene([frames], self.casts, whiteboard=whiteboard)
        self.blur, self.sharp = (correct_colour(frame, self.casts) for frame in frames)
        self.pattern, self.flow = frames[0].pattern, self.calibration.flow.dense()

    def linear(self, mosaic: np.ndarray, balance: str = "mosaic") -> np.ndarray:
        """White-balanced linear camera RGB."""
        return balanced_rgb(mosaic, self.pattern, self.calibration.wb, DevelopConfig(balance=balance))

    def display(self, rgb: np.ndarray) -> np.ndarray:
        """Balanced RGB, developed."""
        return develop(rgb, BALANCED, self.calibration.colour_matrix)

    def pair(self, *, gain: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Display images of cameras B and S, not aligned."""
        blur = apply_gain(self.calibration.gain, self.blur, self.pattern) if gain else self.blur
        return self.display(self.linear(blur)), self.display(self.linear(self.sharp))


def main() -> None:
    """Simulate three sessions and draw each step."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("steps")
    with tempfile.TemporaryDirectory() as folder:
        plain = Scene(Path(folder) / "plain", seed=2)
        uneven = Scene(Path(folder) / "uneven", seed=4, gain_mismatch=0.4)
        deep = Scene(Path(folder) / "deep", seed=2, parallax_px=1.5)
        pictures = {
            "colour": picture(plain.session, plain.casts),
            "gain": _gain(uneven),
            "demosaic": _demosaic(plain),
            "develop": _develop(plain),
            "flow": _flow(plain, deep),
            "warp": _warp(plain),
        }
    out.mkdir(parents=True, exist_ok=True)
    for name, rgb in pictures.items():
        cv2.imwrite(str(out / f"{name}.jpg"), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(f"{len(pictures)} pictures in {out}")


def _gain(scene: Scene) -> np.ndarray:
    """Squares of both cameras by turns, before and after the gain."""
    rows, columns = np.indices(SIZE[::-1]) // 90
    pairs = {"before: squares of camera B and S by turns": scene.pair(gain=False), "after": scene.pair()}
    odd = ((rows + columns) % 2)[..., None]
    return _row({t: np.where(odd, warp(b, scene.flow), s) for t, (b, s) in pairs.items()}, (98, 20, 440, 300))


def _demosaic(scene: Scene) -> np.ndarray:
    """A detail of a pair's sharp frame: the truth, and three ways to demosaic it."""
    mosaic = correct_colour(scene.session.read_pair(scene.session.scenes[0].pairs[0])[1], scene.casts)
    with h5py.File(scene.session.root / "truth.h5") as file:
        truth = isp.srgb_encode(file["scenes/scene_00/pairs/0000/sharp"][()])
    bilinear = cv2.cvtColor(isp.quantise(mosaic, 16), cv2.COLOR_BayerRGGB2RGB) / np.float32(65535)
    ways = {
        "bilinear": bilinear * np.float32(scene.calibration.wb),
        "Menon, balanced after": scene.linear(mosaic, "image"),
        "Menon, balanced before": scene.linear(mosaic),
    }
    return _compared({"truth": truth} | {title: scene.display(rgb) for title, rgb in ways.items()}, 54)


def _develop(scene: Scene) -> np.ndarray:
    balanced, gains = scene.linear(scene.sharp), np.float32(scene.calibration.wb)
    steps = {"linear camera RGB": balanced / gains * gains.min(), "white-balanced": balanced}
    return _row(steps | {"clip, matrix, clip, sRGB curve": scene.display(balanced)}, (0, 20, 290, 260))


def _flow(plain: Scene, deep: Scene) -> np.ndarray:
    """Differences of two static pairs, before and after alignment."""
    rows, cubic = [], replace(deep.calibration.flow, residual=None).dense()
    for scene, factor, flows in (
        (plain, 2, {"grey + 2 (B - S): not aligned": plain.flow * 0, "aligned": plain.flow}),
        (deep, 4, {"scene with depth, grey + 4 (B - S): cubic alone": cubic, "cubic and dense rest": deep.flow}),
    ):
        blur, sharp = scene.pair()
        images = {title: GREY + factor * (warp(blur, flow) - sharp) for title, flow in flows.items()}
        rows.append(_row(images, (40, 60, 440, 200)))
    return np.vstack(rows)


def _warp(scene: Scene) -> np.ndarray:
    """A detail, twice shifted by half a pixel and back."""
    images = {"before": scene.pair()[1]}
    for method in ("linear", "cubic", "lanczos", "cmtf"):
        result = images["before"]
        for shift in (0.5, -0.5, 0.5, -0.5):
            result = warp(result, np.full((*result.shape[:2], 2), shift, np.float32), method=method)
        images[method] = result
    return _compared(images, 43)


def _compared(images: dict[str, np.ndarray], side: int) -> np.ndarray:
    """A detail of some images, and below their differences from the first."""
    first, *others = images.items()
    changes = {"grey + 4 x difference": first[1] * 0 + 1} | {t: GREY + 4 * (i - first[1]) for t, i in others}
    return np.vstack([_row(each, (*DETAIL, side, side)) for each in (images, changes)])


def _row(images: dict[str, np.ndarray], area: tuple[int, int, int, int]) -> np.ndarray:
    """`area` (x, y, width, height) of images in [0, 1], side by side, each with its title; small areas enlarged."""
    x, y, width, height = area
    panels = []
    for title, image in images.items():
        part = np.rint(255 * np.clip(image[y : y + height, x : x + width], 0, 1)).astype(np.uint8)
        if width < 100:
            part = np.kron(part, np.ones((ENLARGED, ENLARGED, 1), np.uint8))
        framed = cv2.copyMakeBorder(part, 24, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        cv2.putText(framed, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.43, (30, 30, 30), 1, cv2.LINE_AA)
        panels.append(framed)
    return np.hstack(panels)


if __name__ == "__main__":
    main()
