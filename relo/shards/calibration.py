"""The calibration of a scene inside its shards: what was applied, readable with h5py alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np

from relo.shards.tiles import PLAIN_COMPRESSION

if TYPE_CHECKING:
    from relo.postprocess.calibration import SceneCalibration


def store_calibration(file: h5py.File, calibration: SceneCalibration) -> None:
    """Write `calibration` to the group `/calibration` of an open shard."""
    group = file.create_group("calibration")
    kept = []  # open until all is flushed: when Python closes them must not decide where their tiles lie
    for camera, cast in sorted(calibration.casts.items()):
        data = group.create_dataset(f"colour_{camera}", data=cast.coefficients)
        data.attrs["shape"] = cast.shape
        data.attrs["pattern"] = cast.pattern
        data.attrs["residual_peak_to_peak"] = cast.residual_peak_to_peak
        data.attrs["residual_rms"] = cast.residual_rms
        data.attrs["leave_one_out"] = cast.leave_one_out
        data.attrs["alpha_range"] = cast.alpha_range
        data.attrs["green_ratio"] = cast.green_ratio
        kept.append(data)
    kept.append(group.create_dataset("gain", data=np.array(calibration.gain.rgb)))
    balance = group.create_dataset("white_balance", data=np.array(calibration.wb))
    balance.attrs["source"] = calibration.wb_source
    kept += [balance, group.create_dataset("colour_matrix", data=np.asarray(calibration.colour_matrix, np.float64))]
    for name, image in sorted(calibration.previews.items()):
        kept.append(group.create_dataset(f"static/{name}", data=image, **PLAIN_COMPRESSION))
    flow = group.create_group("flow")
    flow.attrs["shape"] = calibration.flow.shape
    flow.attrs["method"] = calibration.flow.method
    flow.attrs["note"] = calibration.flow.note
    flow.attrs["misalignment_before"] = calibration.misalignment_before
    flow.attrs["misalignment_after"] = calibration.misalignment_after
    flow.attrs["psnr_before"] = calibration.psnr_before
    flow.attrs["psnr_after"] = calibration.psnr_after
    kept.append(flow.create_dataset("coefficients", data=calibration.flow.coefficients))
    if calibration.flow.residual is not None:
        residual = calibration.flow.residual
        kept.append(flow.create_dataset("residual", data=residual, chunks=True, compression="gzip", shuffle=True))
    file.flush()
