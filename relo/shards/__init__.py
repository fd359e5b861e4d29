"""The HDF5 format: schema, writer, reader, and the main job that makes shards from a session."""

from typing import TYPE_CHECKING, Any

from relo.shards.reader import Dataset, Sample, Shard, open_dataset

if TYPE_CHECKING:
    from relo.shards.build import process_session
    from relo.shards.config import ProcessConfig
    from relo.shards.writer import ShardWriter

__all__ = ["Dataset", "ProcessConfig", "Sample", "Shard", "ShardWriter", "open_dataset", "process_session"]


def __getattr__(name: str) -> Any:
    """Reading shards needs none of the image libraries that making them needs."""
    if name == "process_session":
        from relo.shards.build import process_session

        return process_session
    if name == "ShardWriter":
        from relo.shards.writer import ShardWriter

        return ShardWriter
    if name == "ProcessConfig":
        from relo.shards.config import ProcessConfig

        return ProcessConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
