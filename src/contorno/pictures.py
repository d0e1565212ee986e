"""Pictures and outlines for HTML pages: bytes to look at, borders as SVG paths, safe scripts.

What is shown, and beside what, is left to `report` and `check_page`.
"""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from PIL import Image


def figure(value: float | None, digits: int = 3) -> str:
    """A number for people, – where it is undefined."""
    return "–" if value is None else f"{value:,.{digits}f}"


def policy_hash(script: str) -> str:
    """What a content security policy wants to know of the one script it admits."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def visible(pixels: NDArray[Any]) -> tuple[NDArray[np.uint8], str]:
    """(H, W, C) of any type as (H, W, 3) bytes, with a note on what was done to show it."""
    channels = pixels.shape[2]
    shown = pixels[..., : 3 if channels >= 3 else 1]
    notes = []
    if channels not in (1, 3):
        notes.append(f"Shown: the first {shown.shape[2]} of {channels} channels.")
    if shown.dtype != np.uint8:
        shown = np.stack([_stretch(shown[..., c]) for c in range(shown.shape[2])], axis=-1)
        notes.append("Brightness stretched for display.")
    return np.broadcast_to(shown, (*shown.shape[:2], 3)), " ".join(notes)


def _stretch(channel: NDArray[Any]) -> NDArray[np.uint8]:
    values = channel.astype(np.float64)  # (H, W); a small range may lie far from 0
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    stretched: NDArray[np.uint8] = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    return stretched


def jpeg(rgb: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """(H, W, 3) bytes as a JPEG of `size` (h, w), ready for an image's href."""
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    picture = picture.resize((size[1], size[0]), Image.Resampling.BOX)  # a copy at equal size
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90, subsampling=0)  # full colour: stains are red on pink
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A pixel is foreground if any it covers is: a line one pixel wide must not fall between."""
    for axis, length in enumerate(size):
        starts = np.arange(length) * mask.shape[axis] // length
        mask = np.logical_or.reduceat(mask, starts, axis=axis)
    return mask


def outline(mask: NDArray[np.bool_]) -> str:
    """The border of the foreground as an SVG path in half pixels, where all corners are whole."""
    heights = np.pad(mask, 1).astype(np.float64)
    generator = contour_generator(z=heights, line_type=LineType.ChunkCombinedOffset)
    lines: Any = generator.lines(0.5)  # all rings one after the other; each ends where it began
    (found,), (starts,) = lines
    if found is None:
        return ""
    # Pixel (0, 0) has become (1, 1) and its centre lies at (0.5, 0.5): 2 * (x - 1 + 0.5) = 2x - 1.
    points, ends = np.rint(2 * found - 1).astype(int), starts[1:].astype(int)
    steps = np.delete(np.diff(points, axis=0), ends[:-1] - 1, axis=0)  # none between two rings
    first = np.append(0, ends - np.arange(1, len(ends) + 1))  # a ring has a step less than points
    before = np.roll(steps, 1, axis=0)
    before[first[:-1]] = steps[first[1:] - 1]
    turns = (steps != before).any(axis=1)
    corners = np.delete(points, ends - 1, axis=0)[turns]
    moves = [f"{dx} {dy}" for dx, dy in np.diff(corners, axis=0).tolist()]
    last = np.add.reduceat(turns, first[:-1], dtype=int).cumsum().tolist()
    rings = zip([0, *last[:-1]], last, strict=True)
    return "".join(
        f"M{corners[one, 0]} {corners[one, 1]}l{' '.join(moves[one : end - 1])}z"
        for one, end in rings
    )
