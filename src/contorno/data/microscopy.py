"""Draws pictures that look like fluorescence microscopy of cells, with their exact masks.

Each picture has large irregular cells (cytoplasm and nucleus in two stains) under uneven light,
with things that are not cells: out-of-focus glow, fibres, bubbles and bright debris. A faint cell
in a dark corner is darker than the empty background of a bright corner, so no threshold on grey
values finds the cells, while shape and texture do.

The mask is the exact support of the cells: a pixel belongs to one when its centre does. Everything
is drawn from ``numpy.random.default_rng([seed, index])``, so a picture depends on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from contorno.errors import InputError

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

SMALLEST = 32  # pixels; below that a cell is a handful of pixels


def draw(index: int, *, seed: int = 0, size: int = 512) -> tuple[Bytes, Bytes]:
    """Draw one picture of cells and its mask.

    Args:
        index: number of the picture, 0 or more.
        seed: number of the set, 0 or more; another seed gives other pictures.
        size: height and width in pixels, at least 32. Objects shrink with it.

    Returns:
        The image, (size, size, 3) in 0..255, and the mask, (size, size) with 255 on cells and 0
        elsewhere.

    Raises:
        InputError: an argument is out of range.
    """
    check_arguments(index=index, seed=seed, size=size)
    rng = np.random.default_rng([seed, index])
    scene = _Scene.empty(size)
    look = _Look.sample(rng)
    _add_cells(scene, rng, share=look.share)
    _add_fibres(scene, rng)
    _add_bubbles(scene, rng)
    _add_debris(scene, rng)
    image = _photograph(scene, look, rng)
    return image, np.where(scene.mask, np.uint8(255), np.uint8(0))


@dataclass(frozen=True)
class _Look:
    """What differs from picture to picture: density, stains, light."""

    share: float  # of the area that cells should cover
    cytoplasm: Floats  # (3,) colour of stain 1
    nucleus: Floats  # (3,) colour of stain 2
    medium: Floats  # (3,) colour of the empty background
    darkest: float  # light in the darkest place, as a share of the brightest
    exposure: float
    blur: float  # pixels, standard deviation

    @classmethod
    def sample(cls, rng: Generator) -> _Look:
        tint = rng.uniform(0.7, 1.0)  # 0 would be grey, 1 is the full stain
        shift = rng.uniform(-0.12, 0.12)  # green <-> blue for stain 1, red <-> violet for stain 2
        cytoplasm = _tinted((0.06, 0.74 - shift, 0.72 + shift), tint)
        # Free stain tints the medium, so that colour alone does not give the cells away.
        free = rng.uniform(0.45, 0.95)
        indigo = _tinted((0.17, 0.22, 0.45), tint)
        return cls(
            share=rng.uniform(0.22, 0.46),
            cytoplasm=cytoplasm,
            nucleus=_tinted((1.05, 0.14, 0.78 + shift), tint),
            medium=free * 0.5 * cytoplasm + (1 - free) * indigo,
            darkest=rng.uniform(0.12, 0.22),
            exposure=rng.uniform(1.5, 1.9),
            blur=rng.uniform(0.7, 1.1),
        )


@dataclass
class _Scene:
    """What lies on the slide before light and camera: two stains, stray light, the true mask."""

    cytoplasm: Floats  # (S, S) amount of stain 1
    nucleus: Floats  # (S, S) amount of stain 2
    stray: Floats  # (S, S) white light scattered by fibres, bubbles and debris
    mask: Bools  # (S, S)

    @classmethod
    def empty(cls, size: int) -> _Scene:
        cytoplasm, nucleus, stray = np.zeros((3, size, size), np.float32)
        return cls(cytoplasm, nucleus, stray, mask=np.zeros((size, size), bool))

    @property
    def size(self) -> int:
        return len(self.mask)

    @property
    def unit(self) -> float:
        """Length of one pixel of a 512-pixel picture.

        The exponent keeps cells of a small picture large enough to be seen: at 64 pixels their
        radius is 4 to 8, not 2 to 5.
        """
        return float((self.size / 512) ** 0.75)


@dataclass(frozen=True)
class _Cell:
    """One cell on a square patch of its own, with the centre in the middle."""

    coverage: Floats  # 0..1, share of the pixel inside the outline
    support: Bools  # pixel centres inside the outline
    cytoplasm: Floats
    nucleus: Floats


def _add_cells(scene: _Scene, rng: Generator, *, share: float) -> None:
    """Drop cells, often beside another one, until they cover `share` of the picture."""
    grain = _grain(rng, scene.unit)
    centres: list[Floats] = []
    for _ in range(400):  # a crowded picture may refuse many places; 400 tries are always enough
        if scene.mask.mean() >= share:
            break
        radius = scene.unit * rng.uniform(20, 40)
        centre = _place(rng, scene.size, centres, radius)
        cell = _draw_cell(rng, radius, scene.unit, grain)
        if _lay(scene, cell, centre):
            centres.append(centre)


def _place(rng: Generator, size: int, centres: list[Floats], radius: float) -> Floats:
    """Choose a centre: three times in five at touching distance from a cell that is there."""
    if centres and rng.random() < 0.6:
        angle = rng.uniform(0, 2 * np.pi)
        step = radius * rng.uniform(1.5, 2.4)
        neighbour = centres[rng.integers(len(centres))]
        return np.clip(neighbour + step * np.array([np.sin(angle), np.cos(angle)]), 0, size - 1)
    return rng.uniform(0, size - 1, 2)


def _lay(scene: _Scene, cell: _Cell, centre: Floats) -> bool:
    """Put a cell on top of what is there, unless it would hide too much of it."""
    on_scene, on_patch = _windows(centre, cell.support.shape[0], scene.size)
    support = cell.support[on_patch]
    if np.count_nonzero(scene.mask[on_scene] & support) > 0.12 * np.count_nonzero(cell.support):
        return False
    coverage = cell.coverage[on_patch]
    for layer, amount in ((scene.cytoplasm, cell.cytoplasm), (scene.nucleus, cell.nucleus)):
        # A fifth of the lower cell shines through: cells are not opaque.
        layer[on_scene] += coverage * (amount[on_patch] - 0.8 * layer[on_scene])
    scene.mask[on_scene] |= support
    return True


def _draw_cell(rng: Generator, radius: float, unit: float, grain: Floats) -> _Cell:
    """Draw an elongated, bent, lobed cell of about the area of a disc of `radius`."""
    stretch = np.sqrt(rng.uniform(1.0, 2.1))
    along, across = _rotated(rng, int(1.45 * radius * stretch) + 3)
    across = across + rng.uniform(-0.25, 0.25) / radius * along**2  # banana
    u, v = along / (radius * stretch), across / (radius / stretch)
    reach = np.hypot(u, v) / _lobes(rng, np.arctan2(v, u))  # 1 on the outline
    inside = _distance(reach)
    level = _level(rng)
    nucleus, nucleoli = _draw_nucleus(rng, u, v)
    fibres = _sample(grain, along, across, rng)
    dome = np.sqrt(np.clip(1.05 - reach**2, 0, 1))
    membrane = np.exp(-(((inside - 1.5 * unit) / (1.4 * unit)) ** 2))
    cytoplasm = (0.55 + 0.5 * dome) * (1 + 0.34 * fibres) + 0.40 * membrane
    cytoplasm *= 1 - 0.78 * nucleus
    return _Cell(
        coverage=np.clip(inside + 0.5, 0, 1).astype(np.float32),
        support=reach <= 1,
        cytoplasm=(level * np.maximum(cytoplasm, 0.1)).astype(np.float32),
        nucleus=(level**0.6 * nucleus * (0.95 + 0.16 * fibres + 0.7 * nucleoli)).astype(np.float32),
    )


def _level(rng: Generator) -> float:
    """Choose how much stain a cell took: faint, ordinary or bright."""
    low, high = rng.choice([(0.24, 0.40), (0.45, 0.85), (1.0, 1.4)], p=[0.35, 0.45, 0.2])
    return float(rng.uniform(low, high))


def _lobes(rng: Generator, angle: Floats) -> Floats:
    """Radius of an irregular outline around 1, as a short Fourier series of the angle."""
    degrees = np.linspace(-np.pi, np.pi, 361)  # a table: five cosines per pixel cost too much
    series = np.zeros(361)
    for order, height in ((2, 0.06), (3, 0.08), (4, 0.06), (5, 0.04), (7, 0.02)):
        series += height * rng.normal() * np.cos(order * degrees + rng.uniform(0, 2 * np.pi))
    outline = np.exp(0.3 * np.tanh(series / 0.3))  # 0.74 to 1.35, with no corners
    radius: Floats = np.interp(angle, degrees, outline).astype(np.float32)
    return radius


def _distance(reach: Floats) -> Floats:
    """Distance from the outline in pixels, positive inside; exact to first order near it."""
    down, right = np.gradient(reach)
    slope: Floats = np.maximum(np.hypot(down, right), 1e-6)
    return (1 - reach) / slope


def _draw_nucleus(rng: Generator, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Draw a soft-edged nucleus off centre, and the nucleoli in it, in a cell's own coordinates."""
    shift_u, shift_v = rng.uniform(-0.2, 0.2, 2)
    width, height = rng.uniform(0.32, 0.42), rng.uniform(0.42, 0.54)
    p, q = (u - shift_u) / width, (v - shift_v) / height
    nucleus = 1 / (1 + np.exp(np.minimum((np.hypot(p, q) - 1) * 16, 50)))
    nucleoli = np.zeros_like(u)
    for _ in range(rng.integers(1, 4)):
        spot_p, spot_q = rng.uniform(-0.55, 0.55, 2)
        nucleoli += np.exp(-((p - spot_p) ** 2 + (q - spot_q) ** 2) / 0.03)
    return nucleus, np.minimum(nucleoli, 1)


