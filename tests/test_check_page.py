"""The page of a check: complete, self-contained, safe against its input, readable on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import save
from test_report import ARGUMENTS, HOSTILE, Page, polygons

from contorno.check_page import PICTURES, write_page

SIZE = (24, 32)  # (H, W)
ROWS = [
    {"value": "0", "name": "background", "share": 0.8125, "images": 3},
    {"value": "255", "name": "cell", "share": 0.1875, "images": 2},
]


def blob(value: int = 255, left: int = 4) -> np.ndarray[Any, Any]:
    mask = np.zeros(SIZE, np.uint8)
    mask[6:18, left : left + 12] = value
    return mask


def finding(severity: str = "warning", kind: str = "tiny", **changes: Any) -> dict[str, Any]:
    words = {"path": "/data/a.png", "what": "small", "expected": "large", "fix": "enlarge"}
    return {"severity": severity, "kind": kind} | words | changes


def pair(folder: Path, name: str = "a", mask: np.ndarray[Any, Any] | None = None) -> dict[str, Any]:
    """What a finding says of its pair, with the files."""
    image = save(folder / "images" / f"{name}.png", np.full((*SIZE, 3), 90, np.uint8))
    drawn = save(folder / "masks" / f"{name}.png", blob() if mask is None else mask)
    return {"path": str(image), "image": str(image), "masks": [str(drawn)]}


def result(*findings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "contorno": "0.2.0",
        "images": "data/images",
        "masks": "data/masks",
        "rule": "masks are matched by stem",
        "pairs": 1234,
        "good": 1233,
        "labels": {"note": "255 is cell, 0 is background", "table": ROWS},
        "findings": list(findings),
        "sizes": {
            "smallest": [32, 24],
            "median": [64, 48],
            "largest": [640, 480],
            "channels": [3, 4],
            "dtype": "uint8",
        },
        "groups": None,
        "suggestions": ["Look at it."],
        "seconds": 1.26,
    } | changes


def page_of(tmp_path: Path, *findings: dict[str, Any], **changes: Any) -> Page:
    return Page(write_page(result(*findings, **changes), tmp_path / "check.html"))


def outlines(page: Page) -> list[str]:
    return [attrs["d"] for _, attrs in page.tags if attrs.get("class") == "line"]


# The page as a whole ---------------------------------------------------------------------------


def test_one_pair_alone_is_told_in_the_verdict(tmp_path: Path) -> None:
    page = page_of(tmp_path, finding("error", "one-image"), good=1)
    assert "Nothing can be trained on yet" in page.text


def test_page_lies_where_it_is_told(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert write_page(result(), out) == out
    assert out.read_bytes() == write_page(result(), tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("severities", "good", "verdict"),
    [
        ([], 9, "Nothing wrong was found"),
        (["note"], 9, "Nothing wrong was found"),
        (["warning", "note"], 9, "All pairs can be used, but something looks wrong"),
        (["error", "warning"], 9, "Some pairs cannot be used"),
        (["error"], 1234, "All pairs can be used, but something is wrong"),
        (["error"], 0, "Nothing can be trained on yet"),
        ([], 0, "Nothing can be trained on yet"),
    ],
)
def test_verdict_and_tally_stand_on_top(
    tmp_path: Path, severities: list[str], good: int, verdict: str
) -> None:
    page = page_of(tmp_path, *map(finding, severities), good=good)
    top = page.text.partition("How the masks were understood")[0]
    assert verdict in top
    assert f"Pairs that can be used {good:,} of 1,234" in top
    for severity in ("error", "warning", "note"):
        number = severities.count(severity)
        assert f"{number} {severity}{'' if number == 1 else 's'}" in top
    assert "Look at it." in top
    links = [link for link in page.values("href") if link.startswith("#")]
    assert sorted(links) == sorted(f"#{severity}" for severity in set(severities))


def test_masks_that_were_not_understood_leave_nothing_to_use(tmp_path: Path) -> None:
    page = page_of(tmp_path, finding("error", "not-labels"), labels=None, good=1234)
    assert "Nothing can be trained on yet" in page.text


def test_masks_are_told_by_value_and_class(tmp_path: Path) -> None:
    colours = [
        {"value": "#00ff7f", "class": "leaf", "share": 0.00012, "images": 12345},
        {"value": "#fff;}", "name": "no colour", "share": 0, "images": 0},
    ]
    page = page_of(tmp_path, labels={"note": "As it is.", "table": [*ROWS, *colours]})
    assert ["0", "background", "81.2%", "3"] in page.rows
    assert ["#00ff7f", "leaf", "0.012%", "12,345"] in page.rows
    assert ["#fff;}", "no colour", "0%", "0"] in page.rows
    assert [s for s in page.values("style") if "background" in s] == ["background:#00ff7f"]
    assert "As it is." in page.text
    assert "They were not" in page_of(tmp_path, labels=None).text


def test_findings_come_by_severity_and_kind(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        finding("note", "few-images", path="n"),
        finding("error", "size-mismatch", path="e1"),
        finding("warning", "tiny", path="w"),
        finding("error", "damaged", path="e2"),
        finding("error", "size-mismatch", path="e3"),
        finding("fatal", "", path="x"),
    )
    told = "small expected large to fix enlarge"
    same = "expected large to fix enlarge"
    assert (
        f"Size mismatch 2 {same} e1 small e3 small Damaged 1 e2 {told} Warnings These are used, "
        f"but look wrong. Tiny 1 w {told} Notes Worth knowing; nothing has to be done. "
        f"Few images 1 n {told} Other 1 x {told}"
    ) in page.text


def test_every_finding_tells_what_and_what_to_do(tmp_path: Path) -> None:
    one = finding(path="a/1.png", what="what1", expected="expected1", fix="fix1")
    page = page_of(tmp_path, one)
    assert "a/ 1.png what1 expected expected1 to fix fix1" in page.text
    assert "a/<wbr>1.png" in page.source
    two = finding(path="2.png", what="what2", expected="expected2", fix="fix1")
    page = page_of(tmp_path, one, two)
    assert page.text.count("fix1") == 1  # what all of a kind say is said once
    assert "what2 expected expected2" in page.text
    bare = page_of(tmp_path, finding(expected="", fix=""))
    assert "to fix" not in bare.text
    assert "expected" not in bare.text


def test_a_thousand_findings_stay_readable(tmp_path: Path) -> None:
    several = [finding(path=f"p{i:04}.png", what=f"what{i}") for i in range(1000)]
    page = page_of(tmp_path, *several)
    assert "Tiny 1,000" in page.text
    before, _, after = page.text.partition("488 more")
    assert "p0011.png" in before
    assert "p0012.png" not in before
    assert "p0499.png" in after
    assert "p0500.png" not in page.text
    assert "And 500 more: contorno check --json FILE" in after


def test_set_is_told(tmp_path: Path) -> None:
    of = {f"p{i // 3}_{i}": f"p{i // 3}" for i in range(100)}  # 33 of three, one alone
    page = page_of(tmp_path, groups={"rule": "names that begin alike", "of": of})
    assert "Smallest width × height 32 × 24 pixels Median width × height 64 × 48" in page.text
    assert "Channels 3, 4 Type uint8" in page.text
    assert "33 groups of pictures that belong together Names that begin alike." in page.text
    assert "1 picture stands alone." in page.text
    assert ["p0", "3", "p0_0, p0_2"] in [[c.replace(" ,", ",") for c in row] for row in page.rows]
    assert "And 3 smaller groups." in page.text
    bare = page_of(tmp_path, groups=None, sizes={})
    assert "The set" not in bare.text


def test_origin_names_every_folder(tmp_path: Path) -> None:
    page = page_of(tmp_path, masks={"cell": "data/cells", "wall": "data/walls"})
    assert "Masks of cell data/ cells Masks of wall data/ walls" in page.text
    assert "checked in 1.3 s" in page.text
    page = page_of(tmp_path, masks=None)
    assert "Masks of" not in page.text


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    page = page_of(tmp_path, finding(**pair(tmp_path)))
    for link in page.values("href") + page.values("src"):
        assert link.startswith(("#", "data:")), link
    assert "@import" not in page.source
    assert "url(" not in page.source
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("for")) <= set(ids)


def test_markup_in_names_and_values_stays_text(tmp_path: Path) -> None:
    hostile = dict.fromkeys(("path", "what", "expected", "fix", "kind"), HOSTILE)
    row = {"value": HOSTILE, "name": HOSTILE, "share": 0.5, "images": 1}
    page = page_of(
        tmp_path,
        {"severity": HOSTILE, "image": HOSTILE, "masks": [HOSTILE]} | hostile,
        *[{"severity": "error"} | hostile] * 14,
        images=HOSTILE,
        masks={HOSTILE: HOSTILE},
        rule=HOSTILE,
        labels={"note": HOSTILE, "table": [row]},
        groups={"rule": HOSTILE, "of": {HOSTILE: HOSTILE, "b": HOSTILE}},
        sizes={HOSTILE: HOSTILE},
        suggestions=[HOSTILE],
    )
    assert page.source.count("<script") == 1
    assert page.text.replace("</ s", "</s").count(HOSTILE) > 20
    assert "<script>alert" not in page.source
    (policy,) = [a["content"] for _, a in page.tags if "Policy" in a.get("http-equiv", "")]
    assert "default-src 'none'" in policy


def test_name_that_is_no_utf8_is_shown_escaped(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    page = page_of(tmp_path, finding(path=name, image=f"/nowhere/{name}", masks=[]))
    assert "caf\\udce9" in page.words


# Pictures --------------------------------------------------------------------------------------


def test_pair_is_shown_with_the_outline_of_its_mask(tmp_path: Path) -> None:
    page = page_of(tmp_path, finding(**pair(tmp_path)))
    (picture,) = page.pictures()
    assert picture.shape == (*SIZE, 3)
    assert np.abs(picture.astype(int) - 90).max() <= 2
    (outline,) = outlines(page)
    (ring,) = polygons(outline)
    assert ring.get_extents().bounds == (4, 6, 12, 12)


@pytest.mark.parametrize(
    ("table", "mask", "bounds"),
    [
        (ROWS, blob(200), (4, 6, 12, 12)),  # nearer to 255
        (ROWS, blob(20), None),
        (
            [
                *ROWS[:1],
                {"value": "1", "name": "foreground", "share": 0, "images": 1},
                {"value": "7 other values", "name": "foreground", "share": 0, "images": 1},
            ],
            blob(20),
            (4, 6, 12, 12),  # a numbered object
        ),
        ([*ROWS[:1], {"value": "9", "name": "ignored", "share": 0, "images": 1}], blob(9), None),
        (
            [
                {"value": "#000000", "name": "background", "share": 0, "images": 1},
                {"value": "#ffffff", "name": "cell", "share": 0, "images": 1},
            ],
            blob(255),  # no colour in it: read as grey
            (4, 6, 12, 12),
        ),
        (None, blob(3), (4, 6, 12, 12)),  # not understood: the rarer value
    ],
)
def test_outline_follows_what_the_masks_mean(
    tmp_path: Path, table: Any, mask: np.ndarray[Any, Any], bounds: tuple[int, ...] | None
) -> None:
    nearest = {"value": "3 other values", "name": "the nearest of these", "share": 0, "images": 1}
    labels = None if table is None else {"note": "", "table": table}
    if table is ROWS:
        labels = {"note": "", "table": [*ROWS, nearest]}
    page = page_of(tmp_path, finding(**pair(tmp_path, mask=mask)), labels=labels)
    found = [ring.get_extents().bounds for path in outlines(page) for ring in polygons(path)]
    assert found == ([] if bounds is None else [bounds])
    assert ("The mask is empty." in page.text) == (bounds is None)


@pytest.mark.parametrize("noise", [(1, 0, 0), (250, 250, 240)])
def test_noise_goes_to_the_class_that_is_nearest_in_colour(
    tmp_path: Path, noise: tuple[int, int, int]
) -> None:
    """As numbers, #010000 is nearer to #00ff00 than to #000000; to what is ignored goes nothing."""
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[:, :3] = noise
    mask[6:18, 16:28] = (0, 255, 0)
    colours = {"#000000": "background", "#00ff00": "cell", "#ffffff": "ignored"}
    colours["9 other values"] = "the nearest of these"
    table = [{"value": v, "name": name, "share": 0, "images": 1} for v, name in colours.items()]
    labels = {"note": "", "table": table}
    page = page_of(tmp_path, finding(**pair(tmp_path, mask=mask)), labels=labels)
    found = {ring.get_extents().bounds for path in outlines(page) for ring in polygons(path)}
    assert found == {(16, 6, 12, 12)} | ({(0, 0, 3, 24)} if sum(noise) > 1 else set())


