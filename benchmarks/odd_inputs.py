"""The same odd inputs given to contorno and to its peers: what does each do with them?

    python benchmarks/odd_inputs.py --out /tmp/odd --peers /path/to/peers/bin/python \\
        --milesial /path/to/Pytorch-UNet
    python benchmarks/odd_inputs.py --out /tmp/odd --only contorno

`--peers` is an interpreter with nnunetv2 and monai, `--milesial` a checkout of that project. Each
set has eight pairs, one of which (p3) or all are odd; what a correct reader makes of them is known.
`odd_peers.py` has each tool read the set; the outcome is one of

    right           every pair is read as it is meant
    caught          an error or a warning names the file or the problem
    left out        the odd pair is dropped without a word, the others are right
    silently wrong  goes on without a word, with an image or a mask that is false
    crash           an error that names neither the file nor the problem
    hang            no end within the time limit
    n/a             the case cannot exist in the tool's layout

The same rule holds for all: messages are searched for the name of the odd file and for the words of
the case (`says`). Writes benchmarks/results/odd_inputs.json; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from page import RESULTS
from PIL import Image

Array = NDArray[Any]
IGNORE = 255  # in a true mask: must not be trained on
ANY = 254  # in a true mask: soft edges, where any value will do
ODD = "p3"
TOOLS = {
    "contorno": "contorno: `contorno check`, and the pairs that it trains on",
    "nnunet": "nnU-Net: `nnUNetv2_plan_and_preprocess -c 2d --verify_dataset_integrity`, files "
    "copied under its names with masks of 0 and 1, labels background 0 and foreground 1",
    "monai": "MONAI: tutorial 2d_segmentation/torch/unet_training_dict.py (LoadImaged, "
    "EnsureChannelFirstd, ScaleIntensityd; every pair trained on and validated with once, with its "
    "crops, loss and metric), with the optional ITK",
    "notebook": 'notebook: sorted globs zipped, PIL `convert("RGB")` and `convert("L")`, resized '
    "to 512 x 512, divided by 255",
    "milesial": "milesial/Pytorch-UNet: BasicDataset, as a public fork keeps it, and the losses of "
    "its train.py behind one convolution",
}
EACH_IMAGE = ("nnunet", "monai")  # scale every image by itself, so its own scale cannot be wrong
SECONDS = {"nnunet": 400}


class Pairs:
    """Eight good pairs, written to images/ and masks/, and what a correct reader gives for each.

    Args:
        folder: where to write.
        on: what ordinary masks hold for the foreground.
        channels: of the images.
        shape: height and width.
        image_ending, mask_ending, mask_suffix: parts of the file names.
        discs: smallest and largest radius of the objects.
        names: stems of the images.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on: int,
        channels: int = 3,
        shape: tuple[int, int] = (64, 128),
        image_ending: str = ".png",
        mask_ending: str = ".png",
        mask_suffix: str = "",
        discs: tuple[int, int] = (8, 15),
        names: Iterable[str] = tuple(f"p{index}" for index in range(8)),
    ) -> None:
        self.folder, self.on = folder, on
        self.endings = (image_ending, mask_suffix + mask_ending)
        self.truth: dict[str, tuple[Array, Array]] = {}
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        for seed, name in enumerate(names):
            self.truth[name] = draw(seed, shape, channels, discs)
            self.save(name)

    def image(self, name: str) -> Path:
        return self.folder / "images" / (name + self.endings[0])

    def mask(self, name: str) -> Path:
        return self.folder / "masks" / (name + self.endings[1])

    def save(self, name: str) -> None:
        """Write a pair as an ordinary one."""
        image, mask = self.truth[name]
        write(self.image(name), image)
        write(self.mask(name), mask * np.uint8(self.on))


