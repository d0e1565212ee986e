"""The report: complete, self-contained, safe against its input, and readable on a phone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from PIL import Image

from contorno import charts, metrics, pictures, report
from contorno.calibration import reliability
from contorno.charts import histogram
from contorno.errors import InputError
from contorno.report import write_report

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
SIZE = (24, 32)  # (H, W)
LABELS = {
    "note": "1 is the object",
    "multilabel": False,
    "classes": [{"name": "foreground", "value": 1, "kind": "grey"}],
    "table": [],
}


class Page(HTMLParser):
    """What the tests ask of a page: its tags, its text and the text of each table cell."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("style", "script"):
            return
        self.words += data.split()
        if self.in_cell:
            self.rows[-1][-1] = " ".join([*self.rows[-1][-1].split(), *data.split()])

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]

    def pictures(self) -> list[np.ndarray[Any, Any]]:
        uris = [attrs["href"] for tag, attrs in self.tags if tag == "image"]
        data = [base64.b64decode(uri.partition("base64,")[2]) for uri in uris]
        return [np.asarray(Image.open(io.BytesIO(item))) for item in data]


def blob(shift: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros(SIZE, bool)
    mask[6:18, 4 + shift : 16 + shift] = True
    return mask


def save(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make(folder: Path, count: int = 3, **changes: Any) -> Path:
    """A results.json with its pictures; image i is shifted by i pixels, so 0 is the best."""
    images, scores = [], []
    for i in range(count):
        name = f"cell{i}"
        picture = np.full((*SIZE, 3), 60 + 10 * i, np.uint8)
        image = save(folder / "images" / f"{name}.png", picture)
        mask = save(folder / "masks" / f"{name}.png", blob().astype(np.uint8) * 255)
        save(folder / "truths" / f"{name}.png", blob().astype(np.uint8))
        save(folder / "predictions" / f"{name}.png", blob(i).astype(np.uint8))
        score = metrics.score(blob(), blob(i))
        scores.append(score)
        entry = {"name": name, "image": str(image), "mask": str(mask)}
        entry |= {"prediction": [f"predictions/{name}.png"], "truth": [f"truths/{name}.png"]}
        images.append(entry | row(score) | {"height": SIZE[0], "width": SIZE[1]})
    results: dict[str, Any] = {
        "contorno": "0.1.0",
        "scored_on": "images given to evaluate",
        "model": {"path": "runs/a/model.safetensors", "sha256": "ab12" * 16, "parameters": 1234},
        "labels": LABELS,
        "threshold": 0.5,
        "rules": metrics.RULES,
        "images": images,
        **metrics.summarise(scores, resamples=50),
        "classes": [],
        "problems": [],
        "seconds": 1.5,
    }
    results["model"] |= {"architecture": "UNet", "engine": "PyTorch float32 on CPU"}
    path = folder / "results.json"
    path.write_text(json.dumps(results | changes))
    return path


def make_several(folder: Path, *, overlapping: bool = False, count: int = 3) -> Path:
    """As `make`, of the classes cell, nucleus and rare; rare is nowhere but in image 0."""
    path = make(folder, count)
    results = json.loads(path.read_text())
    names, values = ("cell", "nucleus", "rare"), (255, 255, 1) if overlapping else (7, 100, 255)
    alone: list[list[metrics.ImageScore]] = []
    for i, entry in enumerate(results["images"]):
        pairs = [(class_mask(k, i if k else 0), class_mask(k, 0)) for k in range(3)]
        if i:
            pairs[2] = (np.zeros(SIZE, bool),) * 2
        for part, side in (("truths", 1), ("predictions", 0)):
            layers = [pair[side] for pair in pairs]
            entry[part[:-1]] = write_classes(folder, part, entry["name"], layers, values)
        alone.append([metrics.score(truth, drawn) for drawn, truth in pairs])
        entry |= row(metrics.combine(alone[-1]))
        entry["classes"] = dict(zip(names, map(row, alone[-1]), strict=True))
    results |= metrics.summarise([metrics.combine(each) for each in alone], resamples=50)
    results["classes"] = [
        {"name": name} | metrics.summarise([each[k] for each in alone], resamples=50)
        for k, name in enumerate(names)
    ]
    classes = [{"name": n, "value": v, "kind": "grey"} for n, v in zip(names, values, strict=True)]
    shares = (0.9, 0.06, 0.04, 1e-5)
    found = zip((0, *values), ("background", *names), shares, strict=True)
    table = [{"value": str(v), "name": n, "share": s, "images": count} for v, n, s in found]
    results["labels"] = {
        "note": "three classes", "multilabel": overlapping, "classes": classes, "table": table
    }  # fmt: skip
    results["threshold"] = 0.5 if overlapping else None
    path.write_text(json.dumps(results))
    return path


def class_mask(index: int, shift: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros(SIZE, bool)
    mask[2 + 7 * index : 8 + 7 * index, 4 + shift : 16 + shift] = True
    return mask


def write_classes(
    folder: Path, part: str, name: str, layers: list[Any], values: tuple[int, ...]
) -> list[str]:
    """Write the classes of one image, into a folder of their own where two have one value."""
    if len(set(values)) == len(values):
        values_map = sum(mask * np.uint8(value) for mask, value in zip(layers, values, strict=True))
        save(folder / part / f"{name}.png", values_map.astype(np.uint8))
        return [f"{part}/{name}.png"]
    paths = [f"{part}/class{k}/{name}.png" for k in range(len(layers))]
    for path, mask, value in zip(paths, layers, values, strict=True):
        save(folder / path, mask * np.uint8(value))
    return paths


def row(score: metrics.ImageScore) -> dict[str, Any]:
    counts = {key: getattr(score.counts, key) for key in ("tp", "fp", "fn", "tn")}
    return counts | {key: getattr(score, key) for key in metrics.FIGURES}


def change(path: Path, index: int, **values: Any) -> None:
    results = json.loads(path.read_text())
    results["images"][index] |= values
    path.write_text(json.dumps(results))


def make_run(folder: Path, log: str | None = None) -> Path:
    epochs = [
        {"epoch": e, "epochs": 4, "loss": 1 / e, "validation_loss": 1.5 / e, "best": e != 4}
        | {"validation_dice": 0.5 + e / 10, "learning_rate": 0.001 * e}
        for e in range(1, 5)
    ]
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(epoch) + "\n" for epoch in epochs)
    (folder / "log.jsonl").write_text(lines if log is None else log)
    (folder / "config.toml").write_text(
        '[data]\ntile = [512, 512]\n[training]\nbatch_size = 4\nname = "<b>bold</b>"\n'
        '[reasons]\n"training.batch_size" = "fits & learns <i>well</i>"\n'
    )
    return folder


# The page as a whole ---------------------------------------------------------------------------


def test_page_lies_beside_the_results_or_where_it_is_told(tmp_path: Path) -> None:
    results = make(tmp_path)
    assert write_report(results) == tmp_path / "report.html"
    elsewhere = tmp_path / "pages" / "a.html"
    assert write_report(results, out=elsewhere) == elsewhere
    assert elsewhere.read_bytes() == (tmp_path / "report.html").read_bytes()


def test_every_section_comes_in_order(tmp_path: Path) -> None:
    problem = {"path": "a.png", "what": "half a file", "expected": "a file", "fix": "copy it"}
    problem["severity"] = "error"
    results = make(tmp_path, problems=[problem])
    page = Page(write_report(results, run=make_run(tmp_path / "run")))
    sections = [attrs.get("id") for tag, attrs in page.tags if tag == "section" and "id" in attrs]
    expected = "problems distribution cases training images configuration rules"
    assert sections == expected.split()
    assert "a.png half a file ; expected a file To fix: copy it" in page.text
    without = Page(write_report(make(tmp_path)))
    sections = [
        attrs.get("id") for tag, attrs in without.tags if tag == "section" and "id" in attrs
    ]
    assert sections == ["distribution", "cases", "images", "rules"]


def test_a_screen_reader_finds_headings_in_order_and_captions(tmp_path: Path) -> None:
    results = make(tmp_path)
    change(results, 0, expected_dice=0.9)
    page = Page(write_report(results, run=make_run(tmp_path / "run")))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    drawings = [tag for tag, attrs in page.tags if attrs.get("role") == "img"]
    assert drawings.count("div") == 5  # no figures: of an image nothing inside is read out
    assert set(drawings) == {"div", "svg"}
    assert "The chart is made from the model's own probabilities" in page.text  # one of two


def test_a_mean_of_fewer_images_says_of_how_many(tmp_path: Path) -> None:
    results = make(tmp_path)
    scored = json.loads(results.read_text())
    assert "the others have none" not in Page(write_report(results)).text
    scored["per_image"]["hd95"]["n"] = 2
    results.write_text(json.dumps(scored))
    words = "lower is better; mean of 2 of the 3 images, the others have none"
    assert Page(write_report(results)).text.count("the others have none") == 1
    assert words in Page(write_report(results)).text


def test_confidence_and_choices_are_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(2000)
    before, after = (reliability(p, rng.random(2000) < values) for p in (values**3, values))
    calibration = {"rule": "These pixels.", "temperature": 1.7}
    calibration |= {"before": before.as_dict(), "after": after.as_dict()}
    gain = {"choice": "threshold", "measure": "Dice", "default": 0.5, "value": 0.42}
    gain |= {"before": 0.8, "after": 0.81, "confirmed": [0.012, 0.008], "images": 24, "kept": True}
    tuned = {"temperature": 1.7, "thresholds": [0.42], "smallest": [40], "holes": [0]}
    tuned |= {"tta": False, "gains": [gain], "rule": "Kept if it helps."}
    doubt = {"rank_correlation": 0.87, "unlike": 2}
    results = make(tmp_path, calibration=calibration, doubt=doubt, tuned=tuned, threshold=0.42)
    for index in range(3):
        change(results, index, expected_dice=0.9 - 0.1 * index)
    page = Page(write_report(results))
    sections = [attrs.get("id") for tag, attrs in page.tags if tag == "section" and "id" in attrs]
    assert sections == ["distribution", "cases", "confidence", "tuned", "images", "rules"]
    assert f"Expected calibration error {after.ece:.3f}" in page.text
    assert f"{before.ece:.3f} before the temperature" in page.text
    assert "Rank correlation 0.87" in page.text
    assert "Both charts are made from the model's own probabilities" in page.text
    assert "2 image(s) are unlike the training images" in page.text
    assert "These pixels." in page.text
    assert "Kept if it helps." in page.text
    row = ["threshold", "yes", "0.5", "0.42", "Dice", "0.8000", "0.8100", "+0.0120, +0.0080", "24"]
    assert row in page.rows
    assert (
        "Logits are divided by 1.7. A pixel is foreground from a probability of 0.42" in page.text
    )
    assert "Objects of fewer pixels are removed: 40." in page.text


def test_masks_that_may_be_wrong_say_how_much_of_them(tmp_path: Path) -> None:
    shares = {"cell2": 0.876, "cell0": 0.004, "cell1": 0.0}
    listed = [
        {"image": name, "mask": f"{name}.png", "score": 2.5, "reason": "beside", "share": share}
        for name, share in shares.items()
    ]
    suspects = {"rule": "The largest.", "images": listed}
    page = Page(write_report(make(tmp_path, suspects=suspects)))
    words = page.text.partition("Masks that may be wrong")[2]
    parts = words.split("beside")
    assert parts[1].startswith(" (88% of the area). Score 2.500")
    assert parts[2].startswith(" (under 1% of the area). Score 2.500")
    assert parts[3].startswith(". Score 2.500")
    assert "Masks that may be wrong The largest." in page.text


def test_thresholds_of_several_classes_are_named(tmp_path: Path) -> None:
    results = make_several(tmp_path, overlapping=True)
    whole = json.loads(results.read_text())
    names = [one["name"] for one in whole["labels"]["classes"]]
    limits = [0.3 + 0.1 * k for k in range(len(names))]
    results.write_text(
        json.dumps(whole | {"threshold": limits, "tuned": {"holes": [9] * len(names), "gains": []}})
    )
    words = Page(write_report(results)).text
    for name, limit in zip(names, limits, strict=True):
        assert f"{name} {limit:g}" in words
    assert f"Holes of up to so many pixels are filled: {names[0]} 9" in words


def test_the_temperature_of_folds_is_told(tmp_path: Path) -> None:
    results = make(tmp_path)
    whole = json.loads(results.read_text())
    results.write_text(json.dumps(whole | {"model": whole["model"] | {"temperature": 1.5}}))
    words = "The logits of each model are divided by 1.5 before the mean."
    assert words in Page(write_report(results)).text
    both = {
        "model": whole["model"] | {"temperature": 1.5},
        "tuned": {"temperature": 1.5, "gains": []},
    }
    results.write_text(json.dumps(whole | both))  # out of fold, where one model draws each image
    page = Page(write_report(results)).text
    assert words in page
    assert "Logits are divided" not in page


def test_problems_say_whether_the_file_was_used(tmp_path: Path) -> None:
    words = {"path": "a.png", "what": "grey", "expected": "more", "fix": "look"}
    problems = [words | {"severity": "warning"}, words | {"path": "b.png", "severity": "error"}]
    page = Page(write_report(make(tmp_path, problems=problems)))
    assert "a.png used all the same grey" in page.text
    assert "b.png grey" in page.text


def test_of_many_problems_the_page_shows_the_first(tmp_path: Path) -> None:
    words = {"what": "grey", "expected": "more", "fix": "look", "severity": "error"}
    problems = [{"path": f"bad{number}.png"} | words for number in range(1500)]
    page = Page(write_report(make(tmp_path, problems=problems)))
    assert "1,500 found" in page.text
    assert "bad199.png" in page.text
    assert "bad200.png" not in page.text
    assert "1,300 more stand in results.json." in page.text


def test_figures_are_those_of_the_results(tmp_path: Path) -> None:
    results = make(tmp_path, count=5)
    page = Page(write_report(results))
    scored = json.loads(results.read_text())
    for name, figure in scored["per_image"].items():
        digits = 1 if name == "hd95" else 3
        ends = f"{figure['low']:.{digits}f} – {figure['high']:.{digits}f}"
        assert f"{figure['mean']:.{digits}f}" in page.words
        assert ends in page.text
    assert f"{scored['pooled']['dice']['value']:.3f}" in page.words
    for name, rule in metrics.RULES.items():
        assert (rule in page.text) == (name != "classes")  # there is but one
    for words in ("ab12" * 16, "runs/a/model.safetensors", "probability of 0.5 on"):
        assert words in page.text


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path), run=make_run(tmp_path / "run")))
    for link in page.values("href") + page.values("src") + page.values("xlink:href"):
        assert link.startswith(("#", "data:")), link
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}


