"""Turn what `contorno check` found into one self-contained HTML page.

Shows the verdict, how the masks were understood and every finding, with a picture of the pairs that
are spoken of; fills `check.html.j2`. Judges nothing: what is wrong is decided in `data.check`.

Pictures, escaping and the page's content policy are those of `report`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from contorno.data.labels import distance
from contorno.files import write_bytes
from contorno.images import ImageError, RawMask, read_channels, read_raw_mask
from contorno.pictures import figure, jpeg, outline, policy_hash, shrink, visible

Bools = NDArray[np.bool_]
Table = list[dict[str, Any]]

PICTURES = 60  # on a page: about 3 MB
_LONG_SIDE = 360  # pixels of a picture
_OUTLINE = 40_000  # characters: an outline with more is a texture that nobody can read
_OPEN = 12  # findings of a kind that are shown at once
_LISTED = 500  # of a kind at all: the rest stands in the JSON
_GROUPS = 30  # that are listed, the largest first
_BEHIND = ("background", "ignored")
_SEVERITIES = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def write_page(result: dict[str, Any], out: Path) -> Path:
    """Write the result of `contorno check` as a single HTML file.

    Args:
        result: what `check` returns. A finding may name an "image" and its "masks": these are shown
            for up to `PICTURES` findings, shared out among the kinds of finding.
        out: the page to write.

    Returns:
        The path of the page.

    Raises:
        StorageError: the page cannot be written. A picture that cannot be read is no error: a box
            stands in its place.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"policy_hash": policy_hash, "percent": _percent, "figure": figure}
    environment.filters["breakable"] = _breakable
    template = files("contorno").joinpath("check.html.j2").read_text(encoding="utf-8")
    kinds = _kinds(result["findings"])
    _add_pictures(kinds, result)
    labels = result["labels"] or {"note": "", "table": []}
    count = Counter(_severity(finding) for finding in result["findings"])
    page = environment.from_string(template).render(
        result=result,
        count={severity: count[severity] for severity in _SEVERITIES},
        note=labels["note"],
        rows=[_row(row) for row in labels["table"]],
        severities=[
            (severity, title, [kind for kind in kinds if kind["severity"] == severity])
            for severity, title in _SEVERITIES.items()
            if count[severity]
        ],
        pictures=any(finding["case"] for kind in kinds for finding in kind["shown"]),
        sizes=result["sizes"],
        groups=_groups(result["groups"]),
    )
    # A name that is no valid UTF-8 arrives as lone surrogates, which cannot be encoded.
    write_bytes(out, page.encode("utf-8", "backslashreplace"))
    return out


def replaceable(file: Path) -> bool:
    """Whether there is no such file, or an empty one, or one that `contorno check` wrote."""
    if not file.is_file():  # a device or a pipe is written into
        return True
    try:
        data = file.read_bytes()
    except OSError:
        return False
    result = data.startswith(b'{\n "contorno":') and b'\n "findings":' in data
    return not data or result or b"contorno check</title>" in data


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _breakable(path: str) -> Markup:
    """A path that may be broken after each of its folders."""
    return Markup("/<wbr>").join(str(path).split("/"))


def _severity(finding: Mapping[str, Any]) -> str:
    severity = finding["severity"]
    return severity if severity in _SEVERITIES else "note"


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of values; `colour` is safe in a style sheet, or empty."""
    value = str(row["value"])
    colour = value if re.fullmatch(r"#[0-9a-f]{6}", value, re.ASCII | re.IGNORECASE) else ""
    name = row["name"] if "name" in row else row["class"]
    counted = {"share": row["share"], "images": row["images"]}
    return {"value": value, "name": name, "colour": colour} | counted


def _kinds(findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Findings by severity and kind, in order; what all of a kind expect or advise is told once."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for finding in findings:
        grouped[_severity(finding), finding["kind"]].append(finding)
    kinds = []
    for (severity, kind), members in grouped.items():
        told = {}
        for key in ("expected", "fix"):
            words = {finding[key] for finding in members}
            told[key] = words.pop() if len(words) == 1 < len(members) else ""
        kinds.append(
            {
                "severity": severity,
                "title": (kind or "other").replace("-", " ").capitalize(),
                "shown": [{**finding, "case": None} for finding in members[:_OPEN]],
                "more": members[_OPEN:_LISTED],
                "left": max(len(members) - _LISTED, 0),
                "count": len(members),
                "told": told,
            }
        )
    return kinds


def _groups(groups: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The largest groups, and how many there are."""
    if groups is None:
        return None
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in groups["of"].items():
        members[group].append(name)
    several = {group: sorted(names) for group, names in members.items() if len(names) > 1}
    largest = sorted(several, key=lambda group: (-len(several[group]), group))
    return {
        "rule": groups["rule"],
        "several": len(several),
        "single": len(members) - len(several),
        "largest": [(g, len(several[g]), several[g][0], several[g][-1]) for g in largest[:_GROUPS]],
        "more": max(len(several) - _GROUPS, 0),
    }