def _grain(rng: Generator, unit: float) -> Floats:
    """Make a sheet of streaky, granular texture, (256, 256), that every cell takes a piece of."""
    noise = rng.standard_normal((3, 256, 256), dtype=np.float32)
    sheet = np.zeros((256, 256), np.float32)
    # Streaks along the cell (its skeleton), fine granules, broad patches; in pixels down, right.
    for layer, sigma, weight in zip(
        noise, ((0.9, 6), (1.1, 1.1), (6, 9)), (0.5, 0.5, 0.6), strict=True
    ):
        smooth = ndimage.gaussian_filter(layer, np.multiply(sigma, unit), mode="wrap")
        sheet += weight * smooth / smooth.std()
    return sheet


def _sample(sheet: Floats, along: Floats, across: Floats, rng: Generator) -> Floats:
    """Read a texture sheet at a cell's own coordinates from a random place, wrapping around."""
    down, right = rng.uniform(0, 256, 2)
    places = [across + down, along + right]
    texture: Floats = ndimage.map_coordinates(sheet, places, order=1, mode="grid-wrap")
    return texture


def _add_fibres(scene: _Scene, rng: Generator) -> None:
    """Add thin curved fibres: long, one to two pixels wide, brighter than what they cross."""
    trails = np.zeros_like(scene.stray)
    for _ in range(rng.integers(1, 5)):
        length = scene.size * rng.uniform(0.25, 0.9)
        steps = np.arange(0, length, 0.5)
        turn = rng.normal(0, 1.2) / length + np.cumsum(rng.normal(0, 0.003, steps.size)) / 10
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turn) * 0.5
        path = rng.uniform(0, scene.size, (2, 1)) + 0.5 * np.cumsum(
            [np.sin(heading), np.cos(heading)], axis=1
        )
        strength = rng.uniform(0.5, 1.1) * (1 + 0.3 * np.sin(steps / (9 * scene.unit)))
        _stamp(trails, path, strength)
    width = rng.uniform(0.6, 1.0) * scene.unit**0.5
    scene.stray += ndimage.gaussian_filter(trails, width)