def test_ids_are_unique_and_every_reference_has_one(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path, count=9), run=make_run(tmp_path / "run")))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    references = [link[1:] for link in page.values("href") if link.startswith("#")]
    references += re.findall(r"url\(#([^)]+)\)", page.source) + page.values("for")
    assert len(references) > 20
    assert set(references) <= set(ids)


def test_same_results_give_the_same_bytes_whatever_matplotlib_is_set_to(tmp_path: Path) -> None:
    results, run = make(tmp_path), make_run(tmp_path / "run")
    first = write_report(results, run=run).read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path"}):
        second = write_report(results, run=run).read_bytes()
        assert matplotlib.rcParams["font.size"] == 30
    assert first == second


# Hostile input ---------------------------------------------------------------------------------


def test_markup_in_names_and_values_stays_text(tmp_path: Path) -> None:
    problem = dict.fromkeys(("path", "what", "expected", "fix", "severity"), HOSTILE)
    results = make(tmp_path, problems=[problem], scored_on=HOSTILE)
    change(results, 0, name=HOSTILE)
    page = Page(write_report(results, run=make_run(tmp_path / "run")))
    assert page.source.count("<script") == 1
    assert HOSTILE in page.text
    assert any(row and row[0] == HOSTILE for row in page.rows)
    assert not any(tag in ("b", "i") for tag, attrs in page.tags if not attrs)
    assert ["name", "<b>bold</b>", ""] in page.rows
    assert ["batch_size", "4", "fits & learns <i>well</i>"] in page.rows


