"""What the values of a whole set of masks say together: classes, objects, or nothing to learn."""

from __future__ import annotations

import numpy as np

from corpus.case import Case, Make, case, fine, hopeless, refused, under, used
from corpus.parts import (
    GOOD,
    ODD,
    PHOTO,
    SIDE,
    Array,
    Content,
    binary,
    classed,
    coded,
    drawn,
    each,
    file,
    grey,
    grey_photo,
    half,
    indexed,
    instances,
    lines,
    link,
    odd,
    pairs,
    photo,
    png,
    scene,
    shapes,
    steps,
    tiff,
    voc_colours,
)

TIF = (".png", ".tif")
EMPTY = np.zeros((SIDE, SIDE), np.uint8)
THREE = {"classes": "background=0,cell=1,debris=2"}
FOUR = {"classes": "background=0,cell=1,debris=2,dust=3"}
PLAIN = coded(0, 1, 2, 1)
VALIDATION = {"validation_files": "validation.txt"}


def masks(mask: Content) -> Make:
    """A whole set of masks of one coding."""
    return pairs(mask=mask)


# --- 255


def bordered(seed: int, values: tuple[int, ...] = (0, 1, 2, 1)) -> Array:
    """Classes with a border of 255 around every disc, as Pascal VOC has."""
    mask = classed(seed, values)
    ring = (shapes(seed, radius=0.16) > 0) & (mask == values[0])
    return np.where(ring, 255, mask).astype(np.uint8)


def voc(seed: int) -> bytes:
    return png(bordered(seed))


ONE_BORDERED = odd(mask=voc(ODD), base=masks(PLAIN))

IGNORE = under(
    "255 as ignore or class",
    used(
        "ignored",
        {
            "255 beside 0,1,2": masks(voc),
            "255 in the palette of VOC": masks(lambda i: indexed(bordered(i), voc_colours())),
        },
        says="255",
        good=5,
    ),
    used(
        "ignored",
        {
            "255 beside 0,1,2, to be ignored": masks(voc),
            "255 beside 0,1, to be ignored": masks(lambda i: png(bordered(i, (0, 1, 1, 1)))),
        },
        says="255",
        good=5,
        options={"ignore": "255"},
    ),
    used(
        "ignored",
        {"255 ignored beside declared classes": masks(voc)},
        says="255",
        good=5,
        options={"ignore": "255"} | THREE,
    ),
    used("ignored", {"255 ignored in one mask": ONE_BORDERED}, "255", options={"ignore": "255"}),
    fine(
        {"255 is a class, declared": masks(drawn)},
        good=5,
        options={"classes": "background=0,nucleus=255"},
    ),
    fine(
        {"255 is one of four, declared": masks(voc)},
        good=5,
        options={"classes": "background=0,cell=1,debris=2,border=255"},
    ),
    fine(
        {
            "255 beside 0,128": masks(coded(0, 128, 255, 128)),
            "255 beside 0,85,170": masks(coded(0, 85, 170, 255)),
        },
        good=5,
    ),
    case("255 neither declared nor ignored", ONE_BORDERED, also="undeclared-value", options=THREE),
    refused(
        "all-ignored",
        {"one mask of 255 only": odd(mask=png(EMPTY + 255), base=masks(voc))},
        good=5,
        options={"ignore": "255"},
    ),
)

# --- numbers

HIGH = coded(0, 300, 512, 300, kind=np.uint16)

