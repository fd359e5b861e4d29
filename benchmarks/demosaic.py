"""Speed of relo's Menon demosaicing against colour-demosaicing's, and the largest difference.

    python benchmarks/demosaic.py [--json]

One thread each; the median of the ratios of alternating runs. The reference runs in float64, as it does by
default.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numba
import numpy as np

from relo.postprocess import demosaic_menon

SIZES = ((1436, 2152), (2872, 4304))


def measure(shape: tuple[int, int], runs: int) -> dict[str, float]:
    """Median times [s] and ratio for one frame size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from colour_demosaicing import demosaicing_CFA_Bayer_Menon2007 as reference

    mosaic = np.random.default_rng(0).random(shape, dtype=np.float32)
    demosaic_menon(mosaic[:64, :64], "RGGB")  # compile
    ours, theirs, difference = [], [], 0.0
    for _ in range(runs):
        start = time.perf_counter()
        result = demosaic_menon(mosaic, "RGGB")
        middle = time.perf_counter()
        expected = reference(mosaic.astype(np.float64), "RGGB")
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
        difference = max(difference, float(np.abs(result - expected).max()))
    return {
        "relo_s": float(np.median(ours)),
        "reference_s": float(np.median(theirs)),
        "ratio": float(np.median(np.array(theirs) / np.array(ours))),
        "largest_difference": difference,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numba.set_num_threads(1)
    figures = {f"{shape[1]}x{shape[0]}": measure(shape, options.runs) for shape in SIZES}
    if options.json:
        print(json.dumps(figures))
        return
    for size, figure in figures.items():
        print(
            f"{size}: {figure['ratio']:.1f}x as fast ({figure['relo_s']:.3f} s, colour-demosaicing "
            f"{figure['reference_s']:.2f} s), largest difference {figure['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
