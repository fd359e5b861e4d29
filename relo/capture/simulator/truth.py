"""`truth.h5`: what a simulated session was made from.

```
/cameras/{B,S}/alpha              (3, H, W) float32   factor that undoes the colour cast; 1 at the centre
/cameras/B/gain                   (3,)      float64   factor that brings B to S, after the cast is undone
/scenes/<scene>/flow              (H, W, 2) float32   (dx, dy) [px]: B(x + flow(x)) shows what S(x) shows
/scenes/<scene>/pairs/<id>/sharp  (H, W, 3) float32   linear sRGB, no noise, cast or gain; S geometry
/scenes/<scene>/pairs/<id>/blur   (H, W, 3) float32   the same, integrated over t_long; S geometry
/scenes/<scene>/pairs/<id>/mask   (H, W)    uint8     255 where an object covered > 5 % at any time of t_long
```
Root attributes: `format`, `config` (JSON). Scene: `bumped_pairs` (JSON list of ids), `bump_px` (dx, dy),
`static_level_{B,S}`, `whiteboard_level_{B,S}`. Pair: `mask_share`, `bump_px`, `level_{B,S}` (light during the
exposure, 1 unless it flickers; divided out of `sharp` and `blur`), and per object, back to front, `blur_px`
and `sharp_px` (way during t_long and t_short), `start`, `end` (centre, (n, 2)).
For a bumped pair B(x + flow(x) + bump_px) shows what S(x) shows.
Everything is in un-mirrored geometry: that of B's saved frames flipped left-right, if the rig is mirrored.
`sharp` and `blur` are clipped to [0, 1] and rounded to 2^-16, below any sensor's noise: it halves the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from relo.capture.simulator.config import SimulationConfig
from relo.config import canonical_json

if TYPE_CHECKING:
    import h5py

FORMAT = "relo-truth"


def start(file: h5py.File, config: SimulationConfig) -> None:
    """Write the root attributes."""
    file.attrs["format"] = FORMAT
    file.attrs["config"] = canonical_json(config.model_dump(mode="json"))


def put_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Store `array` in compressed tiles; without time stamps, so that equal content is equal bytes."""
    tile = {2: (256, 256), 3: (256, 256, 3)}[array.ndim]
    if array.ndim == 3 and array.shape[0] == 3:
        tile = (1, 256, 256)
    chunks = tuple(min(a, b) for a, b in zip(array.shape, tile, strict=True))
    group.create_dataset(
        name,
        data=array,
        chunks=chunks,
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        track_times=False,
    )


def quantised(radiance: np.ndarray) -> np.ndarray:
    """Clip to [0, 1] and round to multiples of 2^-16; float32."""
    clipped = np.clip(radiance, 0, 1)
    clipped *= 65536
    return np.ldexp(np.round(clipped, out=clipped), -16).astype(np.float32)
