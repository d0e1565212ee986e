"""Pictures that are whole, but not what the others are or what a network expects."""

from __future__ import annotations

from typing import Any

import numpy as np

from corpus.case import Case, Make, fine, hopeless, refused, under, used
from corpus.parts import (
    ODD,
    SIDE,
    Array,
    Content,
    animation,
    binary,
    deep_png,
    encode,
    grey,
    grey_photo,
    indexed,
    jpeg,
    odd,
    oriented,
    pages,
    pairs,
    png,
    scene,
    sized,
    steps,
    tiff,
)

TIF, JPG = (".tif", ".png"), (".jpg", ".png")
GREYS = pairs(grey_photo)

# --- EXIF: a tag says by which of eight turns the stored picture is to be shown

UPRIGHT = (56, 40)  # height and width: a portrait


def exif(
    tag: int,
    mask: tuple[int, int] = UPRIGHT,
    *,
    size: tuple[int, int] = UPRIGHT,
    form: str = "JPEG",
) -> Make:
    """An upright scene stored under a tag, and a mask of some size."""
    end = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif"}[form]
    image = oriented(scene(ODD, *size), tag, form)
    return odd(image, png(sized(ODD, *mask)), ends=(end, ".png"))


def square_exif(tag: int) -> Make:
    return exif(tag, (SIDE, SIDE), size=(SIDE, SIDE))


def turned(seed: int) -> bytes:
    return oriented(scene(seed, *UPRIGHT), 6)


def turned_mask(seed: int) -> bytes:
    return oriented(sized(seed, *UPRIGHT), 6, "PNG")


EXIF = under(
    "EXIF rotation",
    fine(
        {
            "EXIF 1": exif(1),
            "EXIF 0, which means nothing": exif(0),
            "EXIF 9, which means nothing": exif(9),
            "EXIF that is rubbish": odd(
                jpeg(scene(ODD), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), ends=JPG
            ),
        }
    ),
    fine({f"EXIF {tag}, mask as stored": exif(tag, UPRIGHT[::-1]) for tag in (5, 6, 7, 8)}),
    used(
        "exif-rotation",
        {f"EXIF {tag}, mask upright": exif(tag) for tag in (5, 6, 7, 8)}
        | {
            f"EXIF 6 in {form}, mask upright": exif(6, form=form)
            for form in ("PNG", "WEBP", "TIFF")
        },
        clean=True,
    ),
    used(
        "exif-rotation",
        {f"EXIF {tag}, cannot be told": exif(tag) for tag in (2, 3, 4)}
        | {f"EXIF {tag}, square": square_exif(tag) for tag in (2, 3, 5, 6, 7, 8)}
        | {"EXIF 3 in PNG": exif(3, form="PNG")},
        says="odd EXIF",
    ),
    used(
        "exif-rotation",
        {
            "EXIF 6 in all, masks upright": pairs(
                turned, lambda i: png(sized(i, *UPRIGHT)), ends=JPG
            )
        },
        says="",
        good=5,
        clean=True,
    ),
    refused("size-mismatch", {"EXIF 6, mask of neither size": exif(6, (30, 30))}),
    fine(
        {"EXIF 6 in image and mask": odd(turned(ODD), turned_mask(ODD), ends=JPG)},
        also="exif-rotation",
    ),
)

# --- types


def deep(seed: int) -> Array:
    """(H, W) uint16 over the whole range."""
    return grey(seed).astype(np.uint16) * 257


def wide(seed: int) -> Array:
    """(H, W, 3) uint16 over the whole range."""
    return scene(seed).astype(np.uint16) * 257


def tiffs(kind: Any, scale: float = 1, offset: float = 0) -> Make:
    """Grey TIFFs of one type."""
    return pairs(lambda i: tiff((grey(i) * float(scale) + offset).astype(kind)), ends=TIF)


def among(image: bytes, base: Make, ends: tuple[str, str] = TIF) -> Make:
    return odd(image, base=base, ends=ends)


DEEP = pairs(lambda i: png(deep(i)))
FLOATS = tiffs(np.float32, 1 / 255)
FLOAT = tiff((grey(ODD) / 255).astype(np.float32))