def test_policy_admits_the_one_script_of_the_page(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path)))
    policy = next(a["content"] for _, a in page.tags if "Policy" in a.get("http-equiv", ""))
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_name_that_is_no_utf8_is_shown_escaped(tmp_path: Path) -> None:
    results = make(tmp_path)
    change(results, 0, name=b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert "caf\\udce9" in Page(write_report(results)).words


# Pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(13))
def test_groups_hold_the_ends_and_the_middle_and_nothing_twice(count: int) -> None:
    groups = dict(report._groups(range(count)))
    shown = [i for chosen in groups.values() for i in chosen]
    assert len(shown) == len(set(shown)) == min(count, 9)
    assert all(1 <= len(chosen) <= 3 for chosen in groups.values())
    if count:
        assert groups["Worst"][0] == 0
    if count > 1:
        assert groups["Best"][0] == count - 1
    if count > 9:
        assert abs(np.mean(groups["Middle"]) - (count - 1) / 2) <= 0.5


masks = st.integers(1, 9).flatmap(
    lambda width: st.lists(
        st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=9
    )
)


def polygons(outline: str) -> list[Polygon]:
    """The closed rings of an SVG path made of M, relative l and z."""
    rings = []
    for ring in re.findall(r"M([^Mz]+)z", outline):
        start, _, moves = ring.partition("l")
        steps = np.array([start.split(), *np.reshape(moves.split(), (-1, 2))], dtype=int)
        rings.append(Polygon(np.cumsum(steps, axis=0) / 2))
    return rings


@given(masks)
@settings(deadline=None, max_examples=60)
def test_outline_encloses_exactly_the_foreground(rows: list[list[bool]]) -> None:
    mask = np.array(rows, dtype=bool)
    height, width = mask.shape
    centres = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2) + 0.5
    inside = np.zeros(len(centres), dtype=int)
    for polygon in polygons(pictures.outline(mask)):
        inside += polygon.contains_points(centres)
    np.testing.assert_array_equal(inside.reshape(mask.shape) % 2 == 1, mask)