def _stamp(layer: Floats, path: Floats, strength: Floats) -> None:
    """Set the pixels under a line of points half a pixel apart, (2, K), to its strength, (K,)."""
    rows, columns = np.rint(path).astype(np.intp)
    kept = (rows >= 0) & (rows < layer.shape[0]) & (columns >= 0) & (columns < layer.shape[1])
    layer[rows[kept], columns[kept]] = strength[kept]


def _add_bubbles(scene: _Scene, rng: Generator) -> None:
    """Add small round bubbles: a bright ring with an empty middle and a dark fringe."""
    for _ in range(rng.integers(2, 8)):
        radius = scene.unit * rng.uniform(5, 13)
        half = int(2 * radius) + 3
        along, across = _rotated(rng, half)
        away = np.hypot(along, across) - radius
        wall = np.exp(-((away / (1.2 * scene.unit)) ** 2))
        lit = 1 + 0.6 * along / (np.hypot(along, across) + 1)  # brighter on one side
        ring = rng.uniform(0.4, 1.0) * lit * wall
        on_scene, on_patch = _windows(rng.uniform(0, scene.size, 2), ring.shape[0], scene.size)
        scene.stray[on_scene] += ring[on_patch]


def _add_debris(scene: _Scene, rng: Generator) -> None:
    """Add bright specks, alone and in swarms."""
    for _ in range(rng.integers(4, 10)):
        swarm = rng.integers(1, 9)
        spots = rng.uniform(0, scene.size, 2) + rng.normal(0, 12 * scene.unit, (swarm, 2))
        for spot in spots:
            sigma = max(0.7, scene.unit * rng.uniform(0.8, 2.2))
            half = int(3 * sigma) + 1
            along, across = _rotated(rng, half)
            speck = np.exp(-((along / sigma) ** 2 + (across / (0.7 * sigma)) ** 2) / 2)
            on_scene, on_patch = _windows(spot, speck.shape[0], scene.size)
            scene.stray[on_scene] += rng.uniform(0.5, 1.8) * speck[on_patch]


# ------------------------------------------------------------------------------ light and camera