def test_classes_are_outlined_apart(tmp_path: Path) -> None:
    mask = blob(1)
    mask[8:12, 6:10] = 2
    table = [
        {"value": str(value), "name": name, "share": 0, "images": 1}
        for value, name in enumerate(("background", "cell", "nucleus"))
    ]
    page = page_of(
        tmp_path, finding(**pair(tmp_path, mask=mask)), labels={"note": "", "table": table}
    )
    (outline,) = outlines(page)
    bounds = {ring.get_extents().bounds for ring in polygons(outline)}
    assert bounds == {(4, 6, 12, 12), (6, 8, 4, 4)}


def test_overlapping_classes_have_a_mask_each(tmp_path: Path) -> None:
    one = pair(tmp_path)
    second = save(tmp_path / "walls" / "a.png", blob(7, left=18))
    rows = [
        *({**row, "name": f"cell: {row['name']}"} for row in ROWS),
        {"value": "7", "name": "wall: background", "share": 0, "images": 1},
        {"value": "0", "name": "wall: wall", "share": 0, "images": 1},
    ]
    one["masks"].append(str(second))
    page = page_of(
        tmp_path,
        finding(**one),
        masks={"cell": "cells", "wall": "walls"},
        labels={"note": "", "table": rows},
    )
    (outline,) = outlines(page)
    bounds = {ring.get_extents().bounds for ring in polygons(outline)}
    assert bounds == {(4, 6, 12, 12), (0, 0, 32, 24), (18, 6, 12, 12)}