def test_outline_of_a_rectangle_follows_its_border() -> None:
    (ring,) = polygons(pictures.outline(np.ones((3, 5), bool)))
    assert np.shape(ring.vertices) == (8, 2)  # four sides, four cut corners; nothing between
    assert ring.get_extents().bounds == (0, 0, 5, 3)


@given(masks, st.data())
@settings(deadline=None, max_examples=40)
def test_shrunken_mask_keeps_whatever_it_covers(
    rows: list[list[bool]], data: st.DataObject
) -> None:
    mask = np.array(rows, dtype=bool)
    height, width = (data.draw(st.integers(1, length)) for length in mask.shape)
    size = (height, width)
    expected = np.zeros(size, bool)
    for y, x in np.argwhere(mask):
        row = max(i for i in range(size[0]) if i * mask.shape[0] // size[0] <= y)
        column = max(i for i in range(size[1]) if i * mask.shape[1] // size[1] <= x)
        expected[row, column] = True
    np.testing.assert_array_equal(pictures.shrink(mask, size), expected)


def test_eight_bit_picture_is_shown_as_it_is(tmp_path: Path) -> None:
    (picture,) = Page(write_report(make(tmp_path, count=1))).pictures()
    assert picture.shape == (*SIZE, 3)
    assert np.abs(picture.astype(int) - 60).max() <= 2


def test_a_small_range_far_from_zero_is_stretched() -> None:
    shown, note = pictures.visible(np.array([[[10**9], [10**9 + 3]]], np.int32))
    assert shown[0].tolist() == [[0] * 3, [255] * 3]
    assert note == "Brightness stretched for display."


@pytest.mark.parametrize("kind", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_deep_picture_of_any_channels_is_stretched(
    tmp_path: Path, kind: str, channels: int
) -> None:
    results = make(tmp_path, count=1)
    ramp = np.linspace(100, 900, SIZE[0] * SIZE[1]).reshape(*SIZE, 1)
    pixels = np.repeat(ramp, channels, axis=2).astype(kind)
    if kind == "float32":
        pixels[0, 0] = np.nan
    path = tmp_path / "deep.tif"
    layout = None if channels == 1 else "contig"
    tifffile.imwrite(path, pixels.squeeze(), photometric="minisblack", planarconfig=layout)
    change(results, 0, image=str(path))
    page = Page(write_report(results))
    (picture,) = page.pictures()
    low, high = np.percentile(ramp, (1, 99))
    expected = ((ramp - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(picture - expected).mean() < 3
    assert "Brightness stretched" in page.text
    assert ("channels" in page.text.partition("Worst")[2]) == (channels in (2, 5))


def test_large_picture_is_scaled_down_with_its_outline(tmp_path: Path) -> None:
    results = make(tmp_path, count=1)
    mask = np.zeros((1500, 3000), np.uint8)
    mask[700, :] = 1  # one pixel wide: every third row would miss it
    save(tmp_path / "truths" / "cell0.png", mask)
    save(tmp_path / "images" / "cell0.png", np.zeros((1500, 3000), np.uint8))
    page = Page(write_report(results))
    (picture,) = page.pictures()
    assert picture.shape[:2] == (320, 640)
    (truth,) = polygons(next(a["d"] for _, a in page.tags if a.get("id") == "case-1-1-truth"))
    x, y, width, height = truth.get_extents().bounds
    assert (x, width, height) == (0, 640, 1)
    assert abs(y - 700 * 320 / 1500) <= 1
    assert "The prediction is 32 x 24 pixels: not drawn." in page.text


def outline(page: Page, layer: str, case: str = "1-1") -> str:
    return next(a["d"] for _, a in page.tags if a.get("id") == f"case-{case}-{layer}")


def test_a_texture_is_told_and_not_drawn(tmp_path: Path) -> None:
    """Its outline would be megabytes that no browser draws at once."""
    results = make(tmp_path, count=1)
    speckled = np.random.default_rng(0).random((400, 400)) < 0.5
    save(tmp_path / "images" / "cell0.png", np.zeros((400, 400, 3), np.uint8))
    for part, mask in (("truths", np.kron(speckled[::20, ::20], np.ones((20, 20), bool))),
                       ("predictions", speckled)):  # fmt: skip
        save(tmp_path / part / "cell0.png", mask.astype(np.uint8))
    page = Page(write_report(results))
    assert page.text.count("is too fine to be drawn.") == 1
    assert "The prediction is too fine to be drawn." in page.text
    assert len(page.values("d")) > 0
    assert "case-1-1-truth" in page.source
    assert "case-1-1-prediction" not in page.source
    assert len(page.source) < 500_000


def test_truth_is_drawn_as_it_was_understood(tmp_path: Path) -> None:
    results = make(tmp_path, count=1)
    save(tmp_path / "truths" / "cell0.png", blob(9).astype(np.uint8))
    page = Page(write_report(results))
    assert outline(page, "truth") == pictures.outline(blob(9))
    assert outline(page, "prediction") == pictures.outline(blob())


@pytest.mark.parametrize("overlapping", [False, True])
def test_outlines_of_all_classes_are_drawn(tmp_path: Path, overlapping: bool) -> None:
    page = Page(write_report(make_several(tmp_path, overlapping=overlapping)))
    assert "cell2 Dice" in page.text.partition("Worst")[2][:20]
    masks = [class_mask(0, 0), class_mask(1, 0)]
    assert outline(page, "truth") == "".join(map(pictures.outline, masks))
    masks = [class_mask(0, 0), class_mask(1, 2)]
    assert outline(page, "prediction") == "".join(map(pictures.outline, masks))
    best = "".join(pictures.outline(class_mask(k, 0)) for k in range(3))
    assert outline(page, "truth", "3-1") == outline(page, "prediction", "3-1") == best


@pytest.mark.parametrize(
    ("value", "grey", "drawn"),
    [(0xFFFFFF, 255, True), (0x0000FF, 255, False), (0x808080, 255, False), (0, 0, True)],
)
def test_colours_are_not_taken_for_greys(
    tmp_path: Path, value: int, grey: int, drawn: bool
) -> None:
    classes = [{"name": "foreground", "value": value, "kind": "colour"}]
    results = make(tmp_path, count=1, labels=LABELS | {"classes": classes})
    picture = np.full((*SIZE, 3), 255 - grey, np.uint8)  # black and white saved as colours
    picture[blob()] = grey
    save(tmp_path / "predictions" / "cell0.png", picture)
    picture[:] = (value >> 16, value >> 8 & 255, value & 255)
    picture[~blob()] = (9, 8, 7)
    save(tmp_path / "truths" / "cell0.png", picture)
    page = Page(write_report(results))
    assert outline(page, "truth") == pictures.outline(blob())
    predictions = [a["d"] for _, a in page.tags if a.get("id") == "case-1-1-prediction"]
    assert predictions == ([pictures.outline(blob())] if drawn else [])


def test_picture_of_channels_in_several_files(tmp_path: Path) -> None:
    results = make(tmp_path, count=1)
    files = [
        str(save(tmp_path / "images" / f"c{i}.png", np.full(SIZE, 50 * i, np.uint8)))
        for i in range(3)
    ]
    change(results, 0, image=files[0], images=files)
    (picture,) = Page(write_report(results)).pictures()
    assert np.abs(picture - np.array([0.0, 50, 100])).max() <= 3


def test_picture_that_was_turned_upright_is_shown_upright(tmp_path: Path) -> None:
    results = make(tmp_path, count=1)
    across = Image.fromarray(np.zeros((*SIZE[::-1], 3), np.uint8))
    exif = across.getexif()
    exif[0x0112] = 6
    across.save(tmp_path / "images" / "cell0.jpg", exif=exif)
    change(results, 0, image=str(tmp_path / "images" / "cell0.jpg"), turned=True)
    page = Page(write_report(results))
    (picture,) = page.pictures()
    assert picture.shape == (*SIZE, 3)
    assert outline(page, "truth") == pictures.outline(blob())


def test_files_that_vanished_leave_a_note(tmp_path: Path) -> None:
    results = make(tmp_path, count=3)
    (tmp_path / "images" / "cell0.png").unlink()
    (tmp_path / "predictions" / "cell1.png").unlink()
    (tmp_path / "truths" / "cell2.png").write_bytes(b"no image")
    page = Page(write_report(results))
    assert len(page.pictures()) == 2
    for what in ("picture", "prediction", "truth"):
        assert page.text.count(f"The {what} cannot be shown: ") == 1


# Tables and charts -----------------------------------------------------------------------------


def test_table_holds_every_image_worst_first(tmp_path: Path) -> None:
    results = make(tmp_path, count=12)
    change(results, 4, hd95=None, recall=None)
    page = Page(write_report(results))
    rows = [row for row in page.rows if row and row[0].startswith("cell")]
    assert [row[0] for row in rows] == [f"cell{i}" for i in reversed(range(12))]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert rows[7][4] == rows[7][6] == "–"
    assert rows[0][-1] == "32 × 24"


def test_of_many_images_the_worst_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LISTED", 5)
    monkeypatch.setattr(charts, "DOTS", 5)
    results = make(tmp_path, count=12)
    for index in range(12):
        change(results, index, expected_dice=0.9)
    page = Page(write_report(results))
    rows = [row[0] for row in page.rows if row and row[0].startswith("cell")]
    assert rows == [f"cell{i}" for i in (11, 10, 9, 8, 7)]
    assert "The worst images The 5 worst of 12; results.json has all. Worst first;" in page.text
    assert "Each dot below the axis is one of 3 images; the bars count them." in page.text
    assert "Each dot is an image, one of 3: the Dice" in page.text
    for chart in ("dice", "expected"):
        dots = page.source.partition(f'id="{chart}-PathCollection_1"')[2].partition("</svg>")[0]
        assert dots.count("<use") == 4


@pytest.mark.parametrize("overlapping", [False, True])
def test_several_classes_have_a_table_and_words(tmp_path: Path, overlapping: bool) -> None:
    results = make_several(tmp_path, overlapping=overlapping)
    scored = json.loads(results.read_text())
    scored["labels"]["table"][2]["name"] = HOSTILE
    scored["classes"][1]["per_image"]["hd95"]["n"] = 2  # the third image has none
    results.write_text(json.dumps(scored))
    page = Page(write_report(results))
    sections = [attrs.get("id") for tag, attrs in page.tags if tag == "section" and "id" in attrs]
    assert sections == ["classes", "distribution", "cases", "images", "rules"]
    start = next(i for i, one in enumerate(page.rows) if one[:2] == ["Class", "In images"])
    for one, cells in zip(scored["classes"], page.rows[start + 1 :], strict=False):
        dice, name = one["per_image"]["dice"], one["name"]
        held = "1" if name == "rare" else "3"
        interval = f"{dice['low']:.3f} – {dice['high']:.3f}"
        assert cells[:4] == [name, held, f"{dice['mean']:.3f}", interval]
        assert cells[4] == f"{one['per_image']['iou']['mean']:.3f}"
        assert cells[-1] == f"{one['pooled']['dice']['value']:.3f}"
        distance = one["per_image"]["hd95"]
        assert cells[-2] == f"{distance['mean']:.1f}" + (" (2)" if name == "nucleus" else "")
    read = next(i for i, one in enumerate(page.rows) if one[:2] == ["Value", "Class"])
    values = (255, 255, 1) if overlapping else (7, 100, 255)
    assert page.rows[read + 2] == [str(values[0]), "cell", "6%", "3"]
    assert page.rows[read + 3][1] == HOSTILE
    assert page.rows[read + 4] == [str(values[2]), "rare", "0.001%", "3"]
    decides = "of a class from a probability of 0.5" if overlapping else "the largest probability"
    assert decides in page.text
    assert "An image's Dice is the mean over its classes. The average over 3 images" in page.text
    assert metrics.RULES["classes"] in page.text
    worst = scored["images"][2]["classes"]["nucleus"]["dice"]
    assert f"Dice of its classes: nucleus {worst:.3f}, cell 1.000" in page.text
    assert "Dice of its classes: cell 1.000, nucleus 1.000, rare 1.000" in page.text


def test_ignored_areas_are_explained_where_there_are_any(tmp_path: Path) -> None:
    row = {"value": "255", "name": "ignored", "share": 0.1, "images": 1}
    for table in ([], [row]):
        page = Page(write_report(make(tmp_path, labels=LABELS | {"table": table})))
        assert ("In ignored areas only the prediction is drawn" in page.text) == bool(table)
        assert (["255", "ignored", "10%", "1"] in page.rows) == bool(table)


def test_of_many_classes_the_worst_stand_below_a_picture() -> None:
    there = {"tp": 1, "fp": 0, "fn": 0}
    classes = {f"c{i}": there | {"dice": 1 - i / 100} for i in range(20)}
    classes["none"] = dict.fromkeys(("tp", "fp", "fn"), 0) | {"dice": 1.0}
    words = report._class_words(classes)
    assert words.startswith("Dice of its classes: c19 0.810, c18 0.820,")
    assert words.endswith("c12 0.880, 12 more")
    assert report._class_words({"none": classes["none"]}) == ""


def test_log_is_drawn_with_the_best_epoch(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path), run=make_run(tmp_path / "run")))
    for title in ("Loss", "Validation Dice", "Learning rate"):
        assert f"{title} by epoch" in page.values("aria-label")
    assert "Epochs 4 of 4 Epoch kept 3 Validation Dice there 0.800" in page.text


@pytest.mark.parametrize(
    ("log", "titles", "note"),
    [
        ("", [], "The log holds no epoch."),
        ('{"epoch": 1, "loss": NaN}\n', [], "Epochs 1"),
        ('{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "lo', ["Loss"], "Line 2 of log.jsonl"),
        ('{"epoch": 1, "loss": 9, "validation_dice": 0}\n', ["Loss", "Validation Dice"], "1"),
        (
            '{"epoch": 2, "loss": 1}\n{"epoch": 3, "loss": 1}\n{"epoch": 2, "loss": 1}\n',
            ["Loss"],
            "3",
        ),
    ],
)
def test_log_of_any_state_is_shown(tmp_path: Path, log: str, titles: list[str], note: str) -> None:
    page = Page(write_report(make(tmp_path), run=make_run(tmp_path / "run", log)))
    charts = [t.removesuffix(" by epoch") for t in page.values("aria-label") if "by epoch" in t]
    assert charts == titles
    assert note in page.text.partition("Training")[2].partition("All images")[0]


def test_log_that_vanished_leaves_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "log.jsonl").unlink()
    page = Page(write_report(make(tmp_path), run=run))
    assert f"There is no {run / 'log.jsonl'}." in page.text
    assert ["batch_size", "4", "fits & learns <i>well</i>"] in page.rows


def test_an_epoch_logged_twice_counts_as_logged_last() -> None:
    lines = [{"epoch": 1, "loss": 3}, {"epoch": 2, "loss": 2}, {"epoch": 2, "loss": 1}]
    epochs, notes = report._parse_log("\n".join(map(json.dumps, lines)))
    assert [e["loss"] for e in epochs] == [3, 1]
    assert notes == []


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_few_images_give_a_page_too(tmp_path: Path, count: int) -> None:
    page = Page(write_report(make(tmp_path, count=count)))
    assert len(page.pictures()) == count
    assert ("No image could be scored." in page.text) == (count == 0)
    assert ("It comes from one image" in page.text) == (count == 1)
    assert ("A quarter of the images lie" in page.text) == (count == 4)


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("results.json", None, "No such file"),
        ("results.json", b"{", "line 1"),
        ("results.json", b"\xff", "utf-8"),
        ("results.json", b"[]", "it has no"),
        ("results.json", b'{"contorno": "0.1.0"}', "it has no classes, images, labels"),
        ("run/log.jsonl", b"\xff", "utf-8"),
        ("run/config.toml", None, "No such file"),
        ("run/config.toml", b"a = ", "Invalid value"),
    ],
)
def test_unusable_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, what: str
) -> None:
    results, run = make(tmp_path), make_run(tmp_path / "run")
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        write_report(results, run=run)
    (problem,) = caught.value.problems
    assert problem.path == str(tmp_path / name)
    assert what in problem.what
    assert not (tmp_path / "report.html").exists()


