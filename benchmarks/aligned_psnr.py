"""Speed and fidelity of PSNR_a against the published routine, and of SSIM's Gaussian mean.

    python benchmarks/aligned_psnr.py [--cases 8] [--size 2152x1436] [--json]

The published routine runs 100 full-size iterations of ECC from the identity (the code of RealBlur and ReLoBlur).
Each case disturbs an enlarged photograph with film grain in another way: shift up to 6 px, rotation, perspective,
gain, blur, noise, locally blurred patches. Printed are CPU seconds of one thread, their ratio, and the difference
of the two values. The second part compares the two ways to take the Gaussian mean of SSIM in float64, on strips as
the metric does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator, default_rng
from skimage import data

from relo.training.alignment import aligned_error
from relo.training.metrics import STRIP_PIXELS
from relo.training.structure import mean_by_convolution, mean_by_shifts


def photograph(width: int, height: int) -> np.ndarray:
    """(H, W, 3) float32 of 8-bit values: enlarged, then given the fine structure that enlarging cannot give."""
    photo = data.coffee().astype(np.float32) / 255
    photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC)
    rng = default_rng(0)
    for cell in (2, 4, 8, 16, 64):
        grain = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
        photo += 0.012 * cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return eight_bits(photo)


def eight_bits(image: np.ndarray) -> np.ndarray:
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def disturbed(sharp: np.ndarray, rng: Generator) -> tuple[np.ndarray, str]:
    """An image such as a network might give, and in words what was done to it."""
    height, width = sharp.shape[:2]
    direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 6)
    angle = rng.choice([0, rng.normal(0, 0.1)])
    tilt = rng.choice([0, rng.normal(0, 2e-6)])
    gain, sigma, noise = rng.uniform(0.8, 1.2), rng.choice([0, rng.uniform(0.5, 3)]), rng.choice([0, 0.01, 0.03])
    patches = int(rng.integers(0, 4))
    matrix = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1), [tilt, -tilt, 1]])
    matrix[:2, 2] += length * np.cos(direction), length * np.sin(direction)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    image = cv2.warpPerspective(sharp, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    if sigma:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    for _ in range(patches):
        y, x = int(rng.integers(height * 3 // 4)), int(rng.integers(width * 4 // 5))
        window = image[y : y + height // 4, x : x + width // 5]
        window[:] = cv2.blur(window, (int(rng.integers(width // 140, width // 30)), 1))
    image = eight_bits(gain * image + noise * rng.standard_normal(image.shape).astype(np.float32))
    return image, (
        f"shift {length:.1f} px, {angle:+.2f} deg, tilt {tilt:+.0e}, gain {gain:.2f}, blur {sigma:.1f} px, "
        f"noise {noise:.2f}, {patches} patches"
    )


def published(image: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error over all values after the published alignment."""
    scaled = image * np.float32((image * target).sum(dtype=np.float64) / (image * image).sum(dtype=np.float64))
    grey_target, grey_scaled = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (target, scaled))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    _, homography = cv2.findTransformECC(
        grey_target, grey_scaled, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, 5
    )
    size = target.shape[1], target.shape[0]
    cubic, nearest = (mode | cv2.WARP_INVERSE_MAP for mode in (cv2.INTER_CUBIC, cv2.INTER_NEAREST))
    warped = cv2.warpPerspective(scaled, homography, size, flags=cubic, borderMode=cv2.BORDER_REFLECT)
    valid = cv2.warpPerspective(np.ones_like(scaled), homography, size, flags=nearest)
    return float(np.mean(((warped - target) * valid) ** 2, dtype=np.float64))


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Result and CPU seconds."""
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def alignments(width: int, height: int, cases: int) -> Iterator[dict[str, Any]]:
    """Both routines on each case."""
    sharp = photograph(width, height)
    for case in range(cases):
        image, words = disturbed(sharp, default_rng(case))
        expected, before = timed(published, image, sharp)
        error, after = timed(lambda image=image: aligned_error(image, sharp, over_valid_area=False))
        yield {
            "case": words,
            "psnr_a": -10 * np.log10(error),
            "difference_db": 10 * np.log10(expected / error),
            "published_s": before,
            "seconds": after,
            "speed_up": before / after,
        }


def gaussian_means(width: int, runs: int) -> float:
    """Median over runs of how many times as fast shifts are as a convolution."""
    strip = torch.rand(1, 3, STRIP_PIXELS // width + 10, width, dtype=torch.float64)
    ratios = []
    for _ in range(runs):
        slow, fast = (timed(mean, strip)[1] for mean in (mean_by_convolution, mean_by_shifts))
        ratios.append(slow / fast)
    return float(np.median(ratios))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--size", default="2152x1436")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = []
    for row in alignments(width, height, options.cases):
        rows.append(row)
        if not options.json:
            print(
                f"{row['psnr_a']:.2f} dB {row['difference_db']:+.4f}, {row['published_s']:.1f} s against "
                f"{row['seconds']:.1f} s, {row['speed_up']:.1f}x  ({row['case']})",
                flush=True,
            )
    summary = {
        "opencv": cv2.__version__,
        "median_speed_up": float(np.median([row["speed_up"] for row in rows])),
        "least_speed_up": min(row["speed_up"] for row in rows),
        "largest_difference_db": max(abs(row["difference_db"]) for row in rows),
        "gaussian_mean_speed_up": gaussian_means(width, runs=9),
    }
    if options.json:
        print(json.dumps(summary | {"cases": rows}))
        return
    print(f"OpenCV {summary['opencv']}, {len(rows)} cases of {width}x{height}, one thread:")
    print(f"  PSNR_a {summary['median_speed_up']:.1f}x as fast (median), {summary['least_speed_up']:.1f}x (least)")
    print(f"  largest difference of the value {summary['largest_difference_db']:.4f} dB")
    print(f"  SSIM's mean by shifts {summary['gaussian_mean_speed_up']:.1f}x as fast as by convolution (float64)")


if __name__ == "__main__":
    main()