NUMBERS = [
    *under(
        "ids > 255",
        fine(
            {
                "classes 0, 300, 512": masks(HIGH),
                "classes in thousands": masks(coded(0, 1000, 2000, 3000, kind=np.uint16)),
            },
            good=5,
        ),
        fine(
            {"classes over 255, declared": masks(HIGH)},
            good=5,
            options={"classes": "background=0,cell=300,debris=512"},
        ),
        used(
            "instance-ids",
            {
                "objects from 300": masks(lambda i: png(instances(i, 300, np.uint16))),
                "objects from 70000": pairs(
                    mask=lambda i: tiff(instances(i, 70_000, np.uint32)), ends=TIF
                ),
            },
            says="",
            good=5,
        ),
    ),
    *under(
        "instance ids used as classes",
        used(
            "instance-ids",
            {
                "numbered objects": masks(lambda i: png(instances(i))),
                "numbered objects, 16 bits": masks(lambda i: png(instances(i, 1, np.uint16))),
                "numbers that go on": masks(lambda i: png(instances(i, 1 + 16 * i))),
                "numbered objects in a palette": masks(
                    lambda i: indexed(instances(i), voc_colours())
                ),
            },
            says="",
            good=5,
        ),
        used(
            "instance-ids empty-masks",
            {
                "numbered objects, one mask empty": odd(
                    mask=png(EMPTY), base=masks(lambda i: png(instances(i)))
                )
            },
            says="",
        ),
        fine(
            {"numbered objects, nonzero asked for": masks(lambda i: png(instances(i)))},
            good=5,
            options={"foreground": "nonzero"},
            also="instance-ids",
        ),
        fine({"four classes, not objects": masks(coded(0, 1, 2, 3))}, good=5),
    ),
]

# --- nothing, or nearly all


def same(value: int) -> Content:
    return lambda _: png(EMPTY + np.uint8(value))


def inverted(seed: int, low: int = 0, high: int = 255) -> Array:
    """Small objects of the low value on the high one."""
    return np.where(shapes(seed, radius=0.08) > 0, low, high).astype(np.uint8)


def mostly(seed: int) -> bytes:
    """Two thirds of 255."""
    values = EMPTY + np.uint8(255)
    values[:, 4 * seed : 4 * seed + 16] = 0
    return png(values)


SHARES = [
    *under(
        "all empty",
        refused(
            "one-value",
            {f"every mask {value}": masks(same(value)) for value in (0, 1, 128, 255)}
            | {"every mask one colour": masks(lambda _: png(np.dstack([EMPTY, EMPTY + 9, EMPTY])))},
            says="",
            good=None,
            fatal=None,
        ),
        used(
            "empty-masks",
            {
                "one mask empty": odd(mask=png(EMPTY)),
                "one mask with objects": odd(base=masks(same(0))),
                "half of the masks empty": steps(
                    pairs(count=3), pairs(mask=same(0), first=3, count=3)
                ),
            },
            says="",
        ),
        fine({"one mask full": odd(mask=png(EMPTY + 255))}, also="inverted"),
    ),
    *under(
        "inverted (> 90% foreground)",
        used(
            "inverted",
            {
                "inverted {0,255}": masks(lambda i: png(inverted(i))),
                "inverted {0,1}": masks(lambda i: png(inverted(i, 0, 1))),
                "inverted palette": masks(lambda i: indexed(inverted(i, 0, 1), voc_colours())),
            },
            says="foreground",
            good=5,
        ),
        used(
            "inverted",
            {"inverted by an option": masks(lambda i: png(inverted(i, 255, 0)))},
            says="foreground",
            good=5,
            options={"foreground": "dark"},
        ),
        fine(
            {"inverted, dark is foreground": masks(lambda i: png(inverted(i)))},
            good=5,
            options={"foreground": "dark"},
        ),
        fine({"two thirds foreground": masks(mostly)}, good=5),
    ),
]

# --- classes that are lacking


def parted(make: Make, *validation: str) -> Make:
    return steps(make, lines("validation.txt", *validation))


ONES = coded(0, 1, 1, 1)
UNEVEN = steps(pairs(mask=PLAIN, count=3), pairs(mask=ONES, count=2, first=3))  # 2 in p0 to p2
RED = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)

