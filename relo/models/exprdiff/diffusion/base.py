"""The base model: SDXL, or what has its layout, from a folder or from the Hugging Face hub.

Every part is loaded by diffusers' own `from_pretrained(base, subfolder=...)`, so that a folder and a name on the
hub take the same path, and only the parts that are needed are read. Only safetensors are read: a pickle could run
code.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relo.errors import ConfigError, MissingExtraError, TrainingError

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
NO_BASE = f"A folder in the layout of diffusers, or a name on the Hugging Face hub such as {SDXL}"
_CONFIG_FILES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


@dataclass(frozen=True)
class BaseModel:
    """Where the base model is, and how it is read.

    Attributes
    ----------
    name : str
        Folder, or name on the hub.
    variant : str, optional
        Which files of weights, for example "fp16", which is half of what there is to download.
    offline : bool
        Take from the hub only what is in its cache already.
    cache_dir : path, optional
        Where the hub's cache is, instead of its usual place.
    revision : str, optional
        Which version on the hub.
    """

    name: str
    variant: str | None = None
    offline: bool = False
    cache_dir: Path | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("no base model is given", advice=f"{NO_BASE}: base=NAME.")

    def unet(self, dtype: torch.dtype = torch.float32) -> Any:
        """Load the UNet, in evaluation mode, on the CPU."""
        return self.load("diffusers", "UNet2DConditionModel", "unet", dtype).eval()

    def vae(self, dtype: torch.dtype = torch.float32) -> Any:
        """Load the autoencoder. In float16 that of SDXL overflows: use float32 or bfloat16."""
        return self.load("diffusers", "AutoencoderKL", "vae", dtype).eval()

    def scheduler(self, kind: str) -> Any:
        """Build the scheduler class `kind` of diffusers from the base model's settings."""
        return self.load("diffusers", kind, "scheduler")

    def load(self, package: str, kind: str, subfolder: str, dtype: torch.dtype | None = None) -> Any:
        """Load one part.

        Parameters
        ----------
        package : str
            "diffusers" or "transformers".
        kind : str
            Name of its class.
        subfolder : str
            Where the part lies in the base model.
        dtype : torch.dtype, optional
            Of a network's parameters.

        Raises
        ------
        MissingExtraError
            The package is not installed.
        TrainingError
            There is no such base model or part of it, it is damaged, or it is not in the cache and `offline`.
        """
        require_packages(package)
        folder = Path(self.name)
        if folder.is_dir():
            self._require_part(folder, subfolder)
        elif folder.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") != 1:
            raise TrainingError("there is no such base model", file=folder, advice=f"{NO_BASE}.")
        known: dict[str, Any] = {"subfolder": subfolder, "local_files_only": self.offline or folder.is_dir()}
        known |= {"cache_dir": self.cache_dir, "revision": self.revision}
        if "Tokenizer" not in kind and "Scheduler" not in kind:
            known["use_safetensors"] = True
            known["variant"] = self.variant
        if dtype is not None:
            known["torch_dtype"] = dtype
        known = {key: value for key, value in known.items() if value is not None}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecation warnings of both packages
                _silence(package)
                return getattr(importlib.import_module(package), kind).from_pretrained(self.name, **known)
        except MemoryError:
            raise
        # A damaged or foreign folder can fail in any way: JSON, missing keys, shapes, safetensors, network.
        except Exception as error:
            raise self._explained(error, folder, subfolder) from error

    def _require_part(self, folder: Path, subfolder: str) -> None:
        wanted = folder / subfolder / _CONFIG_FILES.get(subfolder.removesuffix("_2"), "config.json")
        if not wanted.is_file():
            raise TrainingError(
                f"is no base model: it has no {wanted.relative_to(folder)}", file=folder, advice=f"{NO_BASE}."
            )

    def _explained(self, error: Exception, folder: Path, subfolder: str) -> TrainingError:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        first = first[:200].rstrip(".")
        if folder.is_dir():
            variant = f" (variant {self.variant})" if self.variant else ""
            return TrainingError(
                f"its {subfolder}{variant} cannot be read ({first})",
                file=folder,
                advice="Download it again, as safetensors, or give another base model.",
            )
        if self.offline:
            return TrainingError(
                f"the base model {self.name} ({subfolder}) is not in the cache of the hub, and offline is set",
                advice="Download it once with offline=false, or give a folder.",
            )
        return TrainingError(
            f"the base model {self.name} ({subfolder}) cannot be had from the hub ({first})",
            advice="Check the name and the network, or give a folder.",
        )


def require_packages(*packages: str) -> None:
    """Raise MissingExtraError for the first of `packages` that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "exprdiff")


def _silence(package: str) -> None:
    """Turn off progress bars over tensors, and what is logged of every try that fails: the error tells it.

    Progress bars of downloads, which take long, stay.
    """
    importlib.import_module("huggingface_hub.utils.logging").set_verbosity_error()
    if package == "transformers":
        importlib.import_module("transformers.utils.logging").disable_progress_bar()
    else:
        logging.getLogger("diffusers.models.model_loading_utils").setLevel(logging.CRITICAL)