TYPES = [
    *under(
        "16-bit",
        fine(
            {
                "16-bit grey PNG": DEEP,
                "16-bit RGB PNG": pairs(lambda i: deep_png(wide(i))),
                "16-bit TIFF": tiffs(np.uint16, 257),
                "12 bits in 16": tiffs(np.uint16, 16),
                "big-endian TIFF": pairs(lambda i: tiff(deep(i), byteorder=">"), ends=TIF),
                "signed 16 bits, as in CT": tiffs(np.int16, 8, -1000),
                "32-bit integers": tiffs(np.int32, 1000),
                "32-bit unsigned": tiffs(np.uint32, 1000),
            },
            good=5,
        ),
        refused(
            "mixed-type",
            {
                "16-bit among 8-bit": odd(png(deep(ODD)), base=GREYS),
                "16-bit RGB among 8-bit": odd(deep_png(wide(ODD))),
                "8-bit among 16-bit": odd(png(grey(ODD)), base=DEEP),
            },
            says="odd uint8 uint16",
        ),
        used("other-range", {"8-bit range in 16 bits": odd(png(deep(ODD) // 257), base=DEEP)}),
        # Nearly black, which an empty field under the microscope is too.
        fine({"0/1 among 0..255": odd(png(grey(ODD) // 128), base=GREYS)}, also="other-range"),
    ),
    *under(
        "float",
        fine(
            {
                "float 0..1": FLOATS,
                "float 0..255": tiffs(np.float32),
                "float below 0": tiffs(np.float32, 1, -128.5),
                "float64": tiffs(np.float64, 1 / 255),
                "float16": tiffs(np.float16, 1 / 255),
            },
            good=5,
        ),
        refused(
            "mixed-type",
            {
                "float among 8-bit": among(FLOAT, GREYS),
                "8-bit among float": among(tiff(grey(ODD)), FLOATS),
            },
            says="odd float32 uint8",
        ),
        used(
            "other-range",
            {"float 0..255 among 0..1": among(tiff(grey(ODD) * np.float32(1)), FLOATS)},
        ),
        fine(
            {"complex numbers": among(tiff(grey(ODD).astype(np.complex64)), GREYS)},
            good=5,
            exact=False,
        ),
    ),
]


def holed(value: float, where: Any = (7, 9), kind: Any = np.float32, seed: int = ODD) -> bytes:
    """A float picture that is no number in places."""
    values = (grey(seed) / 255).astype(kind)
    values[where] = value
    return tiff(values)


NOT_FINITE = under(
    "NaN/Inf",
    refused(
        "not-finite",
        {
            "one NaN": among(holed(np.nan), FLOATS),
            "one infinity": among(holed(np.inf), FLOATS),
            "minus infinity": among(holed(-np.inf), FLOATS),
            "NaN frame": among(holed(np.nan, np.s_[:4]), FLOATS),
            "NaN everywhere": among(holed(np.nan, np.s_[:]), FLOATS),
            "beyond float32": among(holed(1e300, kind=np.float64), FLOATS),
        },
    ),
    hopeless("not-finite", {"NaN in all": pairs(lambda i: holed(np.nan, seed=i), ends=TIF)}, "p0"),
)

# --- colours


def mode(name: str, form: str, end: str) -> Make:
    """One image of another Pillow mode among RGB ones."""
    return odd(encode(scene(ODD), form, name), ends=(end, ".png"))


def with_alpha(array: Array, alpha: int | Array) -> Array:
    return np.dstack([array, np.full(array.shape[:2], alpha, array.dtype)])


def palette() -> Array:
    """(256, 3): from blue to yellow."""
    ramp = np.arange(256)
    return np.stack([ramp, ramp, 255 - ramp], axis=1).astype(np.uint8)


def bits(form: str, **options: Any) -> Content:
    return lambda seed: encode(grey(seed) > 100, form, **options)


def four_bits(seed: int) -> bytes:
    """A palette PNG of 16 greys."""
    return indexed(grey(seed) // 16, np.linspace(0, 255, 16)[:, None].repeat(3, 1), bits=4)


VARYING = scene(91)[..., 0]
PALETTE_TIFF = tiff(grey(ODD), photometric="palette", colormap=palette().T.astype(np.uint16) * 257)
UNUSED_ENTRY = indexed(np.minimum(grey(ODD), 254), palette(), transparency=255)
OPAQUE_WEBP = encode(with_alpha(scene(ODD), 255), "WEBP", lossless=True)

COLOURS = [
    *under(
        "CMYK",
        used(
            "ink",
            {"CMYK JPEG": mode("CMYK", "JPEG", ".jpg"), "CMYK TIFF": mode("CMYK", "TIFF", ".tif")},
        ),
        used(
            "ink",
            {"CMYK in all": pairs(lambda i: encode(scene(i), "JPEG", "CMYK"), ends=JPG)},
            "",
            5,
        ),
    ),
    *under(
        "palette",
        fine(
            {
                "palette PNG": mode("P", "PNG", ".png"),
                "palette GIF": mode("P", "GIF", ".gif"),
                "palette BMP": mode("P", "BMP", ".bmp"),
                "palette TIFF": odd(PALETTE_TIFF, ends=TIF),
                "palette, no pixel transparent": odd(UNUSED_ENTRY),
            }
        ),
        fine(
            {
                "every image in a palette": pairs(lambda i: indexed(grey(i), palette())),
                "palettes of 4 bits": pairs(four_bits),
            },
            good=5,
        ),
    ),
    *under(
        "LA/RGBA",
        fine(
            {
                "RGBA, opaque": odd(png(with_alpha(scene(ODD), 255))),
                "RGBA, transparent all over": odd(png(with_alpha(scene(ODD), 0))),
                "RGBA WebP, opaque": odd(OPAQUE_WEBP, ends=(".webp", ".png")),
                "LA, opaque": odd(png(with_alpha(grey(ODD), 255)), base=GREYS),
            }
        ),
        fine(
            {
                "16-bit RGBA, opaque": pairs(lambda i: deep_png(with_alpha(wide(i), 65535))),
                "RGBA in all, alpha varies": pairs(
                    lambda i: png(with_alpha(scene(i), grey(i + 9)))
                ),
            },
            good=5,
        ),
        refused(
            "mixed-channels",
            {"RGBA, alpha varies": odd(png(with_alpha(scene(ODD), VARYING)))},
            says="odd 4 3",
        ),
        refused(
            "mixed-channels",
            {"LA, alpha varies": odd(png(with_alpha(grey(ODD), VARYING)), base=GREYS)},
            says="odd 2 1",
        ),
    ),
    *under(
        "1-bit",
        fine(
            {
                "1-bit PNG": pairs(bits("PNG")),
                "1-bit fax TIFF": pairs(bits("TIFF", compression="group4"), ends=TIF),
            },
            good=5,
        ),
        fine(
            {
                "1-bit among 8-bit": odd(bits("PNG")(ODD), base=GREYS),
                "1-bit image and mask": odd(bits("PNG")(ODD), png(binary(ODD) > 0), base=GREYS),
            }
        ),
    ),
]

# --- pages and bands


def multiband(seed: int, count: int = 5, kind: Any = np.uint8, **options: Any) -> bytes:
    """A TIFF (H, W, count), which no colour space explains."""
    parts = [scene(seed + 100 * part) for part in range(1 + count // 3)]
    return tiff(np.dstack(parts)[..., :count].astype(kind), photometric="minisblack", **options)


def planar(seed: int) -> bytes:
    """Five bands, plane after plane."""
    planes = np.moveaxis(np.dstack([scene(seed), scene(seed + 100)])[..., :5], -1, 0)
    return tiff(np.ascontiguousarray(planes), photometric="minisblack", planarconfig="separate")


def stack(seed: int) -> bytes:
    """The three channels as three pages."""
    return pages(*np.moveaxis(scene(seed), -1, 0))


FRAMES = [scene(seed) for seed in (ODD, 91, 92)]
FIVE = pairs(multiband, ends=TIF)
WITH_PREVIEW = animation("MPO", scene(ODD), scene(ODD)[::2, ::2])

PAGES = [
    *under(
        "multi-page",
        refused(
            "several-pages",
            {
                "TIFF of 3 pages": odd(stack(ODD), ends=TIF),
                "GIF of 3 frames": odd(animation("GIF", *FRAMES), ends=(".gif", ".png")),
                "WebP of 3 frames": odd(animation("WEBP", *FRAMES), ends=(".webp", ".png")),
                "PNG of 3 frames": odd(animation("PNG", *FRAMES)),
                "mask of 3 pages": odd(mask=pages(*map(binary, (1, 2, 3))), ends=TIF[::-1]),
            },
            says="odd 3",
        ),
        hopeless("several-pages", {"3 pages in all": pairs(stack, ends=TIF)}, "p0"),
        fine({"photo with a preview": odd(WITH_PREVIEW, ends=JPG)}),
    ),
    *under(
        "pages as channels",
        fine({"3 pages as channels": pairs(stack, ends=TIF)}, good=5, options={"pages": True}),
    ),
    *under(
        "mixed channel counts",
        fine(
            {
                "one grey among colour": odd(png(grey(ODD))),
                "one colour among grey": odd(base=GREYS),
                "grey and colour by halves": steps(
                    pairs(count=3), pairs(grey_photo, count=3, first=3)
                ),
            }
        ),
        refused("mixed-channels", {"5 among 3": odd(multiband(ODD), ends=TIF)}, "odd 5 3"),
        refused("mixed-channels", {"3 among 5": among(tiff(scene(ODD)), FIVE)}, "odd 3 5"),
        refused("mixed-channels", {"2 among 3": odd(multiband(ODD, 2), ends=TIF)}, "odd 2 3"),
        refused("mixed-channels", {"grey among 5": among(tiff(grey(ODD)), FIVE)}, "odd 1 5"),
    ),
    *under(
        "more than 4 bands",
        fine(
            {
                "5 bands": FIVE,
                "5 bands, plane after plane": pairs(planar, ends=TIF),
                "6 bands of float": pairs(lambda i: multiband(i, 6, np.float32), ends=TIF),
                "13 bands of 16 bits": pairs(lambda i: multiband(i, 13, np.uint16), ends=TIF),
                "64 bands": pairs(lambda i: multiband(i, 64), ends=TIF),
            },
            good=5,
        ),
        refused("mixed-channels", {"4 among 5": among(multiband(ODD, 4), FIVE)}, "odd 4 5"),
    ),
]

# --- sizes and contents


def of_size(height: int, width: int) -> Make:
    return odd(png(scene(ODD, height, width)), png(sized(ODD, height, width)))


def one_pixel(seed: int) -> bytes:
    return png(scene(seed)[20:21, 20:21])


def one_value(seed: int) -> bytes:
    return png(np.full((1, 1), 255 * (seed % 2), np.uint8))


def flat(*value: int) -> bytes:
    """A picture of one colour."""
    return png(np.full((SIDE, SIDE, len(value)), value, np.uint8).squeeze())


SIZES = [
    *under(
        "1 pixel",
        used("tiny", {"1 x 1": odd(one_pixel(ODD), one_value(ODD))}, also="constant-image"),
        used("tiny", {"1 x 48": of_size(48, 1), "48 x 1": of_size(1, 48)}, also="extreme-aspect"),
        used(
            "tiny",
            {"1 x 1 in all": pairs(one_pixel, one_value)},
            says="",
            good=5,
            also="constant-image near-duplicate duplicate-image other-mask other-range",
        ),
        refused("size-mismatch", {"1 x 1 mask of a whole image": odd(mask=one_value(1))}),
    ),
    *under(
        "smaller than the crop",
        used("tiny", {"12 x 12": of_size(12, 12), "40 x 15": of_size(15, 40)}),
        fine({"16 x 16": of_size(16, 16)}),
        used(
            "tiny",
            {
                "12 x 12 in all": pairs(
                    lambda i: png(scene(i, 12, 12)), lambda i: png(sized(i, 12, 12))
                )
            },
            says="",
            good=5,
        ),
    ),
    *under(
        "extreme aspect",
        used(
            "extreme-aspect",
            {
                "16 x 256": of_size(256, 16),
                "256 x 16": of_size(16, 256),
                "2000 x 20": of_size(20, 2000),
            },
        ),
        fine({"10 : 1": of_size(20, 200)}),
    ),
    *under(
        "constant",
        used("constant-image", {"black": odd(flat(0, 0, 0))}, also="other-range"),
        used(
            "constant-image",
            {
                "white": odd(flat(255, 255, 255)),
                "one colour": odd(flat(200, 30, 90)),
                "one grey": odd(flat(128), base=GREYS),
                "one float": among(tiff(np.full((SIDE, SIDE), 0.5, np.float32)), FLOATS),
            },
        ),
        used(
            "constant-image",
            {"constant in all": pairs(lambda i: flat(40 * i + 20))},
            says="",
            good=5,
            also="near-duplicate other-range other-mask",
        ),
    ),
]

IMAGES: list[Case] = [*EXIF, *TYPES, *NOT_FINITE, *COLOURS, *PAGES, *SIZES]
