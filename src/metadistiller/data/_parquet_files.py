"""Parquet files as the Hugging Face hub writes them: opened, complete, and the class names in their metadata."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Raises: DataError where the file is damaged, also while it is read."""
    # Half a second of start-up that only this layout needs.
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and fetch it again") from error


def check_complete(shards: Sequence[Path]) -> None:
    """Raises: DataError where `train-00000-of-00002` has no second part beside it."""
    for path in shards:
        match = re.search(r"-of-(\d+)\b", path.name)
        if match and len(shards) != int(match[1]):
            raise DataError(
                f"{path} is one of {int(match[1])} parts, but {len(shards)} are in {path.parent}; "
                "fetch the others, or keep one complete set in the folder"
            )


def declared_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The classes as the hub's own entry in the file's metadata has them; None where there is no such entry."""
    try:
        entry = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(entry["info"]["features"][label]["names"])
    # Optional, written by others and of no fixed form: whatever is not as expected names no classes.
    except (ValueError, KeyError, TypeError):
        return None