def draw(
    seed: int, shape: tuple[int, int], channels: int, discs: tuple[int, int] = (8, 15)
) -> tuple[Array, Array]:
    """A smooth picture (H, W, C) uint8 with two bright discs, and their mask of 0 and 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(2):
        centre = rng.uniform(0.25, 0.75, 2) * shape
        mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(*discs) ** 2
    image = np.zeros((*shape, channels))
    for channel in range(channels):
        a, b, phase = [*rng.uniform(0.03, 0.09, 2), rng.uniform(0, 6)]
        image[..., channel] = 90 + 50 * np.sin(a * x + b * y + phase) + 80 * mask
    return image.round().astype(np.uint8), mask.astype(np.uint8)


def write(path: Path, array: Array, **options: Any) -> None:
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if path.suffix == ".tif":
        kind = "rgb" if array.ndim == 3 and array.shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=kind, **options)
    else:
        quality = {"quality": 92} if path.suffix == ".jpg" else {}
        Image.fromarray(array).save(path, **quality | options)


@dataclass(frozen=True)
class Case:
    """One kind of odd input.

    Args:
        name: of the function that makes it.
        group: files, images, masks or set.
        title: for people.
        says: what a message that names the problem has in it, as a regular expression.
        meant: what a correct reader does; "report" when nothing but a message is right.
        make: makes good pairs odd, and corrects or removes their truth.
        base: options of `Pairs`.
    """

    name: str
    group: str
    title: str
    says: str
    meant: str
    make: Callable[[Pairs], None]
    base: dict[str, Any]


CASES: dict[str, Case] = {}
REPORT = "report"


def case(group: str, title: str, says: str, meant: str = REPORT, **base: Any) -> Any:
    def enter(make: Callable[[Pairs], None]) -> Callable[[Pairs], None]:
        name = make.__name__.replace("_", "-")
        CASES[name] = Case(name, group, title, says, meant, make, base)
        return make

    return enter


@case("control", "nothing odd", "nothing", "read")
def plain(pairs: Pairs) -> None:
    pass


PHOTOS = {"image_ending": ".jpg"}
GREY = {"channels": 1, "image_ending": ".tif"}
IDENTIFY = "not an image|cannot identify|not a png|not recogni|unknown format|unsupported"

# ------------------------------------------------------------------ files


@case("files", "an image without a mask", r"\bmasks?\b|label file|unpaired")
def no_mask(pairs: Pairs) -> None:
    pairs.mask(ODD).unlink()
    del pairs.truth[ODD]


@case("files", "a mask without an image", r"without (an )?image|no image|unpaired")
def no_image(pairs: Pairs) -> None:
    pairs.image(ODD).unlink()
    del pairs.truth[ODD]


@case("files", "p3.png and another p3.jpg", "same stem|multiple|twice|duplicate|several")
def two_endings(pairs: Pairs) -> None:
    write(pairs.image(ODD).with_suffix(".jpg"), draw(99, (64, 128), 3)[0])
    del pairs.truth[ODD]


@case("files", "an ending in capitals, p3.PNG", "ending|extension|capital", "read")
def capitals(pairs: Pairs) -> None:
    pairs.image(ODD).rename(pairs.image(ODD).with_suffix(".PNG"))


@case(
    "files", "é composed in the image's name, decomposed in the mask's", "unicode|nfc|nfd", "read"
)
def composed(pairs: Pairs) -> None:
    new = ODD + "é"
    for form, path in (("NFC", pairs.image(ODD)), ("NFD", pairs.mask(ODD))):
        path.rename(path.with_name(unicodedata.normalize(form, new) + ".png"))
    pairs.truth[new] = pairs.truth.pop(ODD)


@case("files", "stems p3 and p3.old", "multiple|ambiguous|several", "read")
def dotted(pairs: Pairs) -> None:
    pairs.truth["p3.old"] = draw(98, (64, 128), 3)
    pairs.save("p3.old")


@case(
    "files", "masks named p1_mask ... p10_mask", "name|match|pair", "read",
    mask_suffix="_mask", names=[f"p{index}" for index in range(1, 11)],
)  # fmt: skip
def suffix(pairs: Pairs) -> None:
    pass


@case("files", "Thumbs.db and ._p3.png beside the images", r"thumbs|\._p3|hidden", "read")
def junk(pairs: Pairs) -> None:
    (pairs.folder / "images/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
    (pairs.folder / "images/._p3.png").write_bytes(b"\0\x05\x16\x07" + bytes(500))


@case("files", "an empty file", f"empty|0 bytes|{IDENTIFY}")
def empty_file(pairs: Pairs) -> None:
    pairs.image(ODD).write_bytes(b"")
    del pairs.truth[ODD]


@case(
    "files", "an image cut off in the middle", "truncat|damage|corrupt|broken|incomplete|premature"
)
def truncated(pairs: Pairs) -> None:
    data = pairs.image(ODD).read_bytes()
    pairs.image(ODD).write_bytes(data[: len(data) * 6 // 10])
    del pairs.truth[ODD]


@case("files", "a git-lfs pointer", f"lfs|{IDENTIFY}")
def pointer(pairs: Pairs) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 12345\n"
    pairs.image(ODD).write_text(text)
    del pairs.truth[ODD]


@case("files", "a JPEG under the name p3.png", "extension|ending|jpe?g", "read")
def jpeg_as_png(pairs: Pairs) -> None:
    Image.fromarray(pairs.truth[ODD][0]).save(pairs.image(ODD), format="JPEG", quality=92)


@case("files", "a folder named p3.png", "director|folder|not a (regular )?file")
def folder_as_image(pairs: Pairs) -> None:
    pairs.image(ODD).unlink()
    pairs.image(ODD).mkdir()
    del pairs.truth[ODD]


@case("files", "a FIFO named p3.png", "fifo|pipe|not a (regular )?file|special")
def fifo(pairs: Pairs) -> None:
    pairs.image(ODD).unlink()
    os.mkfifo(pairs.image(ODD))
    del pairs.truth[ODD]


# ------------------------------------------------------------------ images

SIZE = "size|shape|rotat|exif|orientation|mismatch"
CHANNELS = r"channel|modalit|\bbands?\b|alpha|stack expects"


def turned(pairs: Pairs) -> None:
    """As a camera held upright saves it: pixels lie on their side, EXIF says so."""
    image, _ = pairs.truth[ODD]
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.rot90(image))
    picture.save(pairs.image(ODD), quality=92, exif=exif)


@case("images", "a photograph that EXIF rotates; its mask is upright", SIZE, "read", **PHOTOS)
def exif(pairs: Pairs) -> None:
    turned(pairs)


@case(
    "images", "the same, square", "rotat|exif|orientation", "read", shape=(64, 64), **PHOTOS
)  # fmt: skip
def exif_square(pairs: Pairs) -> None:
    turned(pairs)


@case("images", "one 16-bit image among 8-bit ones", r"16|\btypes?\b|bits?\b", "read", channels=1)
def mixed_depth(pairs: Pairs) -> None:
    write(pairs.image(ODD), pairs.truth[ODD][0].astype(np.uint16) * 257)


@case("images", "all images 16-bit, values to 4095", r"16|\btypes?\b|bits?\b", "read", channels=1)
def twelve_bits(pairs: Pairs) -> None:
    for name, (image, _) in pairs.truth.items():
        write(pairs.image(name), image.astype(np.uint16) * 16)


@case(
    "images", "all images float32 from 0 to 1", r"float|\btypes?\b|suitable reader", "read", **GREY
)
def floats(pairs: Pairs) -> None:
    for name, (image, _) in pairs.truth.items():
        write(pairs.image(name), image.astype(np.float32) / 255)


@case("images", "NaN in one float image", r"\bnan\b|finite|suitable reader", **GREY)
def not_a_number(pairs: Pairs) -> None:
    for name, (image, _) in pairs.truth.items():
        values = image.astype(np.float32)
        values[:4, :4] = np.nan if name == ODD else 0
        write(pairs.image(name), values)
    del pairs.truth[ODD]


@case("images", "one CMYK photograph among RGB ones", rf"cmyk|\bink|{CHANNELS}", "read", **PHOTOS)
def cmyk(pairs: Pairs) -> None:
    picture = Image.fromarray(pairs.truth[ODD][0]).convert("CMYK")
    picture.save(pairs.image(ODD), quality=95)


@case("images", "one RGBA image among RGB ones", CHANNELS, "read")
def opaque(pairs: Pairs) -> None:
    Image.fromarray(pairs.truth[ODD][0]).convert("RGBA").save(pairs.image(ODD))


@case("images", "one grey image among RGB ones", f"grey|gray|{CHANNELS}", "read")
def grey(pairs: Pairs) -> None:
    image, mask = pairs.truth[ODD]
    image = np.repeat(image[..., :1], 3, axis=2)
    pairs.truth[ODD] = image, mask
    write(pairs.image(ODD), image[..., 0])


@case("images", "one image with a palette among RGB ones", f"palette|{CHANNELS}", "read")
def palette_image(pairs: Pairs) -> None:
    picture = Image.fromarray(pairs.truth[ODD][0]).quantize(64, dither=Image.Dither.NONE)
    picture.save(pairs.image(ODD))
    pairs.truth[ODD] = np.asarray(picture.convert("RGB")), pairs.truth[ODD][1]


@case(
    "images", "a TIFF of three pages, the mask drawn on the second",
    "page|frame|dimension|suitable reader", **GREY,
)  # fmt: skip
def pages(pairs: Pairs) -> None:
    stack = [draw(50, (64, 128), 1)[0], pairs.truth[ODD][0], draw(51, (64, 128), 1)[0]]
    with tifffile.TiffWriter(pairs.image(ODD)) as file:
        for page in stack:
            file.write(page[..., 0], photometric="minisblack", contiguous=False)
    del pairs.truth[ODD]


@case(
    "images", "TIFFs of five channels", f"{CHANNELS}|dimension|suitable reader|cannot identify",
    "read", channels=5, image_ending=".tif",
)  # fmt: skip
def five_channels(pairs: Pairs) -> None:
    for name, (image, _) in pairs.truth.items():
        write(pairs.image(name), image, planarconfig="contig")


@case(
    "images",
    "one image black all over, its mask not",
    "constant|blank|black|one value|single value",
)
def black(pairs: Pairs) -> None:
    write(pairs.image(ODD), np.zeros_like(pairs.truth[ODD][0]))
    del pairs.truth[ODD]


# ------------------------------------------------------------------ masks

LABELS = "values?|labels?|class"


@case("masks", "a mask of another size: its left edge is cut off", "size|shape|mismatch")
def other_size(pairs: Pairs) -> None:
    write(pairs.mask(ODD), pairs.truth[ODD][1][:, 32:] * np.uint8(pairs.on))
    del pairs.truth[ODD]


def recode(pairs: Pairs, values: Callable[[Array], Array], *names: str) -> None:
    """Save masks with other values; all of them unless named."""
    for name in names or pairs.truth:
        write(pairs.mask(name), values(pairs.truth[name][1]))


@case("masks", "all masks of 0 and 1", LABELS, "read")
def zero_one(pairs: Pairs) -> None:
    recode(pairs, lambda mask: mask)


@case("masks", "all masks of 0 and 255", LABELS, "read")
def zero_255(pairs: Pairs) -> None:
    recode(pairs, lambda mask: mask * np.uint8(255))


@case("masks", "one mask of 0 and 1 among 0 and 255, or the other way round", LABELS, "read")
def other_coding(pairs: Pairs) -> None:
    recode(pairs, lambda mask: mask * np.uint8(1 if pairs.on == 255 else 255), ODD)


@case("masks", "palette masks, index 1 is dark red", f"palette|colou?r|{LABELS}|shape", "read")
def palette(pairs: Pairs) -> None:
    for name, (_, mask) in pairs.truth.items():
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        picture.save(pairs.mask(name))


@case("masks", "0, 1 and a border of 255 that is not scored", LABELS, "read")
def void(pairs: Pairs) -> None:
    for name, (image, mask) in pairs.truth.items():
        mask = np.where(edges(mask), np.uint8(IGNORE), mask)
        pairs.truth[name] = image, mask
        write(pairs.mask(name), mask)


@case("masks", "red objects on black", f"colou?r|{LABELS}|channel|shape", "read")
def red(pairs: Pairs) -> None:
    recode(pairs, lambda mask: mask[..., None] * np.array([255, 0, 0], np.uint8))


@case("masks", "objects in the alpha channel", f"alpha|{LABELS}|channel|shape", "read")
def alpha(pairs: Pairs) -> None:
    recode(pairs, lambda mask: mask[..., None] * np.array([0, 0, 0, 255], np.uint8))


@case("masks", "anti-aliased edges, 0 to 255", LABELS, "read")
def soft(pairs: Pairs) -> None:
    for name, (image, mask) in pairs.truth.items():
        picture = Image.fromarray(mask * np.uint8(255))
        big = picture.resize((512, 256), Image.Resampling.BICUBIC)
        big.resize(picture.size, Image.Resampling.BILINEAR).save(pairs.mask(name))
        pairs.truth[name] = image, np.where(edges(mask), np.uint8(ANY), mask)


@case("masks", "masks saved as JPEG", LABELS, "read", mask_ending=".jpg")
def jpeg_masks(pairs: Pairs) -> None:
    for name, (image, mask) in pairs.truth.items():
        Image.fromarray(mask * np.uint8(255)).save(pairs.mask(name), quality=75)
        pairs.truth[name] = image, np.where(edges(mask), np.uint8(ANY), mask)


@case("masks", "a value in one mask that no other has", LABELS)
def undeclared(pairs: Pairs) -> None:
    mask = pairs.truth.pop(ODD)[1] * np.uint8(pairs.on)
    mask[4:20, 4:24] = 2 if pairs.on == 1 else 128
    write(pairs.mask(ODD), mask)


@case("masks", "all masks empty", "empty|foreground|one value|single value|only label|nothing")
def all_empty(pairs: Pairs) -> None:
    recode(pairs, np.zeros_like)


@case("masks", "one mask foreground all over", "all over|every pixel|full", "read")
def full(pairs: Pairs) -> None:
    image, mask = pairs.truth[ODD]
    pairs.truth[ODD] = image, np.ones_like(mask)
    pairs.save(ODD)


@case(
    "masks", "all masks inverted: 94% is foreground", "invert|wrong way|foreground", discs=(5, 11)
)
def inverted(pairs: Pairs) -> None:
    recode(pairs, lambda mask: (1 - mask) * np.uint8(pairs.on))


@case("masks", "objects numbered through the set, in 16 bits", f"instance|objects|{LABELS}", "read")
def numbered(pairs: Pairs) -> None:
    y, x = np.mgrid[:64, :128]
    first = 1  # number in the image; the next one goes on from its last
    for name, (_, mask) in pairs.truth.items():
        cells = (y // 4 * 16 + x // 8 + 1) * mask
        _, places = np.unique(cells, return_inverse=True)  # 0 is background
        places = places.reshape(mask.shape)
        write(pairs.mask(name), np.where(places > 0, places - 1 + first, 0).astype(np.uint16))
        first += int(places.max())


@case("masks", "all masks the same", "identical|the same|all masks|equal")
def same_masks(pairs: Pairs) -> None:
    first = pairs.truth["p0"][1]
    recode(pairs, lambda _: first * np.uint8(pairs.on))


@case("masks", "the images given as masks", f"equal|identical|photograph|{LABELS}|shape|same")
def images_as_masks(pairs: Pairs) -> None:
    for name in pairs.truth:
        shutil.copyfile(pairs.image(name), pairs.mask(name))


# ------------------------------------------------------------------ the set

SAME = "same (image|picture)|duplicate|identical|equal"


@case("set", "one image under two names, with different masks", SAME)
def two_masks(pairs: Pairs) -> None:
    shutil.copyfile(pairs.image("p0"), pairs.image(ODD))
    del pairs.truth[ODD]


@case("set", "one pair under four names", SAME)
def copies(pairs: Pairs) -> None:
    for name in ("p4", "p5", "p6"):
        shutil.copyfile(pairs.image(ODD), pairs.image(name))
        shutil.copyfile(pairs.mask(ODD), pairs.mask(name))
        pairs.truth[name] = pairs.truth[ODD]


def edges(mask: Array) -> Array:
    """Pixels within two of the outline."""
    near = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            near |= np.roll(mask, shift, axis) != mask
    return near


# ------------------------------------------------------------------ measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable, help="interpreter for the peers")
    parser.add_argument("--milesial", type=Path, help="checkout; without it this peer is left out")
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    target = RESULTS / "odd_inputs.json"
    results = json.loads(target.read_text()) if target.exists() else {}
    results = {"tools": TOOLS, "versions": results.get("versions", {})} | {
        "cases": fresh(results.get("cases", {}))
    }
    for tool in options.only:
        if tool == "milesial" and options.milesial is None:
            continue
        usual = set(said(run(CASES["plain"], tool, options)))
        for name in options.cases:
            ended = run(CASES[name], tool, options)
            outcome = judge(CASES[name], tool, ended, usual)
            results["cases"][name]["outcomes"][tool] = outcome
            results["versions"][tool] = ended.versions or results["versions"].get(tool, {})
            target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            print(tool, name, outcome["outcome"], "|", outcome["evidence"], flush=True)


def fresh(before: dict[str, Any]) -> dict[str, Any]:
    """The cases in their order, with the outcomes that were measured before."""
    return {
        name: {
            "group": case.group,
            "title": case.title,
            "meant": case.meant,
            "says": case.says,
            "outcomes": before.get(name, {}).get("outcomes", {}),
        }
        for name, case in CASES.items()
    }


@dataclass
class Ended:
    """What is left of a run of one tool on one case; `step` is where an error came from."""

    truth: dict[str, tuple[Array, Array]]
    read: dict[str, tuple[Array, Array]]
    printed: str
    errors: list[str]
    step: str
    versions: dict[str, str]
    seconds: float


def run(case: Case, tool: str, options: argparse.Namespace) -> Ended:
    """Make the set and have the tool read it in a process of its own."""
    folder = options.out / f"{case.name}-{tool}"
    shutil.rmtree(folder, ignore_errors=True)
    pairs = Pairs(folder, on=1 if tool == "nnunet" else 255, **case.base)
    case.make(pairs)
    python = sys.executable if tool == "contorno" else options.peers
    command = [python, str(Path(__file__).with_name("odd_peers.py")), tool]
    command += [str(folder / "images"), str(folder / "masks"), str(folder)]
    command += [f"--suffix={case.base['mask_suffix']}"] if "mask_suffix" in case.base else []
    command += [f"--milesial={options.milesial}"] if tool == "milesial" else []
    began = time.time()
    log = folder / "log.txt"
    try:
        with log.open("w") as file:
            done = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            done.wait(SECONDS.get(tool, 100))
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, 9)  # with its workers, which wait like it
        done.wait()
    seconds = round(time.time() - began, 1)
    tidy = partial(without_paths, folder=folder)
    ended = Ended(pairs.truth, {}, tidy(log.read_text(errors="replace")), [], "hang", {}, seconds)
    if (folder / "end.json").exists():
        end = json.loads((folder / "end.json").read_text())
        ended.errors, ended.versions = [tidy(e) for e in end["errors"]], end["versions"]
        ended.step = end["step"]
        ended.read = read_arrays(folder / "read.npz")
    elif done.returncode >= 0:
        ended.step, ended.errors = "start", [f"exit {done.returncode}: {ended.printed[-500:]}"]
    return ended


def read_arrays(path: Path) -> dict[str, tuple[Array, Array]]:
    with np.load(path) as arrays:
        names = [key.removeprefix("image ") for key in arrays if key.startswith("image ")]
        return {
            unicodedata.normalize("NFC", name): (arrays[f"image {name}"], arrays[f"mask {name}"])
            for name in names
        }


def without_paths(text: str, folder: Path) -> str:
    """Without the folder of the run and the installation, which are of one machine."""
    text = text.replace(f"{folder}/", "").replace(str(folder), ".")
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    return re.sub(r"/[^\s'\"]*/(site-packages|lib/python[\d.]+|benchmarks)/", "", text)


def said(ended: Ended) -> list[str]:
    """What the tool printed, less progress bars."""
    lines = (line.strip() for line in ended.printed.splitlines())
    return [line for line in lines if line and "it/s" not in line]


def judge(case: Case, tool: str, ended: Ended, usual: set[str]) -> dict[str, Any]:
    """The outcome by one rule for all tools, and what it rests on.

    `usual` is what the tool prints when nothing is odd; the rest counts as a warning.
    """
    warned = [line for line in said(ended) if line not in usual]
    spoken = "\n".join(ended.errors + warned)
    names_problem = re.search(case.says, spoken, re.IGNORECASE) is not None
    names_file = re.search(r"(?<![a-z0-9])p3(?![0-9])", spoken) is not None
    wrong, missing = compare(ended, each_image=tool in EACH_IMAGE)
    if any(error.startswith("NotImplementedError: two files") for error in ended.errors):
        outcome, evidence = "n/a", ended.errors[0]
    elif ended.step == "hang":
        outcome, evidence = "hang", f"no end within {SECONDS.get(tool, 100)} s"
    elif ended.errors:
        outcome = "caught" if names_problem or names_file else "crash"
        evidence = f"{ended.step}: " + excerpt(case, ended.errors, warned)
    elif case.meant != REPORT and not wrong and not missing:
        outcome, evidence = "right", ""
    elif names_problem:
        outcome, evidence = "caught", excerpt(case, [], warned)
    elif not wrong and (missing or ODD not in ended.read) and missing <= {ODD}:
        outcome, evidence = "left out", "p3 is not among what is read"
    else:
        outcome = "silently wrong"
        evidence = "; ".join([*wrong, *(f"{name} is left out" for name in sorted(missing))])
        evidence = evidence or "goes on as if nothing were odd"
        evidence += "".join(f"; warned: {line}" for line in warned[:1])
    return {
        "outcome": outcome,
        "evidence": " ".join(evidence.split())[:400],
        "names_file": names_file,
        "names_problem": names_problem,
        "seconds": ended.seconds,
    }


def excerpt(case: Case, errors: list[str], warned: list[str]) -> str:
    """The message that names the problem, or else the file, or else the first."""
    spoken = errors + warned
    for pattern in (case.says, r"(?<![a-z0-9])p3(?![0-9])"):
        hits = [line for line in spoken if re.search(pattern, line, re.IGNORECASE)]
        if hits:
            return hits[0]
    return spoken[0]


def compare(ended: Ended, *, each_image: bool) -> tuple[list[str], set[str]]:
    """What is wrong with what was read, and names that were not read at all."""
    truth, read = ended.truth, ended.read
    wrong = [f"{name} is trained on" for name in sorted(set(read) - set(truth))]
    plain = [name for name in truth if name in read and name != ODD]
    scale = (
        None if each_image else fit([(truth[n][0], as_true(*truth[n], read[n])[0]) for n in plain])
    )
    for name in (name for name in truth if name in read):
        image, mask = as_true(*truth[name], read[name])
        wrong += wrong_image(name, truth[name][0], image, scale)
        wrong += wrong_mask(name, truth[name][1], mask)
    wrong.sort(key=lambda text: not text.startswith(f"{ODD}'s"))  # the odd one first
    wrong = wrong[:1] + ([f"{len(wrong) - 1} more like it"] if wrong[1:] else [])
    return wrong, set(truth) - set(read)


def as_true(image: Array, mask: Array, read: tuple[Array, Array]) -> tuple[Array, Array]:
    """What was read at the size of the truth: 512 x 512 is averaged down again."""
    return tuple(  # type: ignore[return-value]
        shrink(array.astype(np.float64), mask.shape) for array in read
    )


def shrink(array: Array, shape: tuple[int, ...]) -> Array:
    rows, columns = array.shape[0] / shape[0], array.shape[1] / shape[1]
    if rows == columns == 1 or rows % 1 or columns % 1:
        return array
    array = array.reshape(shape[0], int(rows), shape[1], int(columns), *array.shape[2:])
    mean: Array = array.mean(axis=(1, 3))
    return mean


def fit(pairs: list[tuple[Array, Array]]) -> tuple[float, float] | None:
    """Factor and offset that turn true values into those read; None if the shapes differ."""
    pairs = [(true, read) for true, read in pairs if true.shape == read.shape]
    if not pairs:
        return None
    true = np.concatenate([t.ravel() for t, _ in pairs]).astype(np.float64)
    read = np.concatenate([r.ravel() for _, r in pairs])
    if np.ptp(true) == 0 or not np.isfinite(read).all():
        return None
    factor, offset = np.polyfit(true, read, 1)
    return float(factor), float(offset)


def wrong_image(
    name: str, true: Array, read: Array, scale: tuple[float, float] | None
) -> list[str]:
    """Empty when the image is the true one but for factor and offset."""
    if read.shape != true.shape:
        if true.shape[2] == 1 and read.shape == (*true.shape[:2], 3):
            true = np.repeat(true, 3, axis=2)  # grey as RGB keeps every value
        else:
            return [f"{name}'s image is {show(read.shape)}, not {show(true.shape)}"]
    if not np.isfinite(read).all():
        return [f"{name}'s image has NaN"]
    factor, offset = scale or fit([(true, read)]) or (0, 0)
    misfit = float(np.square(read - (factor * true + offset)).mean())
    spread = float(np.square(factor * (true - true.mean())).mean())
    if factor <= 0 or misfit > 0.1 * spread:
        values = f"values {read.min():.3g} to {read.max():.3g}"
        return [f"{name}'s image is not the one in the file ({values})"]
    return []


def wrong_mask(name: str, true: Array, read: Array) -> list[str]:
    if read.shape != true.shape:
        return [f"{name}'s mask is {show(read.shape)}, not {show(true.shape)}"]
    counted = true != ANY
    share = float((np.abs(read - true) > 0.25)[counted].mean())
    if share <= 0.03:
        return []
    values = np.unique(read.round(2))
    found = ", ".join(f"{v:g}" for v in values[:4]) + (" ..." if len(values) > 4 else "")
    return [f"{name}'s mask is wrong in {share:.0%} of the pixels (it holds {found})"]


def show(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    main()
