"""Images that unfold to far more than their files, or are none: each must be refused by its header and by name."""

import io
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from _hostile import Attempt
from PIL import Image

from metadistiller.data import folder, imagenet, table


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 1, rows: int | None = None, extra: bytes = b"") -> bytes:
    """A grayscale PNG, black; `rows` of them are there, all by default."""
    row = bytes(1 + -(-width * depth // 8))
    deflate = zlib.compressobj(9)
    body = b"".join(deflate.compress(row) for _ in range(height if rows is None else rows)) + deflate.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    data = stream.getvalue()
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def _webp(width: int, height: int) -> bytes:
    """An extended header that claims so much."""
    claim = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + claim
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _encoded(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, form)
    return stream.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "88 million pixels in a quarter of a megabyte": lambda: png(9400, 9400),
    "177 million pixels": lambda: png(13300, 13300, rows=100),
    "26 million pixels": lambda: png(5100, 5100),
    "one row of 26 million pixels": lambda: png(26_000_000, 1),
    "one column of 26 million pixels": lambda: png(1, 26_000_000, rows=100),
    "a header of 10 to the 10 pixels": lambda: png(100_000, 100_000, depth=8, rows=0),
    "a header of the largest sides": lambda: png(2**31 - 1, 2**31 - 1, depth=8, rows=0),
    "a header of 16 bits": lambda: png(20_000, 20_000, depth=16, rows=0),
    "BMP": lambda: _bmp(60_000, 60_000),
    "BMP upside down": lambda: _bmp(60_000, -60_000),
    "JPEG": lambda: _jpeg(65_500, 65_500),
    "JPEG of one row": lambda: _jpeg(65_500, 600),
    "WebP": lambda: _webp(16_000, 16_000),
    "WebP of the largest sides": lambda: _webp(2**24, 2**24),
    "text that unfolds to 100 MB": lambda: png(
        20, 20, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))
    ),
    "a profile that unfolds to 100 MB": lambda: png(
        20, 20, extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))
    ),
    "PostScript": lambda: _encoded("EPS"),
    "TIFF": lambda: _encoded("TIFF"),
    "GIF": lambda: _encoded("GIF"),
    "ICO": lambda: _encoded("ICO"),
    "PDF": lambda: _encoded("PDF"),
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "pickle": lambda: pickle.dumps([]),
    "nothing": lambda: b"",
}


def attempts() -> Iterator[Attempt]:
    """Each of them among sound images, in every form that a data set of photographs has."""
    for name, made in BOMBS.items():
        for entrance, enter in ENTRANCES.items():
            yield Attempt(
                f"{name} in {entrance}",
                lambda root, canary, made=made, enter=enter: enter(root, made()),
            )


def _class_folders(root: Path, data: bytes) -> Path:
    for label in ("cat", "dog"):
        for part in ("train", "val"):
            place = root / "photos" / part / label
            place.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (20, 20), (number, 0, 0)).save(place / f"{number}.png")
    (root / "photos" / "train" / "cat" / "hostile.png").write_bytes(data)
    return root / "photos"


def _as_folder(root: Path, data: bytes) -> None:
    folder.build(folder.Options(root=str(_class_folders(root, data)), size=8))


def _as_imagenet(root: Path, data: bytes) -> None:
    # The limit of these two is 89 million pixels where none is given.
    options = imagenet.Options(root=str(_class_folders(root, data)), size=8, resize=8, workers=1, max_pixels=25_000_000)
    for _ in imagenet.build(options).train.batches(8):
        pass


def _as_table(root: Path, data: bytes) -> None:
    photos = _class_folders(root, data)
    paths = sorted(path.relative_to(root) for path in photos.rglob("*.png"))
    rows = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in paths]
    (root / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    options = table.Options(root=str(root / "labels.csv"), size=8, resize=8, workers=1, max_pixels=25_000_000)
    for _ in table.build(options).train.batches(8):
        pass


ENTRANCES: dict[str, Callable[[Path, bytes], None]] = {
    "class folders": _as_folder,
    "ImageNet's form": _as_imagenet,
    "a table": _as_table,
}
