"""What a product was made with."""

from __future__ import annotations

from importlib import metadata

from relo import __version__

# Libraries whose version can change a processed pixel.
_NUMERICAL = (
    "numpy",
    "scipy",
    "opencv-contrib-python",
    "rawpy",
    "numba",
    "h5py",
    "hdf5plugin",
)


def library_versions() -> dict[str, str]:
    """Versions of relo and of the libraries that compute its pixels."""
    versions = {"relo": __version__}
    for name in _NUMERICAL:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
