"""What is wrong with the set as a whole: the same picture twice, or in both parts of a split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from corpus.case import Case, Make, case, fine, hopeless, refused, under, used
from corpus.parts import (
    GOOD,
    SIDE,
    Array,
    as_bytes,
    binary,
    drawn,
    each,
    encode,
    file,
    half,
    jpeg,
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
)

VALIDATION = {"validation_files": "validation.txt"}
TWICE = "duplicate-image near-duplicate"  # may be said beside a leak


def copy(image: bytes, mask: bytes, end: str = ".png") -> Make:
    """Five good pairs and "copy", which comes from the first, p0."""
    return odd(image, mask, stem="copy", ends=(end, ".png"))


def parted(make: Make, *validation: str) -> Make:
    return steps(make, lines("validation.txt", *validation))


def across(makes: dict[str, Make]) -> dict[str, Make]:
    """The copy in validation, what it comes from in training."""
    return {f"{name}, across the split": parted(make, "copy", "p1") for name, make in makes.items()}


# --- the same pixels

EXACT = copy(photo(0), drawn(0))
SAME = {
    "exact copy": EXACT,
    "copy as TIFF": copy(tiff(scene(0)), drawn(0), ".tif"),
    "copy as BMP": copy(encode(scene(0), "BMP"), drawn(0), ".bmp"),
    "copy as link": steps(
        GOOD, link("images/copy.png", "p0.png"), link("masks/copy.png", "p0.png")
    ),
}
AGAIN = steps(EXACT, file("images/again.png", photo(0)), file("masks/again.png", drawn(0)))
DOUBLED = steps(GOOD, each("images/q{}.png", photo), each("masks/q{}.png", drawn))

DUPLICATES = under(
    "exact duplicates across train and validation",
    used("leak", across(SAME), "p0 copy", also=TWICE, options=VALIDATION),
    used("duplicate-image", SAME, "p0 copy"),
    used("duplicate-image", {"three of the same": AGAIN}, "p0 copy again", good=7),
    used(
        "duplicate-image",
        {
            "copy within training": parted(EXACT, "p3", "p4"),
            "copy within validation": parted(EXACT, "p0", "copy"),
        },
        says="p0 copy",
        options=VALIDATION,
    ),
    used(
        "leak",
        {"every picture in both parts": parted(DOUBLED, *(f"q{i}" for i in range(5)))},
        says="p0 q0",
        good=10,
        also=TWICE,
        options=VALIDATION,
    ),
    fine({"a split without copies": parted(GOOD, "p3", "p4")}, good=5, options=VALIDATION),
)

# --- nearly the same


def brighter(array: Array) -> Array:
    return as_bytes(array * 1.08 + 5)


def blurred(array: Array) -> Array:
    """Made smaller and larger again."""
    picture = Image.fromarray(array).resize((36, 36), Image.Resampling.BICUBIC)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def one_pixel_changed(array: Array) -> Array:
    changed = array.copy()
    changed[0, 0] = 255 - changed[0, 0]
    return changed


def upside_down(array: Array) -> Array:
    return np.rot90(array, 2)


def enlarged(array: Array) -> Array:
    return array.repeat(2, 0).repeat(2, 1)


def like(change: Callable[[Array], Array], *, mask: bool = False) -> Make:
    """p0 changed, and its mask too where that moves with it."""
    drawing = change(binary(0)) if mask else binary(0)
    return copy(png(np.ascontiguousarray(change(scene(0)))), png(np.ascontiguousarray(drawing)))


TURNED: dict[str, Make] = {
    "flipped copy": like(np.fliplr, mask=True),
    "copy flipped upside down": like(np.flipud, mask=True),
    "copy turned by 90 degrees": like(np.rot90, mask=True),
    "copy turned by 180 degrees": like(upside_down, mask=True),
}
ALTERED = {
    "JPEG copy": copy(jpeg(scene(0), 92), drawn(0), ".jpg"),
    "poor JPEG copy": copy(jpeg(scene(0), 50), drawn(0), ".jpg"),
    "copy with one pixel changed": like(one_pixel_changed),
    "brighter copy": like(brighter),
    "blurred copy": like(blurred),
    "copy of twice the size": like(enlarged, mask=True),
}


def one_microscope(seed: int) -> bytes:
    """Cells before a background that all pictures of the set share."""
    y, x = np.mgrid[:SIDE, :SIDE]
    light = 90 - 0.04 * ((y - 24) ** 2 + (x - 24) ** 2)
    noise = np.random.default_rng(seed).normal(0, 5, (SIDE, SIDE))
    return png(as_bytes(light + 110 * (shapes(seed) > 0) + noise))


NEAR = under(
    "near-duplicates",
    used("near-duplicate", ALTERED | TURNED, "p0 copy"),
    used("leak", across(ALTERED | TURNED), "p0 copy", also=TWICE, options=VALIDATION),
    fine({"other cells under one microscope": pairs(one_microscope, count=12)}, good=12),
)

# --- one picture, several masks

TWO_MASKS = copy(photo(0), drawn(1))
NO_OBJECTS = copy(photo(0), png(np.zeros((SIDE, SIDE), np.uint8)))
A_ROW = binary(0)
A_ROW[21] = 255 - A_ROW[21]
MASK_OF_A_ROW = copy(photo(0), png(A_ROW))

OTHER = under(
    "same image with different masks",
    used(
        "other-mask",
        {
            "two masks of one picture": TWO_MASKS,
            "a copy without objects": NO_OBJECTS,
            "a copy whose mask differs in a row": MASK_OF_A_ROW,
        },
        says="p0 copy",
        good=None,
        also="duplicate-image",
    ),
    used(
        "other-mask",
        {"one picture with every mask": pairs(lambda _: photo(0))},
        says="p0 p4",
        good=None,
        also="duplicate-image",
    ),
    used(
        "other-mask leak",
        across({"two masks of one picture": TWO_MASKS}),
        says="p0 copy",
        good=None,
        also=TWICE,
        options=VALIDATION,
    ),
)

# --- few

ONE_LEFT = steps(pairs(count=1), pairs(lambda i: half(photo(i)), first=1, count=3))
A_LIST = steps(GOOD, lines("list.txt", "p2"))

FEW = under(
    "one image only",
    used("one-image", {"one pair": pairs(count=1)}, "", good=1, fatal=None),
    used("one-image damaged", {"one pair left": ONE_LEFT}, "p1 p3", good=1, fatal=None),
    used(
        "one-image",
        {"a list of one": A_LIST},
        says="",
        good=1,
        fatal=None,
        options={"files": "list.txt"},
    ),
    used("few-images", {"two pairs": pairs(count=2)}, "", good=2),
    used("few-images", {"three pairs": pairs(count=3)}, "", good=3),
)

# --- groups

PATIENTS = steps(*(pairs(first=10 * n, count=2, stem=f"patient{n}_{{}}") for n in (1, 2, 3)))
SLIDES = steps(*(pairs(first=10 * n, count=2, stem=f"S{n}-tile{{}}") for n in (1, 2, 3)))
PATIENT = {"group": r"(patient\d+)_"}

GROUPS = under(
    "groups shared across the split",
    used("groups", {"groups, no split given": PATIENTS}, "", options=PATIENT),
    used(
        "groups",
        {"groups, each in one part": parted(PATIENTS, "patient3_30", "patient3_31")},
        says="",
        options=PATIENT | VALIDATION,
    ),
    used(
        "leak",
        {"patients in both parts": parted(PATIENTS, "patient3_30", "patient2_20")},
        says="patient2 patient3",
        options=PATIENT | VALIDATION,
    ),
    *(
        used(
            "leak",
            {f"slide in both parts, {words}": parted(SLIDES, "S1-tile10")},
            says="S1",
            options={"group": pattern} | VALIDATION,
        )
        for words, pattern in [("with brackets", r"^(S\d+)-"), ("without brackets", r"^S\d+")]
    ),
    *(
        hopeless("", {f"group that {words}": PATIENTS}, "group", options={"group": pattern})
        for words, pattern in [("fits no name", "slide(x)"), ("is no pattern", "(")]
    ),
    case(
        "one group alone",
        pairs(stem="patient1_{}"),
        says="patient1",
        fatal=None,
        exact=False,
        options=PATIENT,
    ),
)

# --- channels in files of their own


def stain(channel: int) -> Callable[[int], bytes]:
    return lambda seed: png(scene(seed)[..., channel])


DAPI = steps(each("images/p{}_dapi.png", stain(0)), each("masks/p{}.png", drawn))
STAINS = {"channels": ("_dapi", "_gfp")}

CHANNELS = under(
    "channels in separate files",
    fine({"two stains": steps(DAPI, each("images/p{}_gfp.png", stain(1)))}, 5, options=STAINS),
    refused(
        "channel-missing",
        {"a stain missing": steps(DAPI, each("images/p{}_gfp.png", stain(1), range(4)))},
        says="p4 _gfp",
        good=4,
        options=STAINS,
    ),
)

SETS: list[Case] = [*DUPLICATES, *NEAR, *OTHER, *FEW, *GROUPS, *CHANNELS]
