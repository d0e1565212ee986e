"""Names, folders and files that are not what they seem."""

from __future__ import annotations

import os
import unicodedata
from typing import Any

from corpus.case import Case, Make, case, fine, hopeless, refused, under, used
from corpus.parts import (
    DRAWN,
    GOOD,
    ODD,
    PHOTO,
    binary,
    drawn,
    each,
    encode,
    file,
    files,
    half,
    jpeg,
    lines,
    link,
    mode,
    node,
    odd,
    pairs,
    photo,
    scene,
    steps,
    subfolder,
    tiff,
)

IMAGES, MASKS = each("images/p{}.png", photo), each("masks/p{}.png", drawn)
SUFFIXED = pairs(ends=(".png", "_mask.png"))
ONE_FOLDER: dict[str, Any] = {"masks": None}

# --- partners

PARTNERS = [
    *under(
        "image without mask",
        case("image without mask", odd(mask=None), "image-without-mask", 5, "odd masks"),
        refused(
            "image-without-mask",
            {
                "two images without mask": steps(odd(mask=None), odd(mask=None, stem="odder")),
                "mask in a sub-folder": steps(odd(mask=None), file("masks/odd/odd.png", DRAWN)),
                "mask saved as text": steps(odd(mask=None), file("masks/odd.csv", b"0,0,1\n")),
            },
        ),
        refused(
            "image-without-mask mask-without-image",
            {"stem misspelt": files("tile_007.png", "tile_07.png")},
            says="tile_007 tile_07",
        ),
        refused(
            "sub-folders",
            {"pairs in a sub-folder": steps(GOOD, file("images/in/a.png", PHOTO))},
            says="in",
            good=None,
        ),
        hopeless("", {"no folder of masks": IMAGES}, "masks"),
        hopeless(
            "no-images",
            {
                "empty folder of masks": steps(IMAGES, subfolder("masks")),
                "masks as JSON only": steps(IMAGES, file("masks/p0.json", b"{}")),
            },
            says="masks",
        ),
        hopeless(
            "no-images",
            {
                "empty folder of images": steps(MASKS, subfolder("images")),
                "images in sub-folders only": steps(MASKS, each("images/site/p{}.png", photo)),
            },
            says="images",
        ),
        hopeless(
            "no-names",
            {"folders that share no stem": steps(IMAGES, each("masks/truth_{}.png", drawn))},
            says="p0 truth_0",
        ),
    ),
    *under(
        "mask without image",
        refused(
            "mask-without-image",
            {
                "mask without image": odd(image=None),
                "image saved as text": steps(odd(image=None), file("images/odd.txt", b"later")),
            },
        ),
        refused("mask-without-image", {"copy of a mask": files(None, "p0 (1).png")}, ("p0 (1)",)),
        case(
            "lonely mask in one folder",
            steps(IMAGES, each("images/p{}_mask.png", drawn, range(6))),
            "mask-without-image suffix-rule",
            5,
            "p5_mask",
            options=ONE_FOLDER,
        ),
    ),
]


# --- names


def second(path: str) -> Make:
    """One more file of the odd pair, in another format."""
    end = path.rpartition(".")[2]
    form = {"jpg": "JPEG", "tif": "TIFF", "bmp": "BMP"}.get(end, "PNG")
    return file(path, encode(binary(ODD) if path.startswith("masks") else scene(ODD), form))


def in_two_forms(text: str) -> tuple[str, str]:
    return unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)


NFC, NFD = in_two_forms("café-Å")
HANGUL = in_two_forms("세포")
RAW = os.fsdecode(b"caf\xe9")  # Latin-1, so not UTF-8

STEMS = {
    "spaces": "two  words",
    "space in front": " odd",
    "space at the end": "odd ",
    "newline": "a\nb",
    "tab": "a\tb",
    "percent": "50%",
    "format words": "100%d %s {} {0}",
    "leading dash": "-n",
    "looks like an option": "--help",
    "glob signs": "*odd?[0-9]",
    "brackets": "[bold]odd",
    "quotes": 'it\'s "odd"',
    "shell words": "$(id);`id`&&|",
    "backslash": "a\\b",
    "HTML": "<script>alert(1)<&amp;",
    "terminal escapes": "\x1b[31mred",
    "emoji": "cell 🔬👩🏽‍🔬",
    "right to left": "תא \u202egnp",
    "Japanese": "細胞",
    "number only": "007",
    "240 bytes": "x" * 240,
}

