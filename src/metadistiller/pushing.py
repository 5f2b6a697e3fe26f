"""The plain network of a run, with its card, on the Hugging Face hub."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._version import __version__
from .config import require
from .engine.export import find_format
from .errors import CheckpointError, ConfigError, MetaDistillerError, PushError
from .exporting import Exported, export
from .records import RunFolder

_HUB = "hf:"


def push(
    run: str | Path, where: str, *, format: str = "safetensors", int8: bool = False, private: bool = False
) -> tuple[str, Exported]:
    """Export a finished run's network, proved as ever, and upload it with its card; what `metadistiller push` does.

    A README.md on the hub that is not a card of ours stays as it is.

    Args:
        where: hf:NAME or hf:OWNER/NAME; made where it is not there yet.
        format: safetensors, torch or onnx.
        int8: as `export` has it.
        private: of a repository that is made now: only its owner sees it.
    Returns: the address, and what was exported.
    Raises: ConfigError for a name that cannot be one and where there is no token; CheckpointError for a run that is not
        finished; ExportError; PushError where the hub cannot be reached or refuses.
    """
    found = find_format(format)
    require(
        bool(found.suffix),
        "format",
        format,
        "push takes safetensors, torch or onnx; a folder of stages is no model of the hub",
    )
    hub = _library()
    name = _checked_name(hub, where)
    folder = RunFolder.open(run)
    if not folder.finished:
        # Of a run under way there is a checkpoint, but no result for the card to speak of.
        raise CheckpointError(
            f"{run} is not finished, and what others get should be what its result speaks of; "
            f"'metadistiller resume {run}' finishes it, and 'metadistiller export' takes it as it is"
        )
    if hub.get_token() is None:
        raise ConfigError("there is no token of the hub; log in with 'hf auth login', or set HF_TOKEN")
    api = hub.HfApi(library_name="metadistiller", library_version=__version__)
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as fetched:
        upload = Path(place)
        with _said_plainly(hub, name):
            if (theirs := _page_there(hub, api, name, Path(fetched))) is not None:
                (upload / "README.md").write_bytes(theirs)
        # The name under which the hub's own tools look for weights.
        done = export(run, upload / f"model{found.suffix}", format=format, int8=int8)
        with _said_plainly(hub, name):
            # None leaves it to the owner's own default.
            address = api.create_repo(name, private=private or None, exist_ok=True)
            api.upload_folder(
                repo_id=address.repo_id, folder_path=upload, commit_message=f"metadistiller {__version__}: {format}"
            )
    return str(address), done


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise ConfigError("push needs the hub's library: pip install 'metadistiller[hub]'") from None
    return huggingface_hub


def _checked_name(hub: Any, where: str) -> str:
    require(where.startswith(_HUB), "the place to push to", where, "take hf:NAME or hf:OWNER/NAME")
    name = where.removeprefix(_HUB)
    try:
        hub.utils.validate_repo_id(name)
    except hub.errors.HFValidationError as error:
        raise ConfigError(f"{where!r} is no name on the hub: {' '.join(str(error).split())}") from None
    return name


def _page_there(hub: Any, api: Any, name: str, folder: Path) -> bytes | None:
    """README.md of the repository; None where it, or the whole repository, is not there."""
    try:
        found = api.hf_hub_download(name, "README.md", local_dir=folder)
    except (hub.errors.RepositoryNotFoundError, hub.errors.RemoteEntryNotFoundError):
        return None
    return Path(found).read_bytes()


@contextmanager
def _said_plainly(hub: Any, name: str) -> Iterator[None]:
    try:
        yield
    except MetaDistillerError:
        raise
    except hub.errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reason = {
            401: "it does not know the token; log in anew with 'hf auth login', or correct HF_TOKEN",
            403: "the token may not write there; take a name of your own, or a token with the right to write",
        }.get(status or 0, " ".join(str(error).split())[:300])
        raise PushError(f"hf:{name}: the hub answers {status}: {reason}") from None
    # What does not even come to an answer has another class in each library that the hub's has used.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise PushError(
            f"hf:{name}: the hub cannot be reached ({type(error).__name__}: {reason}); nothing was uploaded that "
            "is not there whole; try again"
        ) from None