def _photograph(scene: _Scene, look: _Look, rng: Generator) -> Bytes:
    """Light the scene unevenly, add glow, and pass it through optics, sensor and tone curve."""
    light = _light(rng, scene.size, look.darkest)[..., None]
    stains = _stained(look, scene.cytoplasm, scene.nucleus)
    # Stained cells light up what is around them, and no medium is quite even.
    wide = 16 * scene.unit
    haze = _stained(
        look,
        ndimage.gaussian_filter(scene.cytoplasm, wide, truncate=3),
        ndimage.gaussian_filter(scene.nucleus, wide, truncate=3),
    )
    medium = look.medium * (1 + 0.05 * _smooth(rng, scene.size, 20))[..., None] + 0.18 * haze
    stray = scene.stray[..., None] * _tinted((0.75, 0.85, 1.0), 1.0)
    glow = _glow(scene, rng)[..., None] * (0.9 * look.cytoplasm + 0.15 * look.nucleus)
    linear = light * (stains + medium + stray + glow)  # (S, S, 3)
    blur = look.blur * scene.unit**0.5
    linear = ndimage.gaussian_filter(linear, (blur, blur, 0))
    exposed = 1 - np.exp(-look.exposure * linear)  # highlights roll off instead of clipping
    shot = rng.standard_normal(exposed.shape, dtype=np.float32)
    read = rng.standard_normal(exposed.shape[:2], dtype=np.float32)[..., None]
    # Photon noise grows with the square root of the light; read noise is common to the channels.
    noisy = exposed + 0.055 * np.sqrt(exposed) * shot + 0.018 * read
    image: Bytes = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    return image


def _stained(look: _Look, cytoplasm: Floats, nucleus: Floats) -> Floats:
    """Colour two stain layers, (S, S) each, and add them up, (S, S, 3)."""
    return cytoplasm[..., None] * look.cytoplasm + nucleus[..., None] * look.nucleus


def _light(rng: Generator, size: int, darkest: float) -> Floats:
    """Make the light of a badly aligned lamp: a bright place off centre that falls off widely."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
    away = np.hypot(y - offset * np.sin(angle), x - offset * np.cos(angle))
    light: Floats = np.exp(-((away / rng.uniform(0.85, 1.1)) ** 2)) + 0.06 * _smooth(rng, size, 5)
    light = (light - light.min()) / np.ptp(light)
    return darkest + (1 - darkest) * light


def _glow(scene: _Scene, rng: Generator) -> Floats:
    """Make large out-of-focus blobs: cells above or below the plane that is sharp."""
    y, x = np.ogrid[: scene.size, : scene.size]
    glow = np.zeros((scene.size, scene.size), np.float32)
    for _ in range(rng.integers(2, 6)):
        row, column = rng.uniform(0, scene.size, 2)
        sigma_y, sigma_x = scene.unit * rng.uniform(22, 55, 2)
        blob = np.exp(-((y - row) ** 2) / (2 * sigma_y**2)) * np.exp(
            -((x - column) ** 2) / (2 * sigma_x**2)
        )
        glow += rng.uniform(0.25, 0.7) * blob.astype(np.float32)
    return glow


def _smooth(rng: Generator, size: int, knots: int) -> Floats:
    """Make smooth noise of about unit height by cubic interpolation between `knots`^2 values."""
    values = rng.standard_normal((knots, knots), dtype=np.float32)
    noise: Floats = ndimage.zoom(values, size / knots, order=3, mode="nearest", grid_mode=True)
    return noise


def _tinted(colour: tuple[float, float, float], tint: float) -> Floats:
    """Move an RGB colour towards the grey of its own mean as `tint` goes from 1 to 0."""
    rgb = np.array(colour, np.float32)
    tinted: Floats = rgb.mean() + np.float32(tint) * (rgb - rgb.mean())
    return tinted


def _rotated(rng: Generator, half: int) -> tuple[Floats, Floats]:
    """Coordinates of a patch of 2 `half` + 1 pixels along and across a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _windows(
    centre: Floats, length: int, size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a square patch around `centre` lies in the scene, and which part of it that is."""
    on_scene, on_patch = [], []
    for position in np.rint(centre).astype(int):
        start = int(position) - length // 2
        low = max(start, 0)
        high = max(min(start + length, size), low)  # low: the patch lies outside altogether
        on_scene.append(slice(low, high))
        on_patch.append(slice(low - start, high - start))
    return (on_scene[0], on_scene[1]), (on_patch[0], on_patch[1])


def check_arguments(*, size: int, **counts: int) -> None:
    """Refuse a size below the smallest and negative numbers, all at once."""
    wrong = [f"{name} ({value}) must be 0 or more" for name, value in counts.items() if value < 0]
    if size < SMALLEST:
        wrong.append(f"size ({size}) must be at least {SMALLEST}")
    if wrong:
        raise InputError("cannot draw the demo set: " + "; ".join(wrong))
