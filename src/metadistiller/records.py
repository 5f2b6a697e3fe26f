"""What a run leaves behind: one folder, plain files, nothing that executes.

config.yaml          the Config, every default written out
events.jsonl         one JSON object a line: what happened, when (seconds since the run began, over all resumes)
results.csv          one row an epoch; holds no clock, so a resumed run writes the very same file
result.json          written last but for the report: the run is finished when it is there
evaluation.json      counts behind the result: top-1 and top-5 of every output, confusion matrix of the final one
soft_targets.json    test images with soft targets, exits and final output; mean entropies over the test set (Fig. 3)
outcomes.safetensors what every output says of the test images (outcomes/)
mistakes.json        test images that the final output is most certain of and wrong about
early_exit.json      when an exit may answer, where `metadistiller calibrate` was run
checkpoints/         hashed folders, see engine/checkpoint.py
model.safetensors    the plain network
teacher.safetensors  the trained second network, for a method that has one; teacher/ is its run where it came first
log.txt              what a person watching without a terminal sees
report.html          all of the above to look at
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .errors import CheckpointError, ConfigError


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that a reader sees the old one or the new one and never half of either."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def file_sha256(path: str | Path) -> str:
    """As 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises: CheckpointError naming the file where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; is {path.parent} the folder of a finished run?") from None
    # Brackets enough, or digits enough in one number, are no JSONDecodeError.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); it was damaged or edited") from None


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results.csv"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def soft_targets(self) -> Path:
        return self.path / "soft_targets.json"

    @property
    def outcomes(self) -> Path:
        return self.path / "outcomes.safetensors"

    @property
    def mistakes(self) -> Path:
        return self.path / "mistakes.json"

    @property
    def early_exit(self) -> Path:
        return self.path / "early_exit.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher.safetensors"

    @property
    def teacher_run(self) -> Path:
        """Where a teacher is trained that was not there before."""
        return self.path / "teacher"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        return self.result.exists()

    @classmethod
    def is_free(cls, path: str | Path) -> bool:
        """Whether a folder that exists can be a new run's: empty, or with half of a config.yaml and nothing else, as a
        process leaves it that was killed while it wrote that.
        """
        folder = cls(path)
        half = folder.config.with_name(folder.config.name + ".tmp")
        return folder.path.is_dir() and all(inside == half for inside in folder.path.iterdir())

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """A new folder with its config.yaml. Raises: ConfigError where something is there already."""
        folder = cls(path)
        if folder.path.exists() and not cls.is_free(path):
            raise ConfigError(
                f"{path} exists and is not empty; continue that run with 'metadistiller resume {path}', "
                "or choose another --out"
            )
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_text(folder.config, text)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that was begun. Raises: CheckpointError where it is none."""
        folder = cls(path)
        if not folder.config.is_file():
            raise CheckpointError(f"{path} is no run folder (no {folder.config.name} in it); check the path")
        return folder

    def read_config(self) -> dict[str, Any]:
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # YAML's own words come in several lines.
            raise CheckpointError(f"{self.config} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{self.config} holds no settings; it was damaged or edited")
        return values

    def differences(self, wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """Name, value here and value wanted of every setting that both have and that is not the same.

        A setting that the run does not have is one that there was not when it began.

        Args:
            wanted: a Config as a dictionary.
        Raises: CheckpointError where config.yaml cannot be read.
        """
        return list(differences(self.read_config(), wanted))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile. Raises: CheckpointError where somebody does.

        The operating system lets go of the lock when the process ends, however it ends.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(f"{self.path} is being trained by another process; wait for it to end") from None
            yield

    def is_trained(self) -> bool:
        """Whether somebody trains in this folder now."""
        try:
            with self.locked():
                return False
        except CheckpointError:
            return True

    def append_event(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"event": kind, **fields}, allow_nan=False).encode() + b"\n"
        with self.events.open("a+b") as file:
            # A kill may have cut the last line short; it stays alone on its line.
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)

    def read_events(self) -> Iterator[dict[str, Any]]:
        """The events in order; a line that a kill or a power cut has cut short is left out."""
        if not self.events.exists():
            return
        with self.events.open(encoding="utf-8") as file:
            for line in file:
                event = _object(line)
                if event is not None:
                    yield event

    def read_rows(self) -> list[dict[str, str]]:
        if not self.results.exists():
            return []
        with self.results.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """All rows at once: a method whose later epochs have more parts widens the table."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.results, text.getvalue())

    def rewind(self, epochs_done: int) -> None:
        """Drop the rows of epochs that a resumed run will do again."""
        rows = [row for row in self.read_rows() if int(row["epoch"]) < epochs_done]
        if rows:
            self.write_rows(list(rows))
        else:
            self.results.unlink(missing_ok=True)


def compared_run(out: str | Path, label: str, seed: int) -> RunFolder:
    """Where `metadistiller compare` has the run of a row, METHOD or METHOD:OPTION=VALUE, with a seed."""
    name = label.replace(":", "-").replace("=", "_").replace("/", "_").replace(" ", "-")
    return RunFolder(Path(out) / name / f"s{seed}")


def differences(here: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name and both values of what two Configs, as dictionaries, both have and have otherwise."""
    for key in (key for key in wanted if key in here):
        before, now = here[key], wanted[key]
        if isinstance(before, dict) and isinstance(now, dict) and before.get("name") == now.get("name"):
            yield from ((f"{key}.{inner}", *values) for inner, *values in differences(before, now))
        elif before != now:
            yield key, before, now


def source_commit() -> str | None:
    """The commit that this package runs from, with "-dirty" where its files differ; None outside a git checkout."""
    package = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", *words], cwd=package, capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside the checkout of something else.
    if git("ls-files", "--error-unmatch", str(Path(__file__))) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--", ".") else commit
