"""Draw docs/blurdm.jpg: a simulated scene while its exposure grows, and the states that BlurDM makes of it.

    python docs/make_blurdm_picture.py

First row: what the camera has when the shutter closes at a_t, rendered by the simulator, from the short exposure
of a pair to the long one. Second row: the light e_t of each step, as an image of its own exposure. Third row:
states with noise. Prints by how much the states that follow from the first image and the lights, step by step,
differ from what was rendered.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from relo.capture.simulator import SimulationConfig
from relo.capture.simulator.integrate import apply, expose
from relo.capture.simulator.rig import draw_cameras
from relo.capture.simulator.session import SceneRenderer
from relo.models.blurdm.schedule import make_schedule, state_at, step_forward
from relo.srgb import srgb_encode

STEPS, SIZE, SEED = 5, (430, 287), 5
LONGER = 20  # times the long exposure is as long as the short one
LABEL = 24


def rendered(alphas: list[float]) -> list[np.ndarray]:
    """Linear images whose exposures end at `alphas`, the last being camera B's whole exposure."""
    config = SimulationConfig(
        scenes=1, pairs=1, width=SIZE[0], height=SIZE[1], seed=SEED, blur_px_min=200, blur_px_max=300
    )
    scene = SceneRenderer(config, draw_cameras(config), 0)
    objects = scene.objects(0)
    exposures = [expose(objects, alpha / alphas[-1], scene.canvas.shape[:2], scene.margin) for alpha in alphas]
    return [scene.in_frame(apply(scene.canvas, exposure)) for exposure in exposures]


def main() -> None:
    """Render, follow the schedule, and draw."""
    alphas_of_pair = torch.linspace(1 / LONGER, 1, STEPS + 1, dtype=torch.float64)
    schedule = make_schedule(STEPS, dtype=torch.float64)._replace(alphas=alphas_of_pair)
    alphas = schedule.alphas.tolist()
    images = [torch.from_numpy(image.astype(np.float64)) for image in rendered(alphas)]
    lights = [alphas[t] * images[t] - alphas[t - 1] * images[t - 1] for t in range(1, STEPS + 1)]
    state, worst = images[0], 0.0
    for t in range(1, STEPS + 1):
        state = step_forward(schedule, state, lights[t - 1], t)
        worst = max(worst, float((state - images[t]).abs().max()))
    print(f"states step by step and rendered exposures differ by at most {worst:.1e}")
    noise = torch.randn(images[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = float(torch.quantile(images[-1].flatten()[::7], 0.995))
    noisy = [state_at(schedule, images[0], lights, top * noise, t) for t in range(STEPS + 1)]
    rows = [
        [(f"I_{t}: exposure {alphas[t]:.2f}", image) for t, image in enumerate(images)],
        [
            ("", None),
            *((f"e_{t}: light of step {t}", light / (alphas[1] - alphas[0])) for t, light in enumerate(lights, 1)),
        ],
        [(f"I_{t}, noise {float(schedule.noise_at(t)):.2f}", image) for t, image in enumerate(noisy)],
    ]
    picture = np.vstack([np.hstack([_tile(text, image, top) for text, image in row]) for row in rows])
    path = Path(__file__).with_name("blurdm.jpg")
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 72])
    print(path)


def _tile(text: str, image: torch.Tensor | None, top: float) -> np.ndarray:
    if image is None:
        shown = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    else:
        linear = np.clip(image.numpy() / top, 0, 1).astype(np.float32)
        shown = np.rint(255 * srgb_encode(linear)).astype(np.uint8)
    small = cv2.resize(shown, (260, 174), interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(small, LABEL, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
    return framed


if __name__ == "__main__":
    main()
