"""Masks of every coding, and masks that are none."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from corpus.case import Case, Make, case, fine, hopeless, refused, under, used
from corpus.parts import (
    DRAWN,
    GOOD,
    ODD,
    SIDE,
    Array,
    Content,
    as_bytes,
    binary,
    classed,
    coded,
    decoded,
    drawn,
    encode,
    grey,
    heat,
    indexed,
    jpeg,
    odd,
    pairs,
    png,
    scene,
    shapes,
    sized,
    smooth,
    steps,
    tiff,
    voc_colours,
)

VOC = voc_colours()
EMPTY = png(np.zeros((SIDE, SIDE), np.uint8))


def masks(mask: Content, end: str = ".png") -> Make:
    """A whole set of masks of one coding."""
    return pairs(mask=mask, ends=(".png", end))


def mask(data: bytes, most: Content = drawn, end: str = ".png") -> Make:
    """One mask unlike the rest."""
    return odd(mask=data, base=masks(most), ends=(".png", end))


# --- sizes


def portrait(seed: int) -> bytes:
    return png(scene(seed, 56, 40))


TRANSPOSED = odd(
    portrait(ODD),
    png(sized(ODD, 40, 56)),
    base=pairs(portrait, lambda i: png(sized(i, 56, 40))),
)

SIZES = [
    *under(
        "other size than the image",
        *(
            refused(
                "size-mismatch",
                {f"mask of {width} x {height}": mask(png(sized(ODD, height, width)))},
                ("odd", "48 x 48", f"{width} x {height}"),
            )
            for height, width in [(24, 24), (96, 96), (48, 47), (40, 48)]
        ),
        hopeless(
            "size-mismatch",
            {"every mask of half size": masks(lambda i: png(sized(i, 24, 24)))},
            says=("48 x 48", "24 x 24"),
        ),
    ),
    *under(
        "transposed size",
        refused("transposed-size", {"one transposed": TRANSPOSED}, ("odd", "40 x 56", "56 x 40")),
        hopeless(
            "transposed-size",
            {"every mask transposed": pairs(portrait, lambda i: png(sized(i, 40, 56)))},
            says="p0",
        ),
    ),
]

# --- two values


def two(low: int, high: int, kind: Any = np.uint8) -> Content:
    """Masks of two values: PNG, or TIFF where PNG has no such type."""
    plain = kind in (np.uint8, np.uint16)
    return lambda seed: (png if plain else tiff)(binary(seed, low, high, kind))


def repeated(seed: int) -> Array:
    """(H, W, 3) of equal channels."""
    return binary(seed)[..., None].repeat(3, 2)


INVERTING = tiff(binary(ODD), photometric="miniswhite")
HALF = np.where(np.arange(SIDE) < SIDE // 2, 255, 0).astype(np.uint8)
HALVES = steps(pairs(mask=two(0, 1), count=3), pairs(count=3, first=3))

CODINGS = [
    *under(
        "{0,255}",
        fine(
            {
                "{0,255}": masks(drawn),
                "{0,255} of 1 bit": masks(lambda i: png(binary(i) > 0)),
                "{0,255} as RGB": masks(lambda i: png(repeated(i))),
                "{0,255} as opaque RGBA": masks(lambda i: encode(binary(i), mode="RGBA")),
                "{0,255} as opaque LA": masks(lambda i: encode(binary(i), mode="LA")),
                "{0,255} as BMP": masks(lambda i: encode(binary(i), "BMP"), ".bmp"),
                "{0,255} as GIF": masks(lambda i: encode(binary(i), "GIF"), ".gif"),
                "{0,255} as TIFF": masks(lambda i: tiff(binary(i)), ".tif"),
                "{0,255} as float": masks(two(0, 255, np.float32), ".tif"),
                "{0,255}, 0 is white": masks(
                    lambda i: tiff(255 - binary(i), photometric="miniswhite"), ".tif"
                ),
                "{0,65535}": masks(two(0, 65535, np.uint16)),
            },
            good=5,
        ),
        used(
            "mixed-lut",
            {"one by ImageJ's inverting LUT": mask(INVERTING, end=".tif")},
            says=("odd", "0 for white"),
            also="turned-round",
        ),
        used("turned-round", {"one of black on white": mask(png(255 - binary(ODD)))}),
        fine({"one that is half full": mask(png(np.maximum(binary(ODD), HALF)))}),
        refused("other-coding", {"{0,1} among {0,255}": mask(two(0, 1)(ODD))}, "odd 1 255"),
        refused("other-coding", {"{0,100} among {0,255}": mask(two(0, 100)(ODD))}, "odd 100 255"),
        fine(
            {"{0,65535} among {0,255}": mask(two(0, 65535, np.uint16)(ODD))},
            good=None,
            also="other-coding undeclared-value",
        ),
    ),
    *under(
        "{0,1}",
        fine(
            {
                "{0,1}": masks(two(0, 1)),
                "{0,1} of 16 bits": masks(two(0, 1, np.uint16)),
                "{0,1} of 32 bits": masks(two(0, 1, np.int32), ".tif"),
                "{0,1} as float": masks(two(0, 1, np.float32), ".tif"),
                "{0,1} as float64": masks(two(0, 1, np.float64), ".tif"),
                "{0,1} as bool TIFF": masks(two(0, 1, np.bool_), ".tif"),
            },
            good=5,
        ),
        fine(
            {"{0,255} among {0,1}": mask(DRAWN, two(0, 1))},
            good=5,
            also="other-coding undeclared-value",
        ),
        case(
            "{0,1} and {0,255} by halves",
            HALVES,
            also="other-coding undeclared-value",
            fatal=None,
        ),
    ),
    *under(
        "other two values",
        fine(
            {
                f"{{{low},{high}}}": masks(two(low, high))
                for low, high in [(1, 2), (37, 200), (0, 128), (254, 255), (0, 2)]
            }
            | {
                "{0,1000}": masks(two(0, 1000, np.uint16)),
                "{300,301}": masks(two(300, 301, np.uint16)),
            },
            good=5,
        ),
        fine(
            {"{37,200}, dark is foreground": masks(two(200, 37))},
            good=5,
            options={"foreground": "dark"},
        ),
        case("{-1,0}", masks(two(-1, 0, np.int16), ".tif"), fatal=None, exact=False),
        refused("other-coding", {"{3,4} among {0,255}": mask(two(3, 4)(ODD))}, "odd 3 4 255"),
    ),
]

# --- colours and palettes

ROADS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142), (220, 20, 60)], np.uint8)  # Cityscapes
ROAD_CLASSES = {"classes": "background=#000000,road=#804080,car=#00008e,person=#dc143c"}
BLACK_WHITE = np.array([(0, 0, 0), (255, 255, 255)], np.uint8)
BLACK_RED = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)


def coloured(seed: int) -> Array:
    return ROADS[shapes(seed)]


def road(seed: int) -> bytes:
    return png(coloured(seed))


def in_palette(seed: int, values: tuple[int, ...] = (0, 1, 1, 1), colours: Array = VOC) -> bytes:
    return indexed(classed(seed, values), colours)


def palette_in(form: str, seed: int) -> bytes:
    return indexed(binary(seed, 0, 1), VOC, form)


def palette_tiff(seed: int) -> bytes:
    table = VOC.T.astype(np.uint16) * 257
    return tiff(binary(seed, 0, 1), photometric="palette", colormap=table)


SOFT_ROAD = png(as_bytes(ROADS[2] * (smooth(ODD)[..., None] / 255)))
OTHER_BLUE = png(np.where(coloured(ODD) == 142, 143, coloured(ODD)).astype(np.uint8))
REORDERED = in_palette(ODD, (1, 0, 0, 0), BLACK_WHITE[::-1])

COLOURS = [
    *under(
        "RGB colours",
        fine(
            {
                "three colours and black": masks(road),
                "red on black": masks(lambda i: png(BLACK_RED[binary(i, 0, 1)])),
                "colours as BMP": masks(lambda i: encode(coloured(i), "BMP"), ".bmp"),
                "colours as TIFF": masks(lambda i: tiff(coloured(i)), ".tif"),
                "colours with opaque alpha": masks(lambda i: encode(coloured(i), mode="RGBA")),
            },
            good=5,
        ),
        fine({"colours, declared": masks(road)}, good=5, options=ROAD_CLASSES),
        refused(
            "mixed-kinds",
            {
                "one grey mask among colours": mask(DRAWN, road),
                "one colour mask among greys": mask(road(ODD)),
            },
        ),
        used("empty-masks", {"an empty mask among colours": mask(EMPTY, road)}, ""),
        fine(
            {"one colour mask as JPEG": mask(jpeg(coloured(ODD)), road, ".jpg")},
            good=None,
            also="not-labels undeclared-value other-coding mixed-kinds",
        ),
        case(
            "every colour mask as JPEG",
            masks(lambda i: jpeg(coloured(i)), ".jpg"),
            fatal=None,
            exact=False,
        ),
        fine(
            {"one colour mask with soft edges": mask(SOFT_ROAD, road)},
            good=None,
            also="undeclared-value not-labels",
            options=ROAD_CLASSES,
        ),
    ),
    *under(
        "palette (use the raw index)",
        fine(
            {
                "palette of Pascal VOC": masks(in_palette),
                "palette, three classes": masks(partial(in_palette, values=(0, 1, 2, 3))),
                "palette of one grey": masks(partial(in_palette, colours=np.full((256, 3), 9))),
                "palette of two entries": masks(partial(in_palette, colours=BLACK_WHITE)),
                "palette, white is 0": masks(partial(in_palette, colours=BLACK_WHITE[::-1])),
                "masks of palette GIF": masks(partial(palette_in, "GIF"), ".gif"),
                "masks of palette BMP": masks(
                    lambda i: indexed(binary(i, 0, 1), VOC, "BMP"), ".bmp"
                ),
                "masks of palette TIFF": masks(palette_tiff, ".tif"),
            },
            good=5,
        ),
        fine({"one palette, cut short": mask(in_palette(ODD, colours=VOC[:2]), in_palette)}),
        refused(
            "mixed-palette",
            {
                "one palette in another order": mask(
                    REORDERED, partial(in_palette, colours=BLACK_WHITE)
                )
            },
        ),
        refused("mixed-kinds", {"one palette among greys": mask(in_palette(ODD))}),
    ),
]

# --- alpha


def in_alpha(alpha: Array, *colour: int) -> bytes:
    plain = np.full((SIDE, SIDE, len(colour)), colour, np.uint8)
    return png(np.dstack([plain, alpha]))


def black(seed: int) -> bytes:
    return in_alpha(binary(seed), 0, 0, 0)


def both(seed: int) -> bytes:
    """Colours and alpha, each of which could be the mask."""
    return png(np.dstack([coloured(seed), binary(seed + 1)]))


ALPHA = under(
    "object in alpha",
    fine(
        {
            "object in alpha, black": masks(black),
            "object in alpha, red": masks(lambda i: in_alpha(binary(i), 255, 0, 0)),
            "object in alpha of LA": masks(lambda i: in_alpha(binary(i), 255)),
        },
        good=5,
    ),
    fine({"one object in alpha": mask(black(ODD))}),
    used("soft-masks", {"soft alpha": masks(lambda i: in_alpha(smooth(i), 0, 0, 0))}, "", good=5),
    used("empty-masks", {"one alpha empty": mask(in_alpha(0 * binary(ODD), 0, 0, 0), black)}, ""),
    refused("both-vary", {"colours and alpha vary": mask(both(ODD))}),
    hopeless("both-vary", {"colours and alpha vary in all": masks(both)}, "p0"),
)

# --- soft and noisy edges


def compressed(quality: int, *, alike: bool = False) -> Content:
    return lambda seed: jpeg(repeated(seed) if alike else binary(seed), quality)


def soft_float(seed: int) -> bytes:
    return tiff((smooth(seed) / 255).astype(np.float32))


SOFT = [
    *under(
        "JPEG-noised",
        used(
            "soft-masks",
            {f"JPEG masks of quality {q}": masks(compressed(q), ".jpg") for q in (95, 90, 75, 50)}
            | {
                "JPEG masks as RGB": masks(compressed(90, alike=True), ".jpg"),
                "JPEG noise saved as PNG": masks(lambda i: png(decoded(jpeg(binary(i), 75)))),
            },
            says="",
            good=5,
        ),
        used(
            "soft-masks",
            {"one JPEG mask": odd(mask=compressed(75)(ODD), ends=(".png", ".jpg"))},
            "",
        ),
        used(
            "soft-masks empty-masks",
            {"JPEG masks, one empty": odd(mask=EMPTY, base=masks(compressed(90), ".jpg"))},
            says="",
        ),
    ),
    *under(
        "anti-aliased",
        used(
            "soft-masks",
            {
                "soft edges": masks(lambda i: png(smooth(i))),
                "soft edges of 16 bits": masks(lambda i: png(smooth(i).astype(np.uint16) * 257)),
                "soft edges, float 0..1": masks(soft_float, ".tif"),
            },
            says="",
            good=5,
        ),
        used("soft-masks", {"one mask with soft edges": mask(png(smooth(ODD)))}, ""),
        refused(
            "not-labels",
            {"one heat map": mask(png(heat(ODD))), "one photograph as mask": mask(png(grey(91)))},
        ),
        refused(
            "not-labels", {"heat maps": masks(lambda i: png(heat(i)))}, "", good=None, fatal=None
        ),
        case(
            "folders swapped",
            GOOD,
            "not-labels",
            fatal=None,
            options={"images": "masks", "masks": "images"},
        ),
    ),
]

# --- values that nobody declared, or nobody can read

CELLS = {"classes": "background=0,cell=255"}
THREE = {"classes": "background=0,cell=1,debris=2"}


def stray(count: int) -> bytes:
    """A mask of {0,255} with some pixels of 77."""
    values = binary(ODD)
    values.flat[: count * 7 : 7] = 77
    return png(values)


def speck() -> bytes:
    """A mask of {0,1} with one pixel of 2."""
    values = binary(ODD, 0, 1)
    values.flat[10] = 2
    return png(values)


def fractions(seed: int) -> bytes:
    return tiff((binary(seed, 0, 3) * 0.7).astype(np.float32))


def with_nan(seed: int) -> bytes:
    values = binary(seed, 0, 1, np.float32)
    values[2, 2] = np.nan
    return tiff(values)


FIVE_MAPS = tiff(np.dstack([smooth(seed) for seed in range(5)]))
PLAIN = coded(0, 1, 2, 1)

UNDECLARED = under(
    "undeclared value",
    refused(
        "undeclared-value",
        {"value not declared": mask(png(classed(ODD, (0, 255, 128, 255))))},
        says="odd 128",
        options=CELLS,
    ),
    fine(
        {"one pixel not declared": mask(stray(1))},
        good=None,
        also="undeclared-value",
        options=CELLS,
    ),
    refused(
        "undeclared-value",
        {
            "class not declared": mask(coded(0, 1, 2, 7)(ODD), PLAIN),
            "index not declared": mask(
                in_palette(ODD, (0, 1, 2, 7)), partial(in_palette, values=(0, 1, 2, 1))
            ),
        },
        says="odd 7",
        options=THREE,
    ),
    refused(
        "undeclared-value",
        {"colour not declared": mask(OTHER_BLUE, road)},
        says="odd 00008f",
        options=ROAD_CLASSES,
    ),
    used("stray-values", {"three stray pixels": mask(stray(3))}, ""),
    used("rare-class", {"a rare class": mask(speck(), coded(0, 1, 1, 1))}, "debris", options=THREE),
    refused(
        "not-whole",
        {
            "mask of fractions": mask(fractions(ODD), end=".tif"),
            "mask with NaN": mask(with_nan(ODD), end=".tif"),
        },
    ),
    hopeless("not-whole", {"every mask of fractions": masks(fractions, ".tif")}, "p0"),
    fine(
        {"probabilities of 5 classes": mask(FIVE_MAPS, end=".tif")},
        good=5,
        also="mixed-channels not-labels several-pages mixed-kinds",
    ),
)

MASKS: list[Case] = [*SIZES, *CODINGS, *COLOURS, *ALPHA, *SOFT, *UNDECLARED]
