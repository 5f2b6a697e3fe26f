"""The plain network as one file that says how it is used; proved on test images before it takes its place.

A format is one public module here with a FORMAT (see _format.py), and nothing is listed anywhere else.

safetensors.py     weights, and in the header how to use them; answers bitwise as the trained network
torch_program.py   a program of torch.export
onnx_graph.py      a graph for ONNX Runtime and others
onnx_stages.py     a folder of such graphs, one a stage, and when an image may leave between them
_format.py         what a format must give
_header.py         what every file says of itself
_pixels.py         the network with its normalisation before it
_proof.py          the file's answers beside the trained network's
_quantised.py      the ONNX graph with whole numbers of 8 bits
"""

from pathlib import Path

from ...errors import ConfigError, UnknownName
from ...lookup import modules
from ...records import RunFolder
from ._format import Format, Opened
from ._header import Described, described
from ._proof import Proof, export_network
from ._quantised import Quantised, quantise_network
from .onnx_stages import TABLE, with_policy
from .safetensors import NetworkFile, load_network, save_network, shows_alike

__all__ = [
    "Described",
    "Format",
    "NetworkFile",
    "Opened",
    "Proof",
    "Quantised",
    "check_name",
    "described",
    "export_network",
    "find_format",
    "formats",
    "is_exported",
    "load_network",
    "open_network",
    "quantise_network",
    "save_network",
    "shows_alike",
    "with_policy",
]


def formats() -> dict[str, Format]:
    """Every format by name."""
    return {module.FORMAT.name: module.FORMAT for module in modules(__name__)}


def find_format(name: str) -> Format:
    """Raises: UnknownName with the near miss."""
    known = formats()
    if name not in known:
        raise UnknownName("export format", name, known)
    return known[name]


def open_network(path: Path) -> Opened:
    """A network from its file alone, whoever wrote that; the end of its name says which format it has.

    Raises: CheckpointError naming file and reason; ConfigError where a package is missing that reads it.
    """
    known = formats()
    suffix = "" if path.is_dir() else path.suffix
    # A file with any other name is one of safetensors, as it has been since there was no other format.
    found = next((each for each in known.values() if suffix == each.suffix), known["safetensors"])
    if path.is_file() and not found.suffix:
        found = known["safetensors"]
    return found.open(path)


def is_exported(path: Path) -> bool:
    """Whether it is a file, or a folder of exported stages and no run folder."""
    return path.is_file() or ((path / TABLE).is_file() and not RunFolder(path).config.exists())


def check_name(path: Path, found: Format) -> None:
    """Raises: ConfigError where `path` cannot be the name of such a file or folder."""
    if not path.name or path.name == "..":
        raise ConfigError(f"--out {path} is a place without a name of its own; name a file or folder in it")
    if not found.suffix:
        if path.exists() and not (path.is_dir() and (is_exported(path) or not any(path.iterdir()))):
            raise ConfigError(f"--out {path} is there and is no folder of exported stages; name a new folder")
        return
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file, such as {path / f'network{found.suffix}'}")
    others = {each.suffix for each in formats().values() if each.suffix} - {found.suffix}
    if path.suffix in others or (found.strict and path.suffix != found.suffix):
        raise ConfigError(
            f"--out {path} cannot be a file of the format {found.name!r}; end its name in {found.suffix}, or name "
            "another --format"
        )
