"""The model card beside an exported network: README.md, with the head in YAML that the Hugging Face hub reads."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metadistiller.outcomes import output_names
from metadistiller.records import RunFolder, read_json

from ._markdown import code, table
from ._reading import printable

# By it an earlier card of ours is known, which a newer one may replace.
MARK = "<!-- written by metadistiller export; a newer export replaces it while this line is here -->"

# The same images on the hub, for data sets that have another name here.
_ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
_LIBRARIES = {"safetensors": "metadistiller", "torch": "pytorch", "onnx": "onnx", "onnx-stages": "onnx"}
_CLASSES = 20  # so many are named; all of them are in the file


@dataclass(frozen=True, kw_only=True)
class ShippedInt8:
    """The file of 8-bit numbers beside an ONNX graph: percent of `count` test images, and of the graph itself."""

    path: Path
    accuracy: float
    float_accuracy: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """An exported file, as far as its card speaks of it.

    Attributes:
        path, format: the file, and the name of its format.
        classes: C names.
        preparation: as the file's header has it.
        epochs_done, epochs: what the network has seen, and the run's own number.
        compared: test images on which it was proved.
        gap: the largest difference of a logit that there was, as a share of the largest; 0 for bitwise.
        calibrated: whether its exits answer by what `metadistiller calibrate` chose; of onnx-stages only.
        quantised: where there is one.
    """

    path: Path
    format: str
    classes: tuple[str, ...]
    preparation: Mapping[str, Any]
    epochs_done: int
    epochs: int
    compared: int
    gap: float
    calibrated: bool = False
    quantised: ShippedInt8 | None = None


def place(path: Path) -> Path:
    """Where the card of an exported file goes: README.md, or where somebody else's has that name, NAME.README.md."""
    card = path / "README.md" if path.is_dir() else path.with_name("README.md")
    if not card.exists() or MARK in card.read_text(encoding="utf-8", errors="replace"):
        return card
    return card.with_name(f"{path.name}.README.md")


def render(folder: RunFolder, shipped: Shipped) -> str:
    """The card; the same run and file give the same text.

    Raises: CheckpointError where a file of the run is damaged.
    """
    config = folder.read_config()
    model, data, method = (str(config[part]["name"]) for part in ("model", "data", "method"))
    accuracies = _accuracies(folder)
    parts = [
        _head(model, data, method, accuracies, shipped),
        f"{MARK}\n\n# {code(model)} on {code(_short(data))}",
        _introduction(model, data, method, config, shipped),
        f"## Use it\n\n{_use(shipped)}",
        f"## Results\n\n{_results(accuracies, shipped)}",
        f"## Training\n\n{_training(folder, config)}",
        f"## Limits\n\n{_limits(shipped)}",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracies(folder: RunFolder) -> dict[str, float]:
    """Percent on the test set by output, of the newest epoch that was evaluated; empty where none was."""
    if folder.finished:
        result = read_json(folder.result)
        percents = [*result["exits"], result["final"], result["ensemble"]]
    else:
        rows = [row for row in folder.read_rows() if row.get("final")]
        if not rows:
            return {}
        exits = [key for key in rows[-1] if re.fullmatch(r"exit_\d+", key)]
        percents = [rows[-1][key] for key in (*exits, "final", "ensemble")]
    return dict(zip([*output_names(len(percents) - 1), "ensemble"], map(float, percents), strict=True))


def _head(model: str, data: str, method: str, accuracies: Mapping[str, float], shipped: Shipped) -> str:
    repository = data.partition(":")[2] if data.startswith("hf:") else _ON_THE_HUB.get(data)
    tags = ["image-classification", "metadistiller", shipped.format, model, method]
    values: dict[str, Any] = {
        "pipeline_tag": "image-classification",
        "library_name": _LIBRARIES.get(shipped.format, "metadistiller"),
        "tags": [_short(tag) for tag in dict.fromkeys([*tags, *(["int8"] if shipped.quantised else [])])],
    }
    if repository is not None:
        values["datasets"] = [printable(repository)]
    values["metrics"] = ["accuracy"]
    # What is not finished has no result to be listed by.
    if "final" in accuracies and shipped.epochs_done == shipped.epochs:
        values["model-index"] = [
            {
                "name": _short(model),
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {"type": printable(repository or _short(data)), "name": _short(data)},
                        "metrics": [
                            {
                                "type": "accuracy",
                                "value": round(accuracies["final"] / 100, 6),
                                "name": "top-1 on the test set after the last epoch",
                            }
                        ],
                    }
                ],
            }
        ]
    # As its own characters, but for those that could end the head or cannot be shown.
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _short(words: str) -> str:
    """A name that can stand in a list of the hub's: no path of this machine, and printable."""
    return printable(os.path.basename(words.rstrip("/")) if os.path.isabs(words) else words)


