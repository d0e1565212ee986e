"""The synthetic set: same every time, hard for a threshold, and never written over other files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from contorno.data.demo import draw, otsu_dice, write
from contorno.errors import InputError

FULL = [draw(index) for index in range(3)]


def digest(index: int, *, seed: int = 0) -> str:
    image, mask = draw(index, seed=seed, size=96)
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reference_otsu_dice(image: np.ndarray, mask: np.ndarray) -> float:
    """Try all thresholds one by one, with the variance between classes as it is defined."""
    grey = np.asarray(Image.fromarray(image).convert("L")).astype(float)
    truth = mask == 255

    def between(threshold: int) -> float:
        dark, bright = grey[grey <= threshold], grey[grey > threshold]
        if not dark.size or not bright.size:
            return 0.0
        return float(dark.size * bright.size * (dark.mean() - bright.mean()) ** 2)

    best = max(range(256), key=between)
    sides = (grey > best, grey <= best)
    return max(float(2 * (side & truth).sum() / (side.sum() + truth.sum())) for side in sides)


def test_a_picture_depends_on_seed_and_index_only() -> None:
    first = digest(4)
    np.random.default_rng().random()  # other random numbers in between change nothing
    assert digest(4) == first
    assert len({first, digest(5), digest(4, seed=1), digest(5, seed=1)}) == 4


@pytest.mark.parametrize("size", [32, 64, 128, 333])
def test_shapes_values_and_share_at_any_size(size: int) -> None:
    for index in range(6):
        image, mask = draw(index, size=size)
        assert (image.shape, image.dtype.name) == ((size, size, 3), "uint8")
        assert (mask.shape, mask.dtype.name) == ((size, size), "uint8")
        assert np.unique(mask).tolist() == [0, 255]
        assert 0.10 < np.mean(mask == 255) < 0.60


def test_full_size_pictures_hold_large_cells_that_touch() -> None:
    for _, mask in FULL:
        assert np.unique(mask).tolist() == [0, 255]
        assert 0.10 < np.mean(mask == 255) < 0.60
        labels, count = ndimage.label(mask)
        areas = ndimage.sum_labels(mask > 0, labels, range(1, count + 1))
        assert np.median(areas) > np.pi * 18**2
        assert areas.max() > 1.5 * np.pi * 40**2  # more than the largest single cell: a group


def test_the_light_is_uneven_and_cells_stand_out_where_they_are() -> None:
    for image, mask in FULL:
        grey = image.mean(axis=2)
        cell, rest = mask == 255, mask == 0
        assert np.percentile(grey[rest], 95) > np.percentile(grey[cell], 25)  # greys overlap
        inner = cell & ~ndimage.binary_erosion(cell, iterations=4, border_value=1)
        outer = rest & ndimage.binary_dilation(cell, iterations=4)
        assert grey[inner].mean() > 1.15 * grey[outer].mean()


def test_no_grey_threshold_is_enough() -> None:
    scores = [otsu_dice(*pair) for pair in FULL]
    scores += [otsu_dice(*draw(index, size=256)) for index in range(40, 46)]
    assert 0.50 < np.mean(scores) < 0.75


@pytest.mark.parametrize("index", range(3))
def test_otsu_agrees_with_trying_every_threshold(index: int) -> None:
    image, mask = draw(index, size=128)
    # Pillow rounds luminance in fixed point, so single pixels may differ by one grey value.
    assert otsu_dice(image, mask) == pytest.approx(reference_otsu_dice(image, mask), abs=0.01)


def test_otsu_takes_the_better_side() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:30] = 255
    bright = np.repeat(np.where(mask, 200, 90).astype(np.uint8)[..., None], 3, axis=2)
    assert otsu_dice(bright, mask) == 1.0
    assert otsu_dice(255 - bright, mask) == 1.0
    assert otsu_dice(np.full_like(bright, 7), np.full_like(mask, 255)) == 1.0


def test_write_numbers_the_pictures_through_and_stores_what_draw_gives(tmp_path: Path) -> None:
    write(tmp_path / "new" / "set", train=2, test=1, seed=3, size=64)
    names = [
        f"{part}/{kind}/cells_{index:03d}.png"
        for index, part in ((2, "test"), (0, "train"), (1, "train"))
        for kind in ("images", "masks")
    ]
    assert sorted(contents(tmp_path / "new" / "set")) == sorted(names)
    for name in names:
        index, is_mask = int(name[-7:-4]), "masks" in name
        with Image.open(tmp_path / "new" / "set" / name) as stored:
            assert stored.mode == ("L" if is_mask else "RGB")
            assert np.array_equal(np.asarray(stored), draw(index, seed=3, size=64)[is_mask])


def test_write_again_changes_nothing_and_completes_a_part(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    write(whole, train=3, test=1, size=48)
    write(part, train=3, test=1, size=48)
    assert contents(part) == contents(whole)
    (part / "train/masks/cells_001.png").unlink()
    (part / ".DS_Store").write_bytes(b"left by a file browser")
    kept = (part / "train/images/cells_001.png").stat().st_mtime_ns
    write(part, train=3, test=1, size=48)
    (part / ".DS_Store").unlink()
    assert contents(part) == contents(whole)
    assert (part / "train/images/cells_001.png").stat().st_mtime_ns == kept


def test_write_refuses_foreign_files_and_leaves_them(tmp_path: Path) -> None:
    write(tmp_path, train=2, test=0, size=48)
    (tmp_path / "train/images/holiday.jpg").write_bytes(b"mine")
    (tmp_path / "train/masks/cells_001.png").write_bytes(b"mine too")
    (tmp_path / "train/masks/cells_000.png").unlink()
    before = contents(tmp_path)
    with pytest.raises(InputError) as caught:
        write(tmp_path, train=2, test=0, size=48)
    assert contents(tmp_path) == before
    named = sorted(Path(problem.path).name for problem in caught.value.problems)
    assert named == ["cells_001.png", "holiday.jpg"]
    assert str(tmp_path) in caught.value.message
    assert "empty folder" in caught.value.message


def test_write_refuses_another_set(tmp_path: Path) -> None:
    write(tmp_path, train=1, test=1, size=48)
    for other in ({"seed": 1}, {"size": 64}, {"train": 0}):
        with pytest.raises(InputError, match="already holds something else"):
            write(tmp_path, **{"train": 1, "test": 1, "size": 48, **other})


def test_write_refuses_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is a file"):
        write(tmp_path / "notes.txt", train=1, test=0, size=48)


def test_a_truncated_file_is_a_difference_wherever_it_ends(tmp_path: Path) -> None:
    write(tmp_path, train=1, test=0, size=32)
    path = tmp_path / "train/masks/cells_000.png"
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            write(tmp_path, train=1, test=0, size=32)


def test_bad_arguments_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index \(-1\).*seed \(-2\).*size \(8\)"):
        draw(-1, seed=-2, size=8)
    with pytest.raises(InputError, match=r"train \(-1\).*test \(-3\)"):
        write(tmp_path / "set", train=-1, test=-3)
    assert not (tmp_path / "set").exists()