def test_large_picture_is_scaled_down_with_its_outline(tmp_path: Path) -> None:
    image = save(tmp_path / "images" / "a.png", np.zeros((700, 1400), np.uint16))
    mask = np.zeros((700, 1400), np.uint8)
    mask[300] = 255
    drawn = save(tmp_path / "masks" / "a.png", mask)
    page = page_of(tmp_path, finding(image=str(image), masks=[str(drawn)]))
    (picture,) = page.pictures()
    assert picture.shape[:2] == (180, 360)
    (ring,) = polygons(outlines(page)[0])
    assert ring.get_extents().bounds[2:] == (360, 1)
    assert "Brightness stretched" in page.text


def test_what_cannot_be_shown_leaves_a_box_or_a_note(tmp_path: Path) -> None:
    unreadable = tmp_path / "half.png"
    unreadable.write_bytes(b"\x89PNG\r\n\x1a\n")
    rng = np.random.default_rng(0)
    noise = np.where(rng.random((360, 360)) < 0.5, 255, 0).astype(np.uint8)
    square = save(tmp_path / "images" / "b.png", np.zeros((360, 360), np.uint8))
    page = page_of(
        tmp_path,
        finding(image=str(tmp_path / "gone.png"), masks=[]),
        finding(image="zero\0byte.png", masks=[]),
        finding(image=str(unreadable), masks=[]),
        finding(**pair(tmp_path, "c") | {"masks": [str(unreadable)]}),
        finding(**pair(tmp_path, "d", np.zeros((30, 40), np.uint8))),
        finding(image=str(square), masks=[str(save(tmp_path / "masks" / "b.png", noise))]),
        finding(**pair(tmp_path, "e") | {"masks": []}),
        finding(**pair(tmp_path, "f") | {"masks": None}),
    )
    assert page.text.count("The picture cannot be shown.") == 3
    assert page.text.count("The mask cannot be read.") == 1
    assert page.text.count("The mask is 40 × 30 pixels: not drawn.") == 1
    assert page.text.count("The mask is too fine to be drawn.") == 1
    assert "empty" not in page.text
    assert len(page.pictures()) == 5
    assert outlines(page) == []