def _introduction(model: str, data: str, method: str, config: Mapping[str, Any], shipped: Shipped) -> str:
    named = ", ".join(code(name) for name in shipped.classes[:_CLASSES])
    more = (
        f" and {len(shipped.classes) - _CLASSES} more, all of them in the file"
        if len(shipped.classes) > _CLASSES
        else ""
    )
    done = (
        f"{shipped.epochs} epochs"
        if shipped.epochs_done == shipped.epochs
        else f"{shipped.epochs_done} of {shipped.epochs} epochs: the run was not finished when this was exported"
    )
    held = (
        "Its early exits are here; nothing else of the training method is."
        if shipped.format == "onnx-stages"
        else "Nothing of the training method is in it."
    )
    return (
        f"An image classifier: the plain network {code(model)}, trained on {code(_short(data))} with {code(method)} "
        f"for {done}. {held}\n\n{len(shipped.classes)} classes: {named}{more}."
    )


def _block(kind: str, text: str) -> str:
    """Lines of code in a fence longer than any within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text}\n{fence}"


def _use(shipped: Shipped) -> str:
    # JSON's texts are Python's too, and in ASCII.
    name = json.dumps(printable(shipped.path.name))
    command = _block("sh", f"metadistiller predict {shlex.quote(printable(shipped.path.name))} image.jpg --top 3")
    return f"{_block('python', _SNIPPETS[shipped.format](name, shipped))}\n\nOr, with metadistiller:\n\n{command}"


def _picture(shipped: Shipped) -> list[str]:
    """Lines that make `picture` of a file, without this package."""
    how = shipped.preparation
    height, width = how["crop"]
    filter = f"Image.Resampling.{how['interpolation'].upper()}"
    opened = 'picture = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")'
    if how["resize"] is None:
        return [opened, f"picture = ImageOps.fit(picture, ({width}, {height}), {filter})"]
    return [
        opened,
        f"wide, tall = (int({how['resize']} * side / min(picture.size)) for side in picture.size)",
        f"left, top = round((wide - {width}) / 2), round((tall - {height}) / 2)",
        f"picture = picture.resize((wide, tall), {filter}).crop((left, top, left + {width}, top + {height}))",
    ]


def _onnx(name: str, shipped: Shipped) -> str:
    lines = [
        "import json",
        "import numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        *_picture(shipped),
        f"session = onnxruntime.InferenceSession({name})",
        'logits = session.run(None, {"images": np.array(picture).transpose(2, 0, 1)[None]})[0]',
        'print(json.loads(session.get_modelmeta().custom_metadata_map["network"])["classes"][logits.argmax()])',
    ]
    return "\n".join(lines)


def _torch(name: str, shipped: Shipped) -> str:
    lines = [
        "import json",
        "import numpy as np, torch",
        "from PIL import Image, ImageOps",
        "",
        *_picture(shipped),
        "extra = {'network': ''}",
        f"network = torch.export.load({name}, extra_files=extra).module()  # can run code: only from people you trust",
        "logits = network(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])",
        'print(json.loads(extra["network"])["classes"][logits.argmax()])',
    ]
    return "\n".join(lines)


def _safetensors(name: str, shipped: Shipped) -> str:
    lines = [
        "import metadistiller",
        "",
        f'answer = metadistiller.predict({name}, "image.jpg").answers[0]',
        "print(answer.name, answer.probability)",
    ]
    return "\n".join(lines)


def _stages(name: str, shipped: Shipped) -> str:
    lines = [
        "import json, pathlib",
        "import numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        *_picture(shipped),
        f"folder = {name}",
        'table = json.loads(pathlib.Path(folder, "early_exit.json").read_text())',
        "rows = np.array(picture).transpose(2, 0, 1)[None]",
        'for stage, temperature, threshold in zip(table["stages"], table["temperatures"], [*table["thresholds"], 0]):',
        """    session = onnxruntime.InferenceSession(f"{folder}/{stage['file']}")""",
        "    *maps, logits = session.run(None, {session.get_inputs()[0].name: rows})",
        "    shares = np.exp((logits - logits.max()) / temperature)",
        "    shares /= shares.sum()",
        "    if threshold is not None and shares.max() >= threshold:",
        "        break",
        "    rows = maps[0]",
        'print(table["classes"][logits.argmax()], stage["file"])',
    ]
    return "\n".join(lines)


_SNIPPETS = {"safetensors": _safetensors, "torch": _torch, "onnx": _onnx, "onnx-stages": _stages}


def _results(accuracies: Mapping[str, float], shipped: Shipped) -> str:
    held = (
        "The early exits are in the folder, and an image that one of them is certain of goes no further."
        if shipped.format == "onnx-stages"
        else "**Only the final output is in the file**; early exits and the ensemble were there in training."
    )
    lines = ["No epoch of the run was evaluated on the test set."]
    if accuracies:
        rows = [(name, f"{percent:.2f}") for name, percent in accuracies.items()]
        shown = table(("output", "top-1 on the test set, percent"), rows, left=1)
        lines = [
            shown,
            f"Of the newest epoch, chosen by no accuracy. {held}",
        ]
    proved = f"On {shipped.compared:,} test images the file gives"
    if shipped.gap == 0:
        lines.append(f"{proved} bitwise the logits of the trained network.")
    else:
        lines.append(
            f"{proved} the same class as the trained network, and logits that differ from its own by {shipped.gap:.1e} "
            "of the largest at most."
        )
    if (small := shipped.quantised) is not None:
        lines.append(
            f"{code(small.path.name)} is the same network with 8-bit whole numbers: {small.accuracy:.2f} % of "
            f"{small.count:,} test images are right, where {code(shipped.path.name)} has {small.float_accuracy:.2f} % "
            "of the same images."
        )
    return "\n\n".join(lines)


def _training(folder: RunFolder, config: Mapping[str, Any]) -> str:
    starts = [event for event in folder.read_events() if event.get("event") == "start"]
    command = str(starts[-1].get("command", "")) if starts else ""
    shown = _block("sh", printable(without_paths(command))) if command else "It was started from Python."
    numbers = ("epochs", "batch_size", "label_smoothing", "pretrained", "seed")
    settings = {part: config[part] for part in ("optim", "augment", "method") if part in config}
    text = yaml.safe_dump({**{key: config[key] for key in numbers if key in config}, **settings}, sort_keys=False)
    return f"{shown}\n\n{_block('yaml', text.rstrip())}"


def without_paths(command: str) -> str:
    """A command with the last names of absolute paths only: where things lie on a machine is nobody's business."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    shown = []
    for word in words:
        option, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
        value = os.path.basename(value.rstrip("/")) if os.path.isabs(os.path.expanduser(value)) else value
        shown.append(f"{option}{sign}{value}")
    return shlex.join(shown)


def _limits(shipped: Shipped) -> str:
    probabilities = (
        "- Its temperatures were fitted, and its thresholds chosen, on a part of the test images; pictures of another "
        "kind may need others."
        if shipped.calibrated
        else "- Its probabilities are those of training and are not calibrated."
    )
    lines = [
        "- It answers with one of its classes whatever the picture shows; it has no class for anything else.",
        probabilities,
        "- Its accuracy was measured on the test set named above. Pictures taken otherwise may be answered worse.",
    ]
    if shipped.quantised is not None:
        lines.append("- The ranges of the 8-bit numbers are those of training images; other pictures may leave them.")
    return "\n".join(lines)
