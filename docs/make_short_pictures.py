"""Draw docs/short.jpg and docs/short_diffusion.jpg: photographs, short exposures, and what each step makes of them.

    python docs/make_short_pictures.py [DETECTOR]

The second picture needs a run of exprdiff-detector-tiny on the bench set (docs/simulator.md). Its guide is trained
here for 200 steps, on top of the tiny random SDXL of the tests: it shows what the stages are, not how good they
could be.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent / "benchmarks"), str(DOCS.parent / "tests")]

from instant import displaced, expose, papers_filter, psnr_w, simulated  # noqa: E402
from support.tiny_sdxl import save_tiny_sdxl  # noqa: E402

from relo.capture.simulator import PRESETS, SimulationConfig, simulate_session  # noqa: E402
from relo.config import load_config  # noqa: E402
from relo.models.exprdiff.detector import BlurDetector, detect_blur  # noqa: E402
from relo.models.exprdiff.diffusion.colour_fix import fix_colour  # noqa: E402
from relo.models.exprdiff.diffusion.conditioning import condition  # noqa: E402
from relo.models.exprdiff.diffusion.latents import decode, encode  # noqa: E402
from relo.models.exprdiff.diffusion.sampling import Images, sample  # noqa: E402
from relo.shards import ProcessConfig, Sample, open_dataset, process_session  # noqa: E402
from relo.training import load_checkpoint  # noqa: E402
from relo.training.data import to_tensor  # noqa: E402
from relo.training.diffusion.recipe import FACTOR, load_diffusion_recipe  # noqa: E402
from relo.training.diffusion.restoration import DiffusionOptions, Restorer, load_restorer  # noqa: E402
from relo.training.diffusion.trainer import train_exprdiff  # noqa: E402
from relo.training.instant.config import InstantConfig  # noqa: E402
from relo.training.instant.matching import match_gain  # noqa: E402
from relo.training.instant.restore import align_short, restore_from_short  # noqa: E402

SEED, RATIO, SHOT, SHIFT = 101, 1 / 8, 1e-3, 4
CELL = 336  # side of each picture of a sheet [px]


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Float image in [0, 1] to uint8."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Image with a line of text above it."""
    band = np.zeros((24, image.shape[1], 3), np.uint8)
    cv2.putText(band, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([band, image])


def write_sheet(name: str, stages: list[tuple[str, np.ndarray]], mask: np.ndarray, zoom: int) -> None:
    """Write eight captioned images, cut out around the middle of the mask and enlarged, in two rows."""
    side = CELL // zoom
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    top = int(np.clip(np.median(rows) - side / 2, 0, height - side))
    left = int(np.clip(np.median(columns) - side / 2, 0, width - side))
    cells = []
    for text, image in stages:
        cut = image[top : top + side, left : left + side]
        cells.append(captioned(cv2.resize(cut, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), text))
    sheet = np.concatenate([np.concatenate(cells[row : row + 4], axis=1) for row in (0, 4)], axis=0)
    cv2.imwrite(str(DOCS / name), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def draw_instant() -> None:
    """Stages of exprdiff-instant, with the true mask."""
    pair = max(simulated(SEED, 4), key=lambda found: found.mask.sum())
    short = displaced(expose(pair.sharp, RATIO, SHOT, SEED), SHIFT)
    aligned, _ = align_short(pair.blur, short, pair.mask)
    matched, _ = match_gain(pair.blur, aligned, ~pair.mask)
    prefiltered = restore_from_short(pair.blur, short, pair.mask, InstantConfig(method="prefiltered")).image
    instant = restore_from_short(pair.blur, short, pair.mask).image
    stages = [
        ("photograph", pair.blur, True),
        (f"short exposure, 1/{1 / RATIO:.0f}", short, False),
        ("aligned, gain matched", to_bytes(matched), True),
        ("mask", np.repeat(255 * pair.mask[..., None].astype(np.uint8), 3, axis=2), False),
        ("the paper's filter", to_bytes(papers_filter(pair.blur, to_bytes(aligned), pair.mask)), True),
        ("fitted on smoothed images", prefiltered, True),
        ("exprdiff-instant", instant, True),
        ("sharp", pair.sharp, False),
    ]
    write_sheet(
        "short.jpg",
        [(f"{name}, {psnr_w(image, pair):.1f} dB" if scored else name, image) for name, image, scored in stages],
        pair.mask,
        zoom=2,
    )


def train_tiny(folder: Path) -> tuple[Restorer, Sample]:
    """A guide trained on two simulated scenes, and the most blurred pair of a third one."""
    bench = load_config(SimulationConfig, PRESETS["bench"])
    simulate_session(folder / "session", bench.model_copy(update={"scenes": 3, "pairs": 4, "seed": SEED}))
    physical = {"model": "physical", "ratio": (RATIO, RATIO), "shot": (SHOT, SHOT)}
    config = ProcessConfig(short=physical, split={"test": ["scene_00"]})
    process_session(folder / "session", folder / "shards", config=config)
    recipe = load_diffusion_recipe("exprdiff-tiny", [f"base={save_tiny_sdxl(folder / 'sdxl')}"])
    train_exprdiff(recipe, folder / "shards", folder / "run")
    pairs = open_dataset(folder / "shards").select(split="test")
    return load_restorer(folder / "run", DiffusionOptions(device="cpu")), max(
        pairs, key=lambda pair: pair.mask.sum()
    )


def draw_diffusion(restorer: Restorer, pair: Sample, detector: BlurDetector) -> None:
    """Stages of the guided diffusion, with the shard's mask."""
    height, width = (side // FACTOR * FACTOR for side in pair.mask.shape)
    blur, short, mask = (image[:height, :width] for image in (pair.blur, pair.short, pair.mask > 0))
    marked = np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2)
    patches = detect_blur(detector, blur).astype(np.uint8)
    outlines, _ = cv2.findContours(patches, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(marked, outlines, -1, (255, 96, 0), 2)
    long, fast = (to_tensor(image)[None] for image in (blur, short))
    where = torch.from_numpy(mask[None, None].astype(np.float32))
    filtered = condition(long, fast, where, **restorer.file.condition)
    with torch.no_grad():
        half, *_ = restorer.model.guide.embedding(filtered)[1]
        clean = encode(restorer.vae, filtered)
        everywhere = torch.ones(clean.shape[-2:], dtype=torch.bool)
        images = Images(filtered, fast, where)
        latents = sample(
            restorer.model,
            restorer.scheduler,
            images,
            clean,
            everywhere,
            restorer.prompts,
            restorer.options.sampling,
        )
        drawn = decode(restorer.vae, latents)
    stages = [
        ("photograph", blur),
        (f"short exposure, 1/{1 / RATIO:.0f}", short),
        ("mask; outlined: found patches", marked),
        ("the paper's filter", as_picture(filtered)),
        ("predicted by a head, at 1/2", as_picture(F.interpolate((half + 1) / 2, scale_factor=2))),
        ("decoded sample", as_picture(drawn)),
        ("colours of the filter's result", as_picture(fix_colour(drawn, filtered))),
        ("put into the photograph", restorer.restore(blur, short, mask)),
    ]
    write_sheet("short_diffusion.jpg", stages, mask, zoom=1)


def as_picture(image: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) float tensor to (H, W, 3) uint8."""
    return to_bytes(image[0].permute(1, 2, 0).numpy())


def main() -> None:
    """Draw what the arguments allow."""
    draw_instant()
    if len(sys.argv) > 1:
        detector = load_checkpoint(sys.argv[1]).model
        with tempfile.TemporaryDirectory() as folder:
            draw_diffusion(*train_tiny(Path(folder)), detector)


if __name__ == "__main__":
    main()