def test_pictures_are_few_and_shared_out_among_the_kinds(tmp_path: Path) -> None:
    shown = pair(tmp_path)
    several = [finding(kind=f"kind-{i % 9}", **shown) for i in range(360)]
    several += [finding("note", "rare", **shown)]
    page = page_of(tmp_path, *several)
    assert len(page.pictures()) == PICTURES == 60
    _, _, notes = page.source.partition('id="note"')
    assert notes.count("<image") == 1
    counts = [part.count("<image") for part in page.source.split('class="kind"')[1:]]
    assert sorted(counts) == [1, *[6] * 4, *[7] * 5]


# In a browser ----------------------------------------------------------------------------------


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
    shown = pair(folder)
    name = HOSTILE.replace("/", "") + "\n\u202e" + "x" * 200
    odd = pair(folder, name.encode()[:240].decode())
    long = {"value": "7" * 200, "name": "n" * 300, "share": 0.1, "images": 10**9}
    return write_page(
        result(
            *[finding("error", "damaged", **shown, fix="f" * 300)] * 20,
            finding("error", "e" * 200, path="p" * 300, image="/nowhere/x.png"),
            finding("warning", **odd, what="w" * 300),
            *[finding("warning", "y", path=f"{i}" * 150, what="w" * 100) for i in range(20)],
            finding("note", **shown | {"masks": []}),
            images="i" * 300,
            masks={"m" * 200: "f" * 300},
            labels={"note": "n" * 300, "table": [*ROWS, long]},
            groups={"rule": "r" * 300, "of": {"n" * 200: "g" * 200, "m" * 200: "g" * 200}},
            sizes={"smallest": [10**9, 10**9], "dtype": "d" * 200},
            suggestions=["s" * 300],
            pairs=10**9,
            good=10**9,
        ),
        folder / "check.html",
    )


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
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing that holds text may be pressed to a sliver.
    widths = page.eval_on_selector_all(".words, .verdict", "all => all.map(e => e.offsetWidth)")
    assert min(widths) > 150
    paper, ink = page.evaluate(
        "(s => [s.backgroundColor, s.color])(getComputedStyle(document.documentElement))"
    )
    dark = [sum(map(int, re.findall(r"\d+", colour))) < 380 for colour in (paper, ink)]
    assert dark == ([True, False] if scheme == "dark" else [False, True])
    context.close()
    assert events == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]


@pytest.mark.parametrize("width", [390, 800])
def test_click_enlarges_a_picture_and_escape_puts_it_back(
    browser: Any, page_file: Path, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 600})
    page.goto(page_file.as_uri())
    picture = page.locator(".view").first
    small = picture.bounding_box()["width"]
    picture.click()
    assert picture.bounding_box() == {"x": 0, "y": 0, "width": width, "height": 600}
    page.keyboard.press("Escape")
    assert picture.bounding_box()["width"] == small
    assert page.locator(".line").first.is_visible()
    page.locator("label[for=show-masks]").click()
    assert not page.locator(".line").first.is_visible()
    page.close()