# Pictures


def _add_pictures(kinds: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """Put a "case" into each finding whose picture is shown, as `_picture` returns it."""
    queues = [[f for f in kind["shown"] if f.get("image")] for kind in kinds]
    # The first of each kind, then the second of each: no kind takes all the room.
    turns = [queue[i] for i in range(_OPEN) for queue in queues if i < len(queue)]
    drawn: dict[tuple[str, ...], dict[str, Any]] = {}
    for finding in turns[:PICTURES]:
        masks = tuple(finding.get("masks") or ())
        key = (finding["image"], *masks)
        if key not in drawn:
            drawn[key] = _picture(finding, masks, result)
        finding["case"] = drawn[key]


def _picture(
    finding: Mapping[str, Any], masks: Sequence[str], result: Mapping[str, Any]
) -> dict[str, Any]:
    """One picture with the outline of its masks, ready for the template."""
    name = Path(finding["image"]).name
    case: dict[str, Any] = {"name": name, "picture": None, "outline": "", "notes": []}
    files = [Path(file) for file in finding.get("images", [finding["image"]])]
    pages, turned = result.get("pages", False), finding.get("turned", False)
    try:
        pixels = read_channels(files, pages=pages, upright=turned).array
    except (ImageError, ValueError):  # a name may hold a zero byte
        return case
    height, width = pixels.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))  # (h, w)
    rgb, note = visible(pixels)
    border, notes = _drawn(masks, (height, width), size, _tables(result))
    return case | {
        "picture": jpeg(rgb, size),
        "height": size[0],
        "width": size[1],
        "outline": border,
        "notes": [note, *notes] if note else notes,
    }


def _drawn(
    masks: Sequence[str], shape: tuple[int, int], size: tuple[int, int], tables: Sequence[Table]
) -> tuple[str, list[str]]:
    """The outline of all masks of a picture of `shape`, shown at `size`; what cannot be drawn."""
    notes = []
    border = ""
    for index, path in enumerate(masks):
        try:
            mask = read_raw_mask(Path(path))
        except (ImageError, ValueError):
            notes.append("The mask cannot be read.")
            continue
        if mask.values.shape != shape:
            height, width = mask.values.shape
            notes.append(f"The mask is {width} × {height} pixels: not drawn.")
            continue
        classes = _classes(mask, tables[index] if index < len(tables) else [])
        border += "".join(outline(shrink(one, size)) for one in classes)
    if masks and not notes and not border:
        notes.append("The mask is empty.")
    if len(border) > _OUTLINE:
        return "", [*notes, "The mask is too fine to be drawn."]
    return border, notes


def _tables(result: Mapping[str, Any]) -> list[Table]:
    """The table of values of each mask of a pair: overlapping classes have one mask each."""
    rows = [_row(row) for row in (result["labels"] or {"table": []})["table"]]
    if not isinstance(result["masks"], Mapping):
        return [rows]
    starts = [f"{name}: " for name in result["masks"]]
    return [
        [row | {"name": row["name"].removeprefix(s)} for row in rows if row["name"].startswith(s)]
        for s in starts
    ]


def _classes(mask: RawMask, table: Table) -> Iterator[Bools]:
    """Where each class is that is neither background nor ignored, one after the other."""
    known = {}
    for row in table:
        if row["colour"] or re.fullmatch(r"-?\d+", row["value"], re.ASCII):
            known[int(row["value"].lstrip("#"), 16 if row["colour"] else 10)] = row["name"]
    values, coloured = mask.values, any(row["colour"] for row in table)
    if coloured and mask.kind == "grey":
        values = values.astype(np.int32) * 0x010101  # a coloured one without any colour in it
    present, counts = np.unique(values, return_counts=True)
    if not known:  # then what most pixels have is background
        known = {int(present[counts.argmax()]): _BEHIND[0]}
    nearest = any(row["name"] == "the nearest of these" for row in table)
    anchors = np.array(sorted((v for v, n in known.items() if n != _BEHIND[1]), reverse=True))
    away = distance(present[:, None].astype(np.int64), anchors, "colour" if coloured else "grey")
    named = defaultdict(list)
    for value, near in zip(present.tolist(), anchors[away.argmin(axis=1)].tolist(), strict=True):
        # Of two as near, the higher, as in `Labels`; of no other, a numbered object.
        named[known.get(value, known[near] if nearest else "")].append(value)
    for name, members in named.items():
        if name not in _BEHIND:
            yield np.isin(values, members)
