"""What the answers of the probes mean: one line for the list, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from relo.doctor.finding import Finding
from relo.doctor.packages import OPENCV_ADVICE

Verdict = tuple[str, list[Finding]]


def _judge_cv2(answer: dict[str, Any]) -> Verdict:
    if "error" in answer:
        return "cannot be imported", [Finding(f"cv2 cannot be imported ({answer['error']})", OPENCV_ADVICE)]
    if answer["missing"]:
        lacks = ", ".join(f"cv2.{name}" for name in answer["missing"])
        problem = f"this cv2 ({answer['version']}) lacks {lacks}: it is not that of opencv-contrib-python"
        return f"{answer['version']}, without {lacks}", [Finding(problem, OPENCV_ADVICE)]
    return f"{answer['version']}, with contrib modules", []


def _judge_hdf5(answer: dict[str, Any]) -> Verdict:
    if answer.get("same"):
        return f"HDF5 {answer['hdf5']}, Blosc filter writes and reads", []
    reason = answer.get("error", "other values came back")
    problem = f"shards cannot be written or read with the Blosc filter ({reason})"
    advice = "Run  pip install --force-reinstall -c constraints.txt h5py hdf5plugin"
    return "Blosc filter does not work", [Finding(problem, advice)]


def _judge_demosaicing(answer: dict[str, Any]) -> Verdict:
    if "error" not in answer:
        return "can be imported", []
    advice = "Run  pip install --force-reinstall -c constraints.txt colour-demosaicing"
    return "cannot be imported", [Finding(f"colour_demosaicing cannot be imported ({answer['error']})", advice)]


def _judge_numba(answer: dict[str, Any]) -> Verdict:
    if "error" not in answer:
        return f"compiled functions are kept in {_without_home(answer['cache'])}", []
    advice = "Set NUMBA_CACHE_DIR to a folder that can be written to."
    return "nothing can be kept", [Finding(f"numba cannot keep compiled functions ({answer['error']})", advice)]


def _judge_torch(answer: dict[str, Any]) -> Verdict:
    if "error" in answer:
        advice = "Run  pip install --force-reinstall -c constraints.txt torch"
        return "cannot be imported", [Finding(f"torch cannot be imported ({answer['error']})", advice)]
    build = f"CUDA {answer['cuda']}" if answer["cuda"] else "no CUDA"
    if answer["devices"]:
        return f"{answer['version']}, {build}, {'; '.join(answer['devices'])}", []
    text = f"{answer['version']}, {build}, {'Apple GPU (mps)' if answer['mps'] else 'no GPU'}"
    if not answer["driver"]:
        return text, []
    if not answer["cuda"]:
        problem = f"an NVIDIA driver is there, but torch {answer['version']} was built without CUDA"
        return text, [Finding(problem, "Install the CUDA build of torch, see https://pytorch.org/get-started")]
    problem = f"an NVIDIA driver is there, but torch (CUDA {answer['cuda']}) finds no GPU"
    return text, [Finding(problem, "Look at  nvidia-smi  and CUDA_VISIBLE_DEVICES; the driver may be too old.")]


def _judge_torchvision(answer: dict[str, Any]) -> Verdict:
    if "error" not in answer:
        return f"{answer['version']}; relo does not use it", []
    problem = f"torchvision is installed but cannot be imported ({answer['error']}); lightning may stumble over it"
    advice = "Run  pip uninstall torchvision  (relo does not need it), or install the build that fits torch."
    return "cannot be imported", [Finding(problem, advice)]


def _judge_pyflow(answer: dict[str, Any]) -> Verdict:
    if answer.get("optical_flow"):
        return "the optical flow; relo does not use it", []
    problem = "the package 'pyflow' from PyPI is installed: it is unrelated to the optical flow of the papers"
    advice = "Run  pip uninstall pyflow ; relo brings its own flow."
    return "not the optical flow", [Finding(problem, advice)]


def _without_home(path: str) -> str:
    """Write the home folder as "~": what is pasted into an issue should not name the user."""
    home = str(Path.home())
    return "~" + path[len(home) :] if len(home) > 1 and path.startswith(home) else path


VERDICTS: dict[str, Callable[[dict[str, Any]], Verdict]] = {
    "cv2": _judge_cv2,
    "hdf5": _judge_hdf5,
    "colour-demosaicing": _judge_demosaicing,
    "numba": _judge_numba,
    "torch": _judge_torch,
    "torchvision": _judge_torchvision,
    "pyflow": _judge_pyflow,
}