NAMES = [
    *under(
        "one stem with two extensions",
        refused(
            "same-stem",
            {
                "image as png and jpg": steps(odd(), second("images/odd.jpg")),
                "image as png and PNG": steps(odd(), second("images/odd.PNG")),
                "mask as png and tif": steps(odd(), second("masks/odd.tif")),
                "image and mask twice": steps(
                    odd(), second("images/odd.tif"), second("masks/odd.bmp")
                ),
            },
        ),
        case(
            "stem in NFC and in NFD",
            steps(files(f"{NFC}.png", f"{NFC}.png"), files(f"{NFD}.png", None)),
            "same-stem",
            5,
            "caf",
            needs="names",
        ),
    ),
    *under(
        "upper-case extension",
        fine(
            {
                "X.PNG": files("odd.PNG", "odd.PNG"),
                "X.Png and X.pNG": files("odd.Png", "odd.pNG"),
                "X.JPG": files("odd.JPG", "odd.png", jpeg(scene(ODD))),
                "X.JPEG": files("odd.JPEG", "odd.PNG", jpeg(scene(ODD))),
                "X.TIF": files("odd.TIF", "odd.png", tiff(scene(ODD))),
                "X.TIFF": files("odd.TIFF", "odd.png", tiff(scene(ODD))),
            }
        ),
        fine(
            {
                "every file .PNG": pairs(ends=(".PNG", ".PNG")),
                "masks alone .PNG": pairs(ends=(".png", ".PNG")),
            },
            good=5,
        ),
    ),
    *under(
        "NFC/NFD names",
        fine(
            {
                "image NFC, mask NFD": files(f"{NFC}.png", f"{NFD}.png"),
                "image NFD, mask NFC": files(f"{NFD}.png", f"{NFC}.png"),
                "both NFD": files(f"{NFD}.png", f"{NFD}.png"),
                "Hangul NFC, NFD": files(f"{HANGUL[0]}.png", f"{HANGUL[1]}.png"),
                "Hangul NFD, NFC": files(f"{HANGUL[1]}.png", f"{HANGUL[0]}.png"),
            }
        ),
        used(
            "suffix-rule",
            {
                "NFC and NFD with a suffix": steps(
                    SUFFIXED, file(f"images/{NFC}.png", PHOTO), file(f"masks/{NFD}_mask.png", DRAWN)
                )
            },
            says="_mask",
        ),
        case(
            "list in NFC, files in NFD",
            steps(files(f"{NFD}.png", f"{NFD}.png"), lines("list.txt", NFC, "p0", "p1")),
            good=3,
            options={"files": "list.txt"},
        ),
        case(
            "list in NFD, files in NFC",
            steps(files(f"{NFC}.png", f"{NFC}.png"), lines("list.txt", NFD, "p0")),
            good=6,
            options={"validation_files": "list.txt"},
        ),
    ),
    *under(
        "spaces/newline/%/leading dash in names",
        fine({f"name: {title}": odd(stem=stem) for title, stem in STEMS.items()}),
        fine({"name: not UTF-8": odd(stem=RAW)}, needs="names"),
        refused(
            "damaged", {"not UTF-8, damaged": odd(half(PHOTO), stem=RAW)}, "caf", needs="names"
        ),
        refused("damaged", {"brackets, damaged": odd(half(PHOTO), stem="[bold]odd")}, "[bold]odd"),
        refused("damaged", {"escapes, damaged": odd(half(PHOTO), stem="\x1b[31modd")}),
        refused("damaged", {"newline, damaged": odd(half(PHOTO), stem="one\ntwo")}, "one two"),
        refused("image-without-mask", {"percent, no mask": odd(mask=None, stem="9%d")}, "9%d"),
    ),
    *under(
        "names that differ by case",
        case(
            "two pairs differ by case",
            steps(odd(), files("ODD.png", "ODD.png", photo(91), drawn(91))),
            "case-names",
            7,
            "odd ODD",
            needs="names",
        ),
        case(
            "image and mask differ by case",
            files("Cell.png", "cell.png"),
            "case-names",
            says="Cell cell",
            also="image-without-mask mask-without-image",
            needs="names",
        ),
        case(
            "a second mask differs by case",
            steps(odd(), file("masks/Odd.png", drawn(91))),
            "mask-without-image",
            6,
            "Odd",
            also="case-names",
            needs="names",
        ),
    ),
    *under(
        "`a.b.png`",
        fine(
            {
                "a.b.png": odd(stem="a.b"),
                "scan.tif.png": odd(stem="scan.tif"),
            }
        ),
        fine({"v1.0 and v1.1": steps(GOOD, pairs(stem="v1.{}", first=10, count=2))}, good=7),
        refused(
            "image-without-mask mask-without-image",
            {
                "a.b.png and a.c.png, one mask": steps(
                    files("a.b.png", "a.png"), files("a.c.png", None)
                )
            },
            says="a.b a.c",
            also="duplicate-image",
        ),
        used(
            "suffix-rule",
            {"dots and a suffix": pairs(stem="a.{}", ends=(".png", "_mask.png"))},
            says="_mask",
            good=5,
        ),
    ),
]

