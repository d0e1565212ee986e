"""What cases are made of: small scenes and their masks, encoders, makers of folders.

Nothing of contorno is used, so the corpus can be given to other tools too.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from corpus.case import Make

Array = NDArray[Any]
Content = Callable[[int], bytes]  # from the number of a pair to what is in its file
SIDE = 48

# --- scenes


def as_bytes(values: Array) -> Array:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


@cache
def shapes(seed: int, height: int = SIDE, width: int = SIDE, radius: float = 0.13) -> Array:
    """(H, W) of 0 outside and 1, 2, 3 in three discs: a tenth to a fifth of the pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    numbers = np.zeros((height, width), np.uint8)
    for number in (1, 2, 3):  # in three columns, so that none hides another
        centre_y = rng.uniform(0.2, 0.8) * height
        centre_x = (number - 0.5 + rng.uniform(-0.1, 0.1)) * width / 3
        reach = radius * rng.uniform(0.8, 1.1) * min(height, width)
        numbers[(y - centre_y) ** 2 + (x - centre_x) ** 2 < reach**2] = number
    return numbers


@cache
def scene(seed: int, height: int = SIDE, width: int = SIDE) -> Array:
    """(H, W, 3) uint8: bright discs before clouds that no other seed has, with noise."""
    rng = np.random.default_rng(1000 + seed)
    clouds = Image.fromarray(rng.integers(20, 150, (5, 5, 3), dtype=np.uint8))
    ground = np.asarray(clouds.resize((width, height), Image.Resampling.BILINEAR), float)
    bright = 80 * (shapes(seed, height, width) > 0)[..., None]
    noise = rng.normal(0, 6, (height, width, 3))
    return as_bytes(ground + bright + noise)


def grey(seed: int) -> Array:
    """(H, W) uint8."""
    return np.asarray(Image.fromarray(scene(seed)).convert("L"))


def binary(seed: int, low: int = 0, high: int = 255, kind: Any = np.uint8) -> Array:
    """(H, W) of two values."""
    return np.where(shapes(seed) > 0, high, low).astype(kind)


def sized(seed: int, height: int, width: int) -> Array:
    """(H, W) of 0 and 255, in any size."""
    return np.where(shapes(seed, height, width) > 0, 255, 0).astype(np.uint8)


def classed(seed: int, values: tuple[int, ...] = (0, 1, 2, 1), kind: Any = np.uint8) -> Array:
    """(H, W): a value for the ground and for each of the three discs."""
    return np.array(values, kind)[shapes(seed)]


def instances(seed: int, first: int = 1, kind: Any = np.uint8) -> Array:
    """(H, W) of 9 to 16 numbered squares on 0."""
    rng = np.random.default_rng(2000 + seed)
    numbers = np.zeros((SIDE, SIDE), kind)
    chosen = sorted(rng.permutation(16)[: rng.integers(9, 17)])
    for number, cell in enumerate(chosen, start=first):
        y, x = 12 * (cell // 4) + 2, 12 * (cell % 4) + 2
        numbers[y : y + 6, x : x + 6] = number
    return numbers


def smooth(seed: int) -> Array:
    """(H, W) uint8: a mask drawn at another size and scaled, so with soft edges."""
    small = Image.fromarray(sized(seed, 37, 37))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def heat(seed: int) -> Array:
    """(H, W) uint8: a heat map, with a slope from every centre down to 0."""
    rng = np.random.default_rng(3000 + seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    total = np.zeros((SIDE, SIDE))
    for centre_y, centre_x in rng.uniform(8, 40, (3, 2)):
        total += np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 150)
    return as_bytes(255 * total / total.max())


# --- encoders


def encode(array: Array, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """A file made by Pillow."""
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, format=form, **options)
    return buffer.getvalue()


def png(array: Array) -> bytes:
    return encode(array)


def decoded(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)))


def deep_png(array: Array) -> bytes:
    """16 bits, colour or with alpha, which Pillow cannot write."""
    return bytes(imagecodecs.png_encode(array))


def jpeg(array: Array, quality: int = 90, **options: Any) -> bytes:
    return encode(array, "JPEG", quality=quality, **options)


def tiff(array: Array, **options: Any) -> bytes:
    """A file made by tifffile: (H, W), or (H, W, C) in one page."""
    if "photometric" not in options:
        colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype.kind == "u"
        options["photometric"] = "rgb" if colour else "minisblack"
    if array.ndim == 3:
        options.setdefault("planarconfig", "contig")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def pages(*arrays: Array, **options: Any) -> bytes:
    """A TIFF of one page for each array."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for array in arrays:
            writer.write(array, metadata=None, contiguous=False, **options)
    return buffer.getvalue()


def animation(form: str, *arrays: Array) -> bytes:
    """A GIF, WebP or PNG of several frames."""
    first, *others = [Image.fromarray(array) for array in arrays]
    buffer = io.BytesIO()
    first.save(buffer, format=form, save_all=True, append_images=others, duration=100)
    return buffer.getvalue()


def indexed(values: Array, colours: Array, form: str = "PNG", **options: Any) -> bytes:
    """A palette image: indices (H, W) and the (K, 3) colours that they stand for."""
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette(colours.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def voc_colours() -> Array:
    """(256, 3): the palette of Pascal VOC, in which many tools save masks."""
    table = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                table[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return table


def oriented(upright: Array, orientation: int, form: str = "JPEG") -> bytes:
    """A picture stored as a camera held otherwise stores it, with the EXIF tag that undoes it."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # Image.Transpose
    picture = Image.fromarray(upright)
    if undo is not None:
        picture = picture.transpose(Image.Transpose(undo))
    if form == "TIFF":
        return tiff(np.asarray(picture), extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, format=form, exif=exif)
    return buffer.getvalue()