# In a browser ----------------------------------------------------------------------------------

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the PATH")
    with playwright.sync_playwright() as library:
        opened = library.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    problem = {"path": "p" * 300, "what": "w", "expected": "e", "fix": "f", "severity": ""}
    results = make(folder, count=12, problems=[problem])
    change(results, 0, name="x" * 300)
    change(results, 1, name=HOSTILE, hd95=None)
    return write_report(results, run=make_run(folder / "run"))


@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_several_classes_without_sideways_scrolling(
    browser: Any, tmp_path: Path, width: int
) -> None:
    results = make_several(tmp_path)
    scored = json.loads(results.read_text())
    scored["classes"][1]["name"] = "n" * 200
    scored["labels"]["table"][1]["name"] = "n" * 200
    results.write_text(json.dumps(scored))
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(write_report(results).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#classes thead button").nth(2).click()
    script = "rows => rows.map(row => row.cells[2].textContent)"
    dice = page.eval_on_selector_all("#classes tbody tr", script)
    assert dice == sorted(dice)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_it_quietly_and_without_sideways_scrolling(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, events, requests = context.new_page(), [], []
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("dialog", lambda dialog: events.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = page.evaluate(
        "(s => [s.backgroundColor, s.color])(getComputedStyle(document.documentElement))"
    )
    dark = [sum(map(int, re.findall(r"\d+", colour))) < 380 for colour in (paper, ink)]
    assert dark == ([True, False] if scheme == "dark" else [False, True])
    context.close()
    assert events == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]


def test_pictures_have_one_height_whatever_their_shape(browser: Any, tmp_path: Path) -> None:
    results = make(tmp_path)
    for name, shape in (("cell0", (90, 20, 3)), ("cell1", (20, 90, 3))):
        save(tmp_path / "images" / f"{name}.png", np.zeros(shape, np.uint8))
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.goto(write_report(results).as_uri())
    sides = page.eval_on_selector_all(
        ".view", "all => all.map(v => [v.offsetWidth, v.offsetHeight])"
    )
    page.close()
    assert len(sides) == 3
    assert all(abs(width - height) <= 1 for width, height in sides)


def test_a_tall_picture_is_no_higher_than_a_phone(browser: Any, tmp_path: Path) -> None:
    results = make(tmp_path)
    for name, shape in (("cell0", (640, 32, 3)), ("cell1", (30, 40, 3)), ("cell2", (40, 30, 3))):
        save(tmp_path / "images" / f"{name}.png", np.zeros(shape, np.uint8))
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(write_report(results).as_uri())
    script = "all => all.map(v => v.offsetHeight / v.offsetWidth)"
    wide_to_tall = sorted(page.eval_on_selector_all(".view", script))
    assert wide_to_tall[:2] == pytest.approx([3 / 4, 4 / 3], rel=0.02)
    for picture in page.locator(".view").all():
        assert picture.bounding_box()["height"] < 740
        picture.click()
        assert picture.bounding_box()["height"] == 740
        page.keyboard.press("Escape")
    page.close()


def test_the_colours_of_the_legend_are_printed(browser: Any, page_file: Path) -> None:
    """Backgrounds are left out on paper, by default: nothing said which outline is the truth."""
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    script = "e => [getComputedStyle(e, '::before'), getComputedStyle(e)]"
    script += ".map(style => style.printColorAdjust)"
    for legend in page.locator(".legend").all():
        assert legend.evaluate(script) == ["exact", "economy"]
    assert page.locator(".scale").evaluate(script)[1] == "exact"
    page.close()


@pytest.mark.parametrize("dice", [0.0, 0.1, 0.3, 0.45, 0.55, 0.79, 0.9, 1.0])
def test_the_line_of_the_mean_crosses_no_words(browser: Any, tmp_path: Path, dice: float) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.set_content(f"<div style='width: 600px'>{histogram([dice, dice], dice)}</div>")
    box = page.locator("text", has_text="mean").bounding_box()
    line = max((p.bounding_box() for p in page.locator("path").all() if p.bounding_box()),
               key=lambda b: b["height"] if b["width"] < 3 else 0)  # fmt: skip
    page.close()
    assert not box["x"] - 40 < line["x"] < box["x"] + box["width"]  # 40: the line beside the words


def test_click_on_a_heading_sorts(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())

    def column(index: int) -> list[str]:
        script = "(rows, i) => rows.map(row => row.cells[i].textContent)"
        found: list[str] = page.eval_on_selector_all(".sortable tbody tr", script, index)
        return found

    scores = column(1)
    assert scores == sorted(scores, key=float)
    heading = page.locator(".sortable thead button")
    heading.nth(6).click()
    distances = column(6)
    assert distances[-1] == "–"
    assert distances[:-1] == sorted(distances[:-1], key=float)
    heading.nth(6).click()
    assert column(6) == [*distances[-2::-1], "–"]  # undefined stays last
    heading.nth(0).click()
    names = [name for name in column(0) if name.startswith("cell")]
    assert names == sorted(names, key=lambda name: int(name[4:]))  # 2 before 10
    page.close()


def test_the_picture_that_the_keyboard_is_at_has_a_frame(browser: Any, page_file: Path) -> None:
    """Around its card, which would cut off a frame around the picture."""
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.locator("#show-prediction").focus()
    page.keyboard.press("Tab")
    script = "all => all.map(e => getComputedStyle(e).outlineStyle)"
    assert page.eval_on_selector_all(".case", script)[:2] == ["solid", "none"]
    page.keyboard.press("Space")
    assert page.locator(".enlarge").first.is_checked()
    page.close()


def test_click_enlarges_a_picture_and_escape_puts_it_back(browser: Any, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 800, "height": 600})
    page.goto(page_file.as_uri())
    picture = page.locator(".view").first
    small = picture.bounding_box()["width"]
    picture.click()
    assert picture.bounding_box() == {"x": 0, "y": 0, "width": 800, "height": 600}
    page.keyboard.press("Escape")
    assert picture.bounding_box()["width"] == small
    assert page.locator(".line.truth").first.is_visible()
    page.locator("label[for=show-truth]").click()
    assert not page.locator(".line.truth").first.is_visible()
    assert page.locator(".line.prediction").first.is_visible()
    page.close()
