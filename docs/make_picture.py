"""Make docs/pair.jpg, the README's picture, from a simulated session.

python docs/make_picture.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from relo.capture import SimulationConfig, open_session, simulate_session
from relo.postprocess import demosaic_menon, develop
from relo.shards import ProcessConfig, open_dataset, process_session

SIZE = (807, 538)
LABEL = 26


def main() -> None:
    """Simulate, process, and draw one pair before and after."""
    with tempfile.TemporaryDirectory() as folder:
        config = SimulationConfig(scenes=1, pairs=4, width=SIZE[0], height=SIZE[1], seed=12)
        session = open_session(simulate_session(Path(folder) / "session", config))
        process_session(session.root, Path(folder) / "shards", ProcessConfig())
        sample = open_dataset(Path(folder) / "shards")[2]
        frames = session.read_pair(session.scenes[0].pairs[2])
        raw_blur, raw_sharp = (
            develop(demosaic_menon(f.normalised(), f.pattern), f.wb, f.colour_matrix) * 255 for f in frames
        )
        blur, sharp = sample.blur.astype(np.float32), sample.sharp.astype(np.float32)
        outlined = np.clip(4 * np.abs(blur - sharp), 0, 255).astype(np.uint8)
        contours, _ = cv2.findContours(sample.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, contours, -1, (255, 210, 0), 2)
        panels = [
            ("camera B, only developed", raw_blur),
            ("camera B, processed", blur),
            ("camera S, processed", sharp),
            ("4 x |B - S|, only developed", np.clip(4 * np.abs(raw_blur - raw_sharp), 0, 255)),
            ("4 x |B - S|, processed, with the blur mask", outlined),
            ("synthetic short exposure", sample.short),
        ]
    tiles = [_label(title, np.asarray(image)) for title, image in panels]
    picture = np.vstack([np.hstack(tiles[:3]), np.hstack(tiles[3:])])
    path = Path(__file__).with_name("pair.jpg")
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    print(path)


def _label(title: str, image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image.astype(np.uint8), (538, 359), interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(small, LABEL, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, title, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return framed


if __name__ == "__main__":
    main()
