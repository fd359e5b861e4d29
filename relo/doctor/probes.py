"""Try out what might be broken, each in a child process: a crash there is an answer, not the end of us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TIMEOUT_S = 120


def run_probe(name: str) -> dict[str, Any]:
    """Run one of `PROBES` in a child process; {"error": text} where it fails, crashes or hangs."""
    code = f"from relo.doctor.probes import print_probe; print_probe({name!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_TIMEOUT_S} s"}
    lines = done.stdout.strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"error": last or f"ended with code {done.returncode}"}


def print_probe(name: str) -> None:
    """Run a probe and print its answer as the last line: what the child process does."""
    try:
        answer = PROBES[name]()
    except Exception as error:  # whatever a broken library raises is the answer
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _probe_cv2() -> dict[str, Any]:
    import cv2

    needed = ("bgsegm", "optflow", "createBackgroundSubtractorMOG2")
    return {"version": cv2.__version__, "missing": [name for name in needed if not hasattr(cv2, name)]}


def _probe_hdf5() -> dict[str, Any]:
    import h5py
    import hdf5plugin
    import numpy as np

    data = np.arange(4096, dtype=np.uint16)
    with h5py.File("doctor.h5", "w", driver="core", backing_store=False) as file:
        compression = hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=hdf5plugin.Blosc.BITSHUFFLE)
        dataset = file.create_dataset("x", data=data, chunks=(1024,), **compression)
        file.flush()
        same = bool((dataset[()] == data).all())
    return {"same": same, "hdf5": h5py.version.hdf5_version}


def _probe_demosaicing() -> dict[str, Any]:
    import warnings

    warnings.simplefilter("ignore")
    from colour_demosaicing import demosaicing_CFA_Bayer_Menon2007

    return {"function": demosaicing_CFA_Bayer_Menon2007.__name__}


def _probe_numba() -> dict[str, Any]:
    import numba

    # The decorator looks for a folder it can write to and fails where there is none; nothing is compiled.
    function = numba.njit(cache=True)(_nothing)
    return {"cache": str(function.stats.cache_path)}


def _nothing() -> int:
    return 0


def _probe_torch() -> dict[str, Any]:
    import torch

    devices = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            devices.append(f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": devices,
        "mps": torch.backends.mps.is_available(),
        "driver": Path("/proc/driver/nvidia/version").exists(),
    }


def _probe_torchvision() -> dict[str, Any]:
    import torchvision

    return {"version": torchvision.__version__}


def _probe_pyflow() -> dict[str, Any]:
    import pyflow

    return {"optical_flow": hasattr(pyflow, "coarse2fine_flow")}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "cv2": _probe_cv2,
    "hdf5": _probe_hdf5,
    "colour-demosaicing": _probe_demosaicing,
    "numba": _probe_numba,
    "torch": _probe_torch,
    "torchvision": _probe_torchvision,
    "pyflow": _probe_pyflow,
}
