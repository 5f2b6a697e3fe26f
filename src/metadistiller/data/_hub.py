"""The Hugging Face hub: a data set by its name, from the hub or from the cache of an earlier time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError

_PATIENCE = 5.0  # seconds for one answer; the library itself would try for half a minute


def library() -> Any:
    """The module `datasets`. Raises: ConfigError where it is not there, or so old that data could bring code along."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "data sets of the Hugging Face hub need its library: pip install 'metadistiller[hf]'"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ConfigError(
            f"datasets is {datasets.__version__}, in which a data set can bring code of its own that would be run; "
            "take 4 or later: pip install -U 'metadistiller[hf]'"
        )
    return datasets


def loaded(
    name: str, config: str | None, *, revision: str | None, cache: str | None
) -> tuple[Mapping[str, Any], str | None]:
    """The parts of a data set by name, mapped from the cache, and the commit on the hub; None where it was not asked.

    Args:
        name: NAME or OWNER/NAME.
        config: one of several that the data set may have; None where it has one.
        revision: branch, tag or commit; None for the newest.
        cache: folder; None for the library's own.
    Raises: ConfigError without the library. DataError where the data set cannot be had.
    """
    datasets = library()
    # The library would take a folder of this name for the data set.
    if Path(name).exists():
        raise DataError(
            f"hf:{name}: {Path(name).resolve()} has the same name and would be read in place of the data set of the "
            f"hub; start from another folder, or give it as --data {name}"
        )
    commit, reason = _commit(name, revision)
    if commit is None:
        _check_cached(datasets, name, revision, cache, reason)
    try:
        found = datasets.load_dataset(name, config, revision=revision, cache_dir=cache)
    # Whatever the hub, the cache or the readers of a dozen file formats have to say.
    except Exception as error:
        said = _words(error)
        fix = "give one of them as --data.config" if "config" in said.lower() else "is it a data set of images?"
        raise DataError(f"hf:{name} cannot be loaded ({said}); {fix}") from error
    return found, commit


def _commit(name: str, revision: str | None) -> tuple[str | None, str]:
    """The commit, or None and why the hub gave no answer. Raises: DataError where the answer is no."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=_PATIENCE).sha, ""
    except RevisionNotFoundError as error:
        raise DataError(f"hf:{name} has no revision {revision!r}; give another --data.revision") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"hf:{name}: the hub has no such data set, or it may not be read without leave; check the name at "
            "https://huggingface.co/datasets, or log in with `hf auth login`"
        ) from error
    # Each version of the hub's library has other errors of the connection.
    except Exception as error:
        return None, _words(error)


def _check_cached(datasets: Any, name: str, revision: str | None, cache: str | None, reason: str) -> None:
    """Raises: DataError where there is nothing in the cache, or not the revision."""
    place = Path(cache or datasets.config.HF_DATASETS_CACHE).expanduser()
    *owner, own = name.split("/")
    # As the library names it: OWNER___NAME/CONFIG/VERSION/COMMIT.
    folder = place / "___".join([*owner, datasets.naming.camelcase_to_snakecase(own)])
    commits = {path.name for path in folder.glob("*/*/*") if path.is_dir()}
    if not commits:
        raise DataError(
            f"hf:{name}: the hub cannot be reached ({reason}) and {place} has no copy; run once with a connection, "
            "set HF_HOME to a cache that has one, or give its parquet files as --data FOLDER"
        )
    # Without a connection the library takes the newest copy, whatever the revision.
    if revision is not None and commits != {revision}:
        raise DataError(
            f"hf:{name}: the hub cannot be reached ({reason}), and without it {folder} cannot be told to be revision "
            f"{revision!r}; run once with a connection, or leave --data.revision out"
        )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