LACKING = [
    *under(
        "declared class never present",
        used("class-missing", {"debris never present": masks(ONES)}, "debris", 5, options=THREE),
        used("class-missing", {"two never present": masks(ONES)}, "debris dust", 5, options=FOUR),
        fine(
            {"background never present": masks(coded(1, 2, 2, 2))},
            good=5,
            also="class-missing",
            options=THREE,
        ),
        used(
            "class-missing",
            {"colour never present": masks(lambda i: png(RED[binary(i, 0, 1)]))},
            says="green",
            good=5,
            options={"classes": "background=#000000,red=#ff0000,green=#00ff00"},
        ),
        refused(
            "damaged class-missing",
            {"class in a damaged pair alone": odd(half(PHOTO), PLAIN(ODD), base=masks(ONES))},
            says="odd debris",
            options=THREE,
        ),
    ),
    *under(
        "class absent from validation",
        used(
            "class-not-in-validation",
            {"debris in training alone": parted(UNEVEN, "p3", "p4")},
            says="debris",
            good=5,
            options=VALIDATION | THREE,
        ),
        used(
            "class-not-in-validation",
            {"2 in training alone, not declared": parted(UNEVEN, "p3", "p4")},
            says="2",
            good=5,
            options=VALIDATION,
        ),
        used(
            "class-not-in-validation empty-masks",
            {"validation has empty masks alone": parted(odd(mask=png(EMPTY)), "odd")},
            says="",
            options=VALIDATION,
        ),
        fine(
            {"every class in both parts": parted(UNEVEN, "p0", "p3")},
            good=5,
            options=VALIDATION | THREE,
        ),
    ),
]

# --- masks that repeat themselves or their image

ALIKE = [
    *under(
        "all masks identical",
        used(
            "identical-masks",
            {
                "every mask the same": masks(lambda _: drawn(0)),
                "every mask a frame": masks(lambda _: png(np.pad(EMPTY[2:-2, 2:-2] + 255, 2))),
                "every mask the same, {0,1}": masks(lambda _: png(binary(0, 0, 1))),
            },
            says="",
            good=5,
            also="inverted",
        ),
        fine({"two masks of six the same": odd(mask=drawn(0))}),
    ),
    *under(
        "mask equal to the image",
        refused(
            "mask-equals-image",
            {
                "grey image as its mask": odd(
                    png(grey(ODD)), png(grey(ODD)), base=pairs(grey_photo)
                ),
                "mask as its image": odd(drawn(ODD), base=pairs(grey_photo)),
                "colour image as its mask": odd(mask=PHOTO),
                "image as its mask, as TIFF": odd(mask=tiff(scene(ODD)), ends=TIF),
                "mask is a link to its image": steps(
                    odd(mask=None), link("masks/odd.png", "../images/odd.png")
                ),
            },
            also="not-labels mixed-kinds",
        ),
        case(
            "images copied as masks",
            steps(GOOD, each("copies/p{}.png", photo)),
            "mask-equals-image",
            fatal=None,
            exact=False,
            options={"masks": "copies"},
        ),
        hopeless("", {"one folder for both": GOOD}, options={"masks": "images"}),
    ),
]

# --- overlapping classes: a folder of masks for each

NUCLEUS = {"options": {"masks": {"cell": "cells", "nucleus": "nuclei"}}}


def round_things(radius: float) -> Content:
    return lambda i: png(np.where(shapes(i, radius=radius) > 0, 255, 0).astype(np.uint8))


CELLS = steps(each("images/p{}.png", photo), each("cells/p{}.png", round_things(0.16)))
NUCLEI = each("nuclei/p{}.png", round_things(0.09))
LACKS_ONE = each("nuclei/p{}.png", round_things(0.09), range(4))
SMALL = file("nuclei/p4.png", png(binary(4)[::2, ::2]))

OVERLAPPING = under(
    "overlapping classes",
    fine({"cells and nuclei": steps(CELLS, NUCLEI)}, good=5, **NUCLEUS),
    refused(
        "image-without-mask",
        {"one nucleus mask missing": steps(CELLS, LACKS_ONE)},
        says="p4 nuclei",
        good=4,
        **NUCLEUS,
    ),
    refused(
        "size-mismatch",
        {"one nucleus mask too small": steps(CELLS, NUCLEI, SMALL)},
        says="p4 nuclei",
        good=4,
        **NUCLEUS,
    ),
    used(
        "class-missing",
        {"every nucleus mask empty": steps(CELLS, each("nuclei/p{}.png", same(0)))},
        says="nucleus",
        good=5,
        exact=False,
        **NUCLEUS,
    ),
)

CLASSES: list[Case] = [*IGNORE, *NUMBERS, *SHARES, *LACKING, *ALIKE, *OVERLAPPING]