# --- damage


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes, where: int) -> bytes:
    """One byte with all its bits turned over."""
    return data[:where] + bytes([data[where] ^ 255]) + data[where + 1 :]


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    )


def png_saying(width: int, height: int, colour: int = 0) -> bytes:
    """A PNG that declares a size and holds a handful of pixels."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return png_header(width, height, colour=colour) + pixels + chunk(b"IEND", b"")


@cache
def png_bomb(side: int = 20_000) -> bytes:
    """A valid PNG of 1 bit per pixel, all zero: 400 million pixels in 50 kB."""
    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    return png_header(side, side, depth=1) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def webp_bomb(side: int = 16_384) -> bytes:
    """A valid lossless WebP of one colour: each code has one symbol, so pixels take no bits."""
    bits = f"{side - 1:014b}"[::-1] * 2 + "0" + "000"  # width, height, alpha, version
    bits += "0" + "0" + "0"  # no transform, no colour cache, no second prefix code
    bits += ("1" + "0" + "0" + "0") * 5  # a simple code, of one symbol, of 1 bit: 0
    bits += "0" * (-len(bits) % 8)
    body = b"\x2f" + bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    body += bytes(len(body) % 2)
    head = b"WEBPVP8L" + struct.pack("<I", len(body))
    return b"RIFF" + struct.pack("<I", len(head) + len(body)) + head + body


def bmp_saying(width: int, height: int) -> bytes:
    size = struct.pack("<IHHI", 54 + 100, 0, 0, 54)
    return (
        b"BM" + size + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6) + bytes(100)
    )


def tiff_saying(width: int, height: int, samples: int = 1, where: int = 8) -> bytes:
    """A TIFF of one strip that declares a size and holds 100 bytes."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, where),
        (277, 3, samples),
        (278, 4, height),
        (279, 4, 100),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + table + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + directory


def jpeg_saying(width: int, height: int) -> bytes:
    data = jpeg(scene(90))
    where = data.index(b"\xff\xc0") + 5
    return data[:where] + struct.pack(">HH", height, width) + data[where + 4 :]


def gif_saying(width: int, height: int) -> bytes:
    frame = struct.pack("<HHHHB", 0, 0, width, height, 0)
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
        + b"," + frame + b"\x02\x02L\x01\0;"
    )  # fmt: skip


# --- makers of folders


@cache
def photo(seed: int) -> bytes:
    return png(scene(seed))


@cache
def grey_photo(seed: int) -> bytes:
    return png(grey(seed))


@cache
def drawn(seed: int) -> bytes:
    return png(binary(seed))


def coded(*values: int, kind: Any = np.uint8) -> Content:
    """Masks of these values, see `classed`."""
    return lambda seed: png(classed(seed, values, kind))


ODD = 90  # the number of the odd pair, far from those of the good ones
PHOTO, DRAWN = photo(ODD), drawn(ODD)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def steps(*makes: Make) -> Make:
    """One after the other."""

    def make(folder: Path) -> None:
        for step in makes:
            step(folder)

    return make


def file(name: str, data: bytes) -> Make:
    return lambda folder: write(folder / name, data)


def files(image: str | None, mask: str | None, data: bytes = PHOTO, drawing: bytes = DRAWN) -> Make:
    """Five good pairs, an image and a mask by their names, either of which may be missing."""
    made = [GOOD]
    made += [file(f"images/{image}", data)] if image else []
    made += [file(f"masks/{mask}", drawing)] if mask else []
    return steps(*made)


def each(pattern: str, content: Content, numbers: Iterable[int] = range(5)) -> Make:
    """A file for every number, such as images/p0.png."""

    def make(folder: Path) -> None:
        for number in numbers:
            write(folder / pattern.format(number), content(number))

    return make


def lines(name: str, *words: str) -> Make:
    return file(name, "".join(word + "\n" for word in words).encode())


def pairs(
    image: Content = photo,
    mask: Content = drawn,
    *,
    count: int = 5,
    first: int = 0,
    stem: str = "p{}",
    ends: tuple[str, str] = (".png", ".png"),
) -> Make:
    """`count` images and masks by number: p0.png, p1.png ..."""

    def make(folder: Path) -> None:
        for number in range(first, first + count):
            name = stem.format(number)
            write(folder / f"images/{name}{ends[0]}", image(number))
            write(folder / f"masks/{name}{ends[1]}", mask(number))

    return make


GOOD = pairs()


def odd(
    image: bytes | None = PHOTO,
    mask: bytes | None = DRAWN,
    *,
    base: Make = GOOD,
    stem: str = "odd",
    ends: tuple[str, str] = (".png", ".png"),
) -> Make:
    """Five good pairs and one that is odd; None: no such file."""
    made = [base]
    made += [] if image is None else [file(f"images/{stem}{ends[0]}", image)]
    made += [] if mask is None else [file(f"masks/{stem}{ends[1]}", mask)]
    return steps(*made)


def link(name: str, target: str) -> Make:
    """A symbolic link; `target` as the link will hold it."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)

    return make


def node(name: str, *, socket: bool = False) -> Make:
    """A FIFO or a socket."""
    kind = stat.S_IFSOCK if socket else stat.S_IFIFO

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(folder / name, kind | 0o600)

    return make


def subfolder(name: str) -> Make:
    return lambda folder: (folder / name).mkdir(parents=True)


def mode(name: str, bits: int) -> Make:
    return lambda folder: (folder / name).chmod(bits)


def removed(name: str) -> Make:
    return lambda folder: (folder / name).unlink()