# --- suffixes


def apart(suffix: str) -> Make:
    return pairs(ends=(".png", f"{suffix}.png"))


def together(suffix: str) -> Make:
    return steps(IMAGES, each(f"images/p{{}}{suffix}.png", drawn))


SUFFIXES = under(
    "`_mask`/`-gt`/`_label` suffixes",
    *(
        case(f"suffix {suffix}", apart(suffix), "suffix-rule", 5, suffix)
        for suffix in ("_mask", "-gt", "_label", "_segmentation", "_Mask")
    ),
    *(
        case(
            f"{suffix} in one folder",
            together(suffix),
            "suffix-rule",
            5,
            suffix,
            options=ONE_FOLDER,
        )
        for suffix in ("_mask", "-mask", "_gt", "-label")
    ),
    case("suffix told", apart("_truth"), "suffix-rule", 5, "_truth", options={"suffix": "_truth"}),
    case(
        "suffix told, one folder",
        together(".truth"),
        "suffix-rule",
        5,
        ".truth",
        options={"suffix": ".truth", "masks": None},
    ),
    case(
        "suffix, one mask missing",
        steps(SUFFIXED, file("images/odd.png", PHOTO)),
        "suffix-rule image-without-mask",
        5,
        "odd _mask",
    ),
    case(
        "suffix, one mask without it",
        odd(base=SUFFIXED),
        "suffix-rule",
        says="_mask",
        also="image-without-mask mask-without-image",
    ),
    hopeless("", {"one folder, no suffix": GOOD}, says="suffix", options=ONE_FOLDER),
    hopeless("", {"suffix that no mask has": GOOD}, says="_truth", options={"suffix": "_truth"}),
)

RUBBISH = {
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(100),
    "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(100),
    "desktop.ini": b"[.ShellClassInfo]\r\n",
    ".gitkeep": b"",
    ".ipynb_checkpoints/p0-checkpoint.png": PHOTO,
    "__MACOSX/._p0.png": b"\0\5\x16\7",
    "README.md": b"# Cells\n",
}


def in_both(name: str, data: bytes) -> Make:
    return steps(GOOD, file(f"images/{name}", data), file(f"masks/{name}", data))


HIDDEN = under(
    "hidden files and Thumbs.db",
    fine({f"{name} beside": in_both(name, data) for name, data in RUBBISH.items()}, good=5),
    used("hidden-file", {"._p0.png of a Mac": in_both("._p0.png", bytes(64))}, "._p0", good=5),
    used("hidden-file", {"hidden pair": odd(stem=".odd")}, ".odd", good=5),
    hopeless(
        "no-images",
        {"hidden files only": steps(file("images/.DS_Store", b"1"), file("masks/Thumbs.db", b"1"))},
        says="images",
    ),
)

LISTED = under(
    "lists of files",
    refused(
        "not-in-list",
        {"list with a name that no image has": steps(GOOD, lines("list.txt", "p0", "p1", "gone"))},
        says="gone",
        good=2,
        options={"files": "list.txt"},
    ),
    refused(
        "not-in-list",
        {"validation with a name that no pair has": steps(GOOD, lines("list.txt", "p0", "gone"))},
        says="gone",
        good=None,
        options={"validation_files": "list.txt"},
        exact=False,
    ),
    fine(
        {
            "list of paths, from Windows": steps(
                GOOD, lines("list.txt", "\ufeffimages/p0.png\r", "p1\r")
            )
        },
        good=2,
        options={"files": "list.txt"},
    ),
    hopeless(
        "",
        {"empty list": steps(GOOD, lines("list.txt")), "no list": GOOD},
        says="list.txt",
        options={"files": "list.txt"},
    ),
)

# --- what cannot be opened


def image_is(*what: Make) -> Make:
    """The odd pair, whose image is something else."""
    return steps(odd(image=None), *what)


def mask_is(*what: Make) -> Make:
    return steps(odd(mask=None), *what)


