"""Bytes that are no image, half an image, or the promise of far too large an image."""

from __future__ import annotations

import base64
import gzip
import io
import struct
from collections.abc import Callable
from functools import partial

import numpy as np

from corpus.case import Case, Make, case, fine, hopeless, refused, under
from corpus.parts import (
    DRAWN,
    ODD,
    PHOTO,
    Array,
    binary,
    bmp_saying,
    chunk,
    deep_png,
    encode,
    flipped,
    gif_saying,
    grey,
    half,
    jpeg,
    jpeg_saying,
    odd,
    pages,
    pairs,
    png,
    png_bomb,
    png_header,
    png_saying,
    scene,
    tiff,
    tiff_saying,
    webp_bomb,
)

# --- not an image


def lfs(seed: int) -> bytes:
    """What lies in a clone where git-lfs is not installed."""
    words = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    return words.format("4d7a2146" * 8, 10_000 + seed).encode()


def numpy_file(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


OTHER_FILES = {
    "error as JSON": b'{"message": "Not Found"}',
    "error as XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "plain text": b"404: Not Found",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "zip": b"PK\3\4" + bytes(60),
    "PNG in gzip": gzip.compress(PHOTO, mtime=0),
    "PNG in base64": b"data:image/png;base64," + base64.b64encode(PHOTO),
    "NumPy array": numpy_file(scene(ODD)),
    "DICOM": bytes(128) + b"DICM" + bytes(60),
    "HEIC of a phone": struct.pack(">I", 24) + b"ftypheic" + bytes(200),
    "Photoshop": b"8BPS\0\1" + bytes(60),
    "nothing but zero bytes": bytes(4096),
    "one line end": b"\n",
}
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
SHOUTED_PAGE = b"\n\n<HTML><BODY>404</BODY></HTML>"

NOT_AN_IMAGE = under(
    "not an image (HTML, LFS pointer)",
    refused("not-an-image", {title: odd(data) for title, data in OTHER_FILES.items()}),
    refused(
        "not-an-image",
        {
            "web page as image": odd(WEB_PAGE),
            "web page as mask": odd(mask=WEB_PAGE),
            "web page in upper case": odd(SHOUTED_PAGE),
        },
        says=("odd", "web page"),
    ),
    refused(
        "not-an-image",
        {"LFS pointer as image": odd(lfs(1)), "LFS pointer as mask": odd(mask=lfs(1))},
        says=("odd", "git lfs pull"),
    ),
    hopeless(
        "not-an-image",
        {"LFS pointers": pairs(lfs, lfs), "LFS pointers for all masks": pairs(mask=lfs)},
        says=("git lfs pull",),
    ),
    case(
        "PNG sent as text",  # its first line end was changed on the way
        odd(PHOTO.replace(b"\r\n", b"\n")),
        good=5,
        also="not-an-image damaged",
    ),
)

# --- truncated and corrupt

ENCODERS: dict[str, tuple[str, Callable[[Array], bytes]]] = {
    "PNG": (".png", png),
    "JPEG": (".jpg", jpeg),
    "progressive JPEG": (".jpg", partial(jpeg, progressive=True)),
    "BMP": (".bmp", partial(encode, form="BMP")),
    "GIF": (".gif", partial(encode, form="GIF")),
    "WebP": (".webp", partial(encode, form="WEBP", lossless=True)),
    "TIFF": (".tif", tiff),
    "LZW TIFF": (".tif", partial(tiff, compression="lzw")),
    "zlib TIFF": (".tif", partial(tiff, compression="zlib")),
    "tiled TIFF": (".tif", partial(tiff, tile=(16, 16))),
    "BigTIFF": (".tif", partial(tiff, bigtiff=True)),
}


def cut(form: str, length: float | int, *, mask: bool = False) -> Make:
    """A file of some bytes, or of a share of its bytes, as the odd image or mask."""
    end, pack = ENCODERS[form]
    data = pack(binary(ODD) if mask else scene(ODD))
    data = data[: length if isinstance(length, int) else int(length * len(data))]
    return odd(mask=data, ends=(".png", end)) if mask else odd(data, ends=(end, ".png"))


def as_tif(data: bytes) -> Make:
    return odd(data, ends=(".tif", ".png"))


def as_jpg(data: bytes) -> Make:
    return odd(data, ends=(".jpg", ".png"))


HEADERS = [("PNG", 8), ("PNG", 40), ("JPEG", 4), ("JPEG", 200), ("TIFF", 8), ("TIFF", 100)]
HEADERS += [("BMP", 30), ("WebP", 16), ("GIF", 10)]
SHARED = ("PNG", "JPEG", "BMP", "GIF", "WebP", "TIFF", "zlib TIFF")

TRUNCATED = under(
    "truncated",
    refused("damaged", {f"half a {form}": cut(form, 0.5) for form in ENCODERS}),
    refused("damaged", {f"half a {form} as mask": cut(form, 0.5, mask=True) for form in SHARED}),
    refused("damaged", {f"{count} bytes of a {form}": cut(form, count) for form, count in HEADERS}),
    refused("damaged", {f"9/10 of a {form}": cut(form, 0.9) for form in ("PNG", "JPEG", "TIFF")}),
    refused(
        "damaged",
        {
            "half a 16-bit RGB PNG": odd(half(deep_png(scene(ODD).astype(np.uint16) * 257))),
            "half a 16-bit PNG": odd(half(png(grey(ODD).astype(np.uint16) * 257))),
            "half a TIFF of two pages": as_tif(half(pages(grey(ODD), grey(91)))),
            "bit error in a PNG": odd(flipped(PHOTO, len(PHOTO) // 2)),
            "bit error in a PNG mask": odd(mask=flipped(DRAWN, len(DRAWN) - 30)),
            "bit error in the header of a PNG": odd(flipped(PHOTO, 30)),
            "PNG without pixels": odd(png_header(48, 48) + chunk(b"IEND", b"")),
            "PNG with fewer rows than it says": odd(png_saying(48, 48)),
            "PNG of width 0": odd(png_saying(0, 48)),
            "JPEG of start and end only": as_jpg(b"\xff\xd8\xff\xd9"),
            "TIFF with fewer rows than it says": as_tif(tiff_saying(48, 48)),
            "TIFF whose pixels lie behind its end": as_tif(tiff_saying(10, 10, where=9999)),
            "TIFF whose directory lies behind its end": as_tif(b"II*\0\x0f\x27\0\0"),
            "TIFF of width 0": as_tif(tiff_saying(0, 48)),
        },
    ),
    hopeless("damaged", {"half of every mask": pairs(mask=lambda i: half(png(binary(i))))}, "p0"),
    case("PNG without its end mark", odd(PHOTO[:-12]), also="damaged"),
    fine(
        {
            "bytes after the end of a PNG": odd(PHOTO + b"\nsent by my phone"),
            "two JPEGs in one file": as_jpg(jpeg(scene(ODD)) + jpeg(scene(91))),
        }
    ),
)

# --- too large: headers by hand, as no test can afford the pixels

THIRTY = (30_000, 30_000)

TOO_LARGE = under(
    "30k x 30k",
    refused(
        "too-large",
        {
            "30k x 30k PNG": odd(png_saying(*THIRTY)),
            "30k x 30k colour PNG": odd(png_saying(*THIRTY, colour=2)),
            "2 billion x 2 billion PNG": odd(png_saying(2**31 - 1, 2**31 - 1)),
            "30k x 30k BMP": odd(bmp_saying(*THIRTY), ends=(".bmp", ".png")),
            "30k x 30k TIFF": as_tif(tiff_saying(*THIRTY)),
            "100 bands of 12k x 12k": as_tif(tiff_saying(12_000, 12_000, samples=100)),
            "30k x 30k JPEG": as_jpg(jpeg_saying(*THIRTY)),
            "65k x 65k GIF": odd(gif_saying(65_000, 65_000), ends=(".gif", ".png")),
            "30k x 30k mask": odd(mask=png_saying(*THIRTY)),
            "30k x 30k mask as TIFF": odd(mask=tiff_saying(*THIRTY), ends=(".png", ".tif")),
            "30k x 30k pair": odd(png_saying(*THIRTY), png_saying(*THIRTY)),
            "400 million pixels in 50 kB": odd(png_bomb(), png_bomb()),
            "268 million pixels in 40 bytes": odd(webp_bomb(), ends=(".webp", ".png")),
        },
    ),
)

DAMAGE: list[Case] = [*NOT_AN_IMAGE, *TRUNCATED, *TOO_LARGE]