SHUT = [
    *under(
        "no permission",
        refused(
            "cannot-open",
            {
                "no permission for an image": steps(odd(), mode("images/odd.png", 0)),
                "no permission for a mask": steps(odd(), mode("masks/odd.png", 0)),
            },
            needs="user",
        ),
        hopeless(
            "",
            {
                "no permission for the images": steps(GOOD, mode("images", 0)),
                "no permission for the masks": steps(GOOD, mode("masks", 0)),
            },
            needs="user",
        ),
        refused(
            "cannot-open",
            {"the disk fails": image_is(link("images/odd.png", "/proc/self/mem"))},  # EIO at once
            needs="linux",
        ),
    ),
    *under(
        "folder named x.png",
        refused(
            "not-a-file",
            {
                "image is a folder": image_is(subfolder("images/odd.png")),
                "mask is a folder": mask_is(subfolder("masks/odd.png")),
                "image is a folder of images": image_is(file("images/odd.png/a.png", PHOTO)),
            },
        ),
    ),
    *under(
        "symlink loop",
        refused(
            "cannot-open",
            {
                "image is a link to itself": image_is(link("images/odd.png", "odd.png")),
                "mask is a link to itself": mask_is(link("masks/odd.png", "odd.png")),
                "loop of two links": image_is(
                    link("images/odd.png", "../other.png"), link("other.png", "images/odd.png")
                ),
            },
        ),
        fine({"folder that holds itself": steps(GOOD, link("images/inner", ".."))}, good=5),
    ),
    *under(
        "dangling link",
        refused(
            "cannot-open",
            {
                "image is a dangling link": image_is(link("images/odd.png", "../gone.png")),
                "mask is a dangling link": mask_is(link("masks/odd.png", "../gone.png")),
                "link into a missing folder": image_is(link("images/odd.png", "no/odd.png")),
            },
        ),
        fine(
            {
                "links to files elsewhere": steps(
                    *(GOOD, file("store/i.png", PHOTO), file("store/m.png", DRAWN)),
                    *(link(f"{w}s/odd.png", f"../store/{w[0]}.png") for w in ("image", "mask")),
                )
            }
        ),
        fine(
            {"linked folder": steps(IMAGES, each("store/p{}.png", drawn), link("masks", "store"))},
            good=5,
        ),
    ),
    *under(
        "FIFO",
        refused(
            "not-a-file",
            {
                "image is a FIFO": image_is(node("images/odd.png")),
                "mask is a FIFO": mask_is(node("masks/odd.png")),
                "both are FIFOs": steps(GOOD, node("images/odd.png"), node("masks/odd.png")),
                "link to a FIFO": image_is(node("pipe"), link("images/odd.png", "../pipe")),
                "image is a socket": image_is(node("images/odd.png", socket=True)),
                "image without end": image_is(link("images/odd.png", "/dev/zero")),
                "mask without content": mask_is(link("masks/odd.png", "/dev/null")),
            },
        ),
        hopeless("", {"list is a FIFO": steps(GOOD, node("list"))}, options={"files": "list"}),
    ),
    *under(
        "zero bytes",
        refused(
            "empty-file",
            {
                "image of zero bytes": odd(image=b""),
                "mask of zero bytes": odd(mask=b""),
                "both of zero bytes": odd(b"", b""),
            },
        ),
        hopeless("empty-file", {"every mask of zero bytes": pairs(mask=lambda _: b"")}, "p0 p4"),
    ),
    *under(
        "file vanishes mid-run",
        refused("cannot-open", {"image vanishes": odd()}, vanishes=("images/odd.png",)),
        refused("cannot-open", {"mask vanishes": odd()}, vanishes=("masks/odd.png",)),
        refused(
            "cannot-open",
            {"pair vanishes": odd()},
            vanishes=("images/odd.png", "masks/odd.png"),
        ),
        hopeless(
            "cannot-open",
            {"every image vanishes": GOOD},
            vanishes=tuple(f"images/p{i}.png" for i in range(5)),
        ),
    ),
]

# --- content of another format


def named(end: str, data: bytes) -> Make:
    return odd(data, ends=(end, ".png"))


WRONG_NAMES = under(
    "wrong extension",
    used(
        "wrong-extension",
        {
            "JPEG named png": named(".png", jpeg(scene(ODD))),
            "PNG named jpg": named(".jpg", PHOTO),
            "TIFF named png": named(".png", tiff(scene(ODD))),
            "PNG named tif": named(".tif", PHOTO),
            "BMP named png": named(".png", encode(scene(ODD), "BMP")),
            "WebP named jpg": named(".jpg", encode(scene(ODD), "WEBP", lossless=True)),
            "GIF named png": named(".png", encode(scene(ODD), "GIF")),
            "mask: BMP named png": odd(mask=encode(binary(ODD), "BMP")),
        },
    ),
    used("wrong-extension", {"every PNG named jpg": pairs(ends=(".jpg", ".png"))}, "", good=5),
    used("wrong-extension soft-masks", {"mask: JPEG named png": odd(mask=jpeg(binary(ODD)))}),
    refused("mask-without-image", {"no extension at all": named("", PHOTO)}),
)

FILES: list[Case] = [*PARTNERS, *NAMES, *SUFFIXES, *HIDDEN, *LISTED, *SHUT, *WRONG_NAMES]
