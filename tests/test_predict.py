"""Masks of new files: in the user's own values, each whole or not at all, nothing overwritten."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from making import Array, digests, model_file, save, save_palette
from PIL import Image

from contorno import api, predict, tiles
from contorno.cli import main
from contorno.data.dataset import load as load_data
from contorno.data.demo import draw
from contorno.data.labels import Labels
from contorno.data.pairs import Pair
from contorno.engines.averaging import Averaged
from contorno.errors import ConfigError, InputError, OutOfMemory, Problem, StorageError
from contorno.files import TEMPORARY_PREFIX
from contorno.images import ImageError, read_raw_mask
from contorno.model import Model, load
from contorno.outputs import Outputs, unique_names
from contorno.predict import draw_outline, probability_map

SAMPLE = draw(0, size=64)[0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(("a.png", "b.tif", "c.PNG", "odd name %.png")):
        save(folder / name, draw(index, size=64)[0][: 64 - 9 * index])
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = model_file(tmp_path_factory.mktemp("model") / "model.safetensors", SAMPLE)
    return load(path, device="cpu", precision="32")


def drawn(model: Model, path: Path) -> Array:
    """What the model says of a file, in one pass and without the code under test."""
    image = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
    return model.engine.probabilities(image[None])[0, 0] >= 0.5


def predicted(model: Model, inputs: object, out: Path, **options: object) -> predict.Outcome:
    return api.predict(model, inputs, out=out, **options)  # type: ignore[arg-type]


# What is written


def test_a_folder_gives_a_mask_for_each_image(model: Model, photos: Path, tmp_path: Path) -> None:
    before = digests(photos)
    outcome = predicted(model, photos, tmp_path / "out")
    names = ["a.png", "b.png", "c.png", "odd name %.png"]
    assert sorted(p.name for p in outcome.written) == names
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*names, "doubt.csv"])
    assert not outcome.skipped
    assert not outcome.problems
    for source in sorted(photos.glob("*.*")):
        if source.suffix == ".txt":
            continue
        mask = np.asarray(Image.open(tmp_path / "out" / f"{source.stem}.png"))
        truth = drawn(model, source)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, truth * np.uint8(255))
        assert 0.1 < truth.mean() < 0.9
    assert digests(photos) == before


def test_files_folders_patterns_and_lists(model: Model, photos: Path, tmp_path: Path) -> None:
    several = [photos / "b.tif", str(photos / "[ac].*"), str(photos / "b.*")]
    outcome = predicted(model, several, tmp_path / "some")
    assert [p.name for p in outcome.written] == ["b.png", "a.png", "c.png"]
    one = predicted(model, str(photos / "a.png"), tmp_path / "one")
    assert [p.name for p in one.written] == ["a.png"]
    (tmp_path / "list.txt").write_text("c\nodd name %.png\n")
    listed = predicted(model, photos, tmp_path / "listed", files=tmp_path / "list.txt")
    assert [p.name for p in listed.written] == ["c.png", "odd name %.png"]


def labelled(tmp_path: Path, mask: Array, save_mask: object = save) -> Labels:
    """What the package decides on such masks."""
    save(tmp_path / "i.png", SAMPLE)
    save_mask(tmp_path / "m.png", mask)  # type: ignore[operator]
    dataset, _ = load_data([Pair("p", (tmp_path / "i.png",), (tmp_path / "m.png",))], workers=0)
    return dataset.labels


@pytest.mark.parametrize("coding", ["0-1", "7-200", "16-bit", "palette", "colours", "soft"])
def test_masks_come_in_the_users_own_values(tmp_path: Path, photos: Path, coding: str) -> None:
    truth = draw(0, size=64)[1] > 0
    palette = (0, 0, 0, 9, 9, 9, 250, 100, 0)
    if coding == "palette":
        labels = labelled(
            tmp_path, np.where(truth, 2, 1), lambda path, mask: save_palette(path, mask, palette)
        )
        low, high = 1, 2
    elif coding == "colours":
        colours = np.where(truth[..., None], (255, 0, 0), (0, 64, 128)).astype(np.uint8)
        labels, low, high = labelled(tmp_path, colours), 0x004080, 0xFF0000
    elif coding == "soft":
        small = Image.fromarray(truth.astype(np.uint8) * 255).resize((512, 512))
        soft = np.asarray(small.resize((64, 64), Image.Resampling.BILINEAR))
        labels, low, high = labelled(tmp_path, soft), 0, 255
    else:
        low, high = {"0-1": (0, 1), "7-200": (7, 200), "16-bit": (0, 1000)}[coding]
        kind = np.uint16 if coding == "16-bit" else np.uint8
        labels = labelled(tmp_path, np.where(truth, high, low).astype(kind))
    file = model_file(tmp_path / "model.safetensors", SAMPLE, labels=labels)
    model = load(file, device="cpu", precision="32")
    predicted(model, photos / "a.png", tmp_path / "out")
    written = read_raw_mask(tmp_path / "out" / "a.png")
    expected = drawn(model, photos / "a.png")
    assert np.array_equal(written.values, np.where(expected, high, low))
    assert np.array_equal(model.predict(SAMPLE), np.where(expected, high, low))
    assert written.kind == {"palette": "palette", "colours": "colour"}.get(coding, "grey")
    if coding == "palette":
        assert written.palette[:9] == palette


def test_probabilities_as_16_bit_png(model: Model, photos: Path, tmp_path: Path) -> None:
    predicted(model, photos / "a.png", tmp_path, probabilities="png")
    sixteen = np.asarray(Image.open(tmp_path / "a_probability.png"))
    exact = model.probabilities(SAMPLE)
    assert sixteen.max() > 40000
    assert np.abs(sixteen / 65535 - exact).max() <= 0.5 / 65535 + 1e-7
    mask = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(mask > 0, exact >= 0.5)


def test_probabilities_as_float_tiff(model: Model, photos: Path, tmp_path: Path) -> None:
    predicted(model, photos / "a.png", tmp_path, probabilities="tif")
    values = tifffile.imread(tmp_path / "a_probability.tif")
    assert values.dtype == np.float32
    assert np.array_equal(values, model.probabilities(SAMPLE))
    with pytest.raises(ConfigError, match="must be png or tif"):
        predicted(model, photos, tmp_path, probabilities="jpg")


def test_a_model_of_several_classes(photos: Path, tmp_path: Path) -> None:
    labels = Labels(
        values=(0, 100, 200), names=("a", "b", "c"), lookup=((0, 0), (100, 1), (200, 2))
    )
    file = model_file(tmp_path / "m.safetensors", SAMPLE, labels=labels, classes=3)
    model = load(file, device="cpu", precision="32")
    probabilities = model.probabilities(SAMPLE)
    assert probabilities.shape == (64, 64, 3)
    assert np.allclose(probabilities.sum(-1), 1, atol=1e-5)
    predicted(model, photos / "a.png", tmp_path / "out", probabilities="tif", overlay=True)
    mask = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(mask, probabilities.argmax(-1) * 100)
    for index, name in enumerate("abc"):
        one = tifffile.imread(tmp_path / "out" / f"a_probability_{name}.tif")
        assert np.array_equal(one, probabilities[..., index])
    assert (tmp_path / "out" / "a_overlay.png").exists()


def test_classes_whose_names_differ_by_a_space_have_maps_of_their_own(
    photos: Path, tmp_path: Path
) -> None:
    lookup = ((0, 0), (100, 1), (200, 2))
    labels = Labels(values=(0, 100, 200), names=("none", "big cell", "big-cell"), lookup=lookup)
    file = model_file(tmp_path / "m.safetensors", SAMPLE, labels=labels, classes=3)
    model = load(file, device="cpu", precision="32")
    predicted(model, photos / "a.png", tmp_path / "out", probabilities="tif")
    for index, name in enumerate(labels.names):
        one = tifffile.imread(tmp_path / "out" / f"a_probability_{name}.tif")
        assert np.array_equal(one, model.probabilities(SAMPLE)[..., index])


def test_the_overlay_is_the_picture_with_an_outline(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    predicted(model, photos / "a.png", tmp_path, overlay=True)
    shown = np.asarray(Image.open(tmp_path / "a_overlay.png"))
    mask = np.asarray(Image.open(tmp_path / "a.png")) > 0
    marked = (shown == (255, 0, 200)).all(-1)
    assert np.array_equal(shown[~marked], SAMPLE[~marked])
    assert marked.any()
    assert not marked[~mask].any()
    for y, x in np.argwhere(mask)[::7]:  # within 2 steps of background, and no other pixel
        near = [
            (y + dy, x + dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if abs(dy) + abs(dx) <= 2 and 0 <= y + dy < 64 and 0 <= x + dx < 64
        ]
        rim = any(not mask[place] for place in near)
        assert marked[y, x] == rim


@pytest.mark.parametrize(("channels", "kind"), [(1, np.uint16), (2, np.float32), (5, np.uint8)])
def test_overlays_of_any_picture(channels: int, kind: type) -> None:
    image = (np.random.default_rng(0).random((20, 30, channels)) * 200).astype(kind)
    classes = np.zeros((20, 30), np.uint8)
    classes[:10, 5:25] = 1
    shown = np.asarray(draw_outline(image, classes, Labels()))
    marked = (shown == (255, 0, 200)).all(-1)
    assert shown.shape == (20, 30, 3)
    assert marked[9, 5:25].all()
    assert not marked[0, 8:22].any()  # the rim of the picture is no outline
    if kind is not np.uint8:
        assert shown[~marked].max() == 255  # stretched, so that something is seen


# Again, and over what is there


def test_a_second_run_skips_what_is_done(model: Model, photos: Path, tmp_path: Path) -> None:
    predicted(model, photos, tmp_path)
    (tmp_path / "c.png").unlink()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    outcome = predicted(model, photos, tmp_path)
    assert [p.name for p in outcome.written] == ["c.png"]
    assert sorted(p.name for p in outcome.skipped) == ["a.png", "b.png", "odd name %.png"]
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())
    extras = {"overlay": True, "probabilities": "tif"}
    more = predicted(model, photos, tmp_path, **extras)  # something new was asked for
    assert len(more.written) == 4
    assert len(predicted(model, photos, tmp_path, **extras).skipped) == 4


def test_masks_are_done_whatever_number_format_drew_them(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    predicted(model, photos / "a.png", tmp_path, probabilities="tif")
    coarse = load(model.path, device="cpu", precision="bf16", engine="pytorch")
    assert coarse.engine.precision != model.engine.precision
    outcome = predicted(coarse, photos, tmp_path, probabilities="tif")
    assert [p.name for p in outcome.skipped] == ["a.png"]
    assert len(outcome.written) == 3
    assert not outcome.problems


def test_a_mask_that_was_cut_short_is_not_taken_for_done(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    predicted(model, photos / "a.png", tmp_path)
    target = tmp_path / "a.png"
    whole = target.read_bytes()
    target.write_bytes(whole[:-20])
    outcome = predicted(model, photos / "a.png", tmp_path)
    assert not outcome.skipped
    assert not outcome.written
    assert "did not make" in outcome.problems[0].what
    assert predicted(model, photos / "a.png", tmp_path, overwrite=True).written == [target]
    assert target.read_bytes() == whole


def test_what_a_killed_run_left_half_written_goes(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    killed, at_work = (tmp_path / f"{TEMPORARY_PREFIX}{number}" for number in (1, 2))
    for file in (killed, at_work):
        file.touch()
    os.utime(killed, (0, killed.stat().st_mtime - 7200))
    predicted(model, photos / "a.png", tmp_path)
    assert not killed.exists()
    assert at_work.exists()  # another process may be writing it


def test_another_model_does_not_overwrite(model: Model, photos: Path, tmp_path: Path) -> None:
    predicted(model, photos / "a.png", tmp_path / "out")
    before = digests(tmp_path / "out")
    other = load(
        model_file(tmp_path / "other.safetensors", SAMPLE, seed=1), device="cpu", precision="32"
    )
    outcome = predicted(other, photos, tmp_path / "out")
    assert len(outcome.written) == 3
    (problem,) = outcome.problems
    assert problem.path == str(tmp_path / "out" / "a.png")
    assert "--overwrite" in problem.fix
    assert digests(tmp_path / "out")["a.png"] == before["a.png"]
    assert predicted(other, photos / "a.png", tmp_path / "out", overwrite=True).written
    assert digests(tmp_path / "out")["a.png"] != before["a.png"]


@pytest.mark.parametrize(
    "name", ["a.png", "a_probability.png", "a_probability.tif", "a_overlay.png"]
)
def test_a_file_of_the_users_is_not_overwritten(
    model: Model, photos: Path, tmp_path: Path, name: str
) -> None:
    save(tmp_path / name, np.eye(5, dtype=np.uint8))
    before, kind = digests(tmp_path), name[-3:]
    outcome = predicted(model, photos / "a.png", tmp_path, probabilities=kind, overlay=True)
    assert [p.path for p in outcome.problems] == [str(tmp_path / name)]
    assert digests(tmp_path)[name] == before[name]
    assert predicted(
        model, photos / "a.png", tmp_path, probabilities=kind, overlay=True, overwrite=True
    ).written
    assert digests(tmp_path)[name] != before[name]


def test_the_pictures_themselves_are_never_overwritten(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes((photos / "a.png").read_bytes())
    before = digests(folder)
    for overwrite in (False, True):
        outcome = predicted(model, folder, folder, overwrite=overwrite)
        assert len(outcome.problems) == 1
        assert digests(folder) == before


def test_masks_beside_their_pictures_are_no_pictures(model: Model, tmp_path: Path) -> None:
    """Into the folder of the pictures, a second time, with one more picture there."""
    options = {"overlay": True, "probabilities": "tif"}
    for index, names in enumerate((["a", "b"], ["a", "b", "c"])):
        save(tmp_path / f"{names[-1]}.jpg", SAMPLE)
        save(tmp_path / f"{names[0]}.jpg", SAMPLE)
        outcome = predicted(model, tmp_path, tmp_path, **options)
        assert not outcome.problems
        assert [path.stem for path in outcome.written] == (["c"] if index else names)
    tifffile.imwrite(tmp_path / "d.tif", SAMPLE, photometric="rgb")  # says what shape it has
    outcome = predicted(model, tmp_path, tmp_path)
    assert [path.name for path in outcome.written] == ["d.png"]


# Problems


def test_bad_files_are_reported_and_the_rest_is_done(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    save(folder / "good.png", SAMPLE)
    save(folder / "deep.png", SAMPLE[..., 0].astype(np.uint16))
    save(folder / "bands.tif", np.zeros((9, 9, 5), np.uint8))
    (folder / "cut.png").write_bytes((photos / "a.png").read_bytes()[:300])
    (folder / "zero.png").touch()
    os.mkfifo(folder / "fifo.png")
    outcome = predicted(model, [folder, folder / "nowhere.png"], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["doubt.csv", "good.png"]
    problems = {Path(p.path).name: p for p in outcome.problems}
    assert set(problems) == {
        "deep.png",
        "bands.tif",
        "cut.png",
        "zero.png",
        "fifo.png",
        "nowhere.png",
    }
    assert problems["deep.png"].what == "an image of type uint16"
    assert problems["deep.png"].expected == "uint8, as the model was trained on"
    assert problems["bands.tif"].what == "an image of 5 channel(s)"
    assert problems["bands.tif"].expected == "3, as the model was trained on"
    assert all(p.fix for p in problems.values())


def test_links_in_a_circle_are_problems_of_one_picture(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a", "b"):
        save(photos / f"{name}.png", SAMPLE)
    out.mkdir()
    for link in (photos / "round.png", out / "b.png"):
        link.symlink_to(link.name)
    outcome = predicted(model, photos, out)
    assert [path.name for path in outcome.written] == ["a.png"]
    assert [Path(problem.path).name for problem in outcome.problems] == ["b.png", "round.png"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match=r"no image to predict"):
        predicted(model, tmp_path / "none", tmp_path / "circle")
    with pytest.raises(StorageError):
        predicted(model, photos, tmp_path / "circle")


def test_two_images_of_one_name_do_not_share_a_mask(model: Model, tmp_path: Path) -> None:
    first = save(tmp_path / "one" / "a.png", SAMPLE)
    second = save(tmp_path / "two" / "a.png", SAMPLE[::-1].copy())
    outcome = predicted(model, [first, second], tmp_path / "out")
    assert len(outcome.written) == 1
    (problem,) = outcome.problems
    assert problem.path == str(second)
    assert str(first) in problem.what
    (tmp_path / "list.txt").write_text("a\n")
    listed = predicted(model, [first, second], tmp_path / "out2", files=tmp_path / "list.txt")
    assert [p.path for p in listed.problems] == [str(second)]


def test_no_output_takes_the_place_of_another(model: Model, tmp_path: Path) -> None:
    for name in ("a", "a_overlay", "a_probability", "b"):
        save(tmp_path / "i" / f"{name}.png", SAMPLE)
    options = {"overlay": True, "probabilities": "png"}
    outcome = predicted(model, tmp_path / "i", tmp_path / "out", **options)
    assert [path.name for path in outcome.written] == ["a.png", "b.png"]
    named = {Path(p.path).name: p.what for p in outcome.problems}
    assert list(named) == ["a_overlay.png", "a_probability.png"]
    assert all(str(tmp_path / "i" / "a.png") in what for what in named.values())
    plain = predicted(model, tmp_path / "i", tmp_path / "plain")
    assert not plain.problems  # these names are only taken where such files are asked for


def test_a_picture_of_the_same_command_is_not_overwritten(model: Model, tmp_path: Path) -> None:
    first = save(tmp_path / "one" / "a.png", SAMPLE)
    second = save(tmp_path / "two" / "a.png", SAMPLE[::-1].copy())
    before = digests(tmp_path / "two")
    outcome = predicted(model, [first, second], tmp_path / "two", overwrite=True)
    assert not outcome.written
    assert {p.path for p in outcome.problems} == {str(first), str(second)}
    assert str(second) in outcome.problems[0].what
    assert digests(tmp_path / "two") == before


def test_names_of_many_pictures_are_compared_in_no_time(tmp_path: Path) -> None:
    images = [(tmp_path / f"p{number}.tif",) for number in range(20_000)]  # beside their masks

    def outputs(name: str) -> Outputs:
        return Outputs(tmp_path / f"{name}.png", [tmp_path / f"{name}.png"], [], None)

    problems: list[Problem] = []
    began = time.process_time()
    assert len(unique_names(images, (), outputs, problems)) == len(images)
    assert time.process_time() - began < 6
    assert not problems


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_too_long_for_its_outputs_is_a_problem(
    model: Model, tmp_path: Path, overwrite: bool
) -> None:
    long, short = "x" * 245, "a"
    for name in (long, short):
        save(tmp_path / "photos" / f"{name}.png", SAMPLE)
    for _ in range(2):  # whether or not the folder is there
        outcome = predicted(
            model, tmp_path / "photos", tmp_path / "out", overlay=True, overwrite=overwrite
        )
        assert [problem.path for problem in outcome.problems] == [
            str(tmp_path / "photos" / f"{long}.png")
        ]
        assert "overlay.png, which is to be made of it, is refused" in outcome.problems[0].what
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.png",
        "a_overlay.png",
        "doubt.csv",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_file_in_the_place_of_an_output_is_a_problem(
    model: Model, tmp_path: Path, overwrite: bool
) -> None:
    out = tmp_path / "out"
    (out / "a.png").mkdir(parents=True)
    os.mkfifo(out / "b.png")
    os.mkfifo(out / "doubt.csv")
    for name in "abc":
        save(tmp_path / "photos" / f"{name}.png", SAMPLE)
    outcome = predicted(model, tmp_path / "photos", out, overwrite=overwrite)
    assert outcome.written == [out / "c.png"]
    wrong = [out / name for name in ("a.png", "b.png", "doubt.csv")]
    assert [Path(problem.path) for problem in outcome.problems] == wrong
    assert not any(path.is_file() for path in wrong)


def test_no_image_at_all_is_an_error(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image to predict") as caught:
        predicted(model, [tmp_path / "*.png", tmp_path / "x.png"], tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "out").exists()


def test_the_command_counts_and_ends_with_1_on_problems(
    model: Model, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(model.path), str(photos), "--out", str(tmp_path), "--device", "cpu"]
    assert main(words) == 0
    assert "4 mask(s) written" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "nowhere.png"), "--overlay", "--probabilities"]) == 1
    output = capsys.readouterr()
    assert "1 problem(s)" in output.out
    assert "nowhere.png: no such file" in " ".join(output.err.split())
    assert len(list(tmp_path.glob("*_overlay.png"))) == 4
    assert main(words) == 0
    assert "0 mask(s) written" in capsys.readouterr().out


def test_of_thousands_of_problems_a_page_is_printed(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("a\n" + "\n".join(f"gone{i}" for i in range(3000)))
    save(tmp_path / "a.png", SAMPLE)
    words = ["predict", str(model.path), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert main([*words, "--files", str(tmp_path / "list.txt"), "--device", "cpu"]) == 1
    output = capsys.readouterr()
    assert "1 mask(s) written" in output.out
    lines = output.err.splitlines()
    assert "gone0: named in" in lines[1]
    assert lines[0] == "3000 problem(s):"
    assert lines[-1].strip() == "and 2800 more"


# Arrays


def test_a_palette_picture_of_pillow_is_its_colours(model: Model) -> None:
    picture = Image.fromarray(SAMPLE).quantize(16)
    assert picture.mode == "P"
    colours = np.asarray(picture.convert("RGB"))
    assert np.array_equal(model.probabilities(picture), model.probabilities(colours))


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_pillow_is_drawn_as_its_file(model: Model, mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(SAMPLE).convert(mode)
    if mode in ("1", "CMYK"):
        picture.save(tmp_path / "a.tif")
    else:
        picture.convert("RGB").save(tmp_path / "a.tif")
    assert np.array_equal(model.probabilities(picture), model.probabilities(tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (SAMPLE.astype(np.float32), "an image of type float32"),
        (SAMPLE.astype(np.uint16), "an image of type uint16"),
        (SAMPLE.astype(np.int64), "an image of type int64"),
        (SAMPLE > 99, "an image of type bool"),
        (SAMPLE[..., :2], "an image of 2 channel(s)"),
        (SAMPLE[None], "an array of shape (1, 64, 64, 3)"),
        (SAMPLE[0, 0], "an array of shape (3,)"),
        (SAMPLE[:0], "an array of shape (0, 64, 3)"),
        (Image.frombytes("LAB", (64, 64), SAMPLE.tobytes()), "a picture of Pillow in mode LAB"),
    ],
)
def test_arrays_that_do_not_fit(model: Model, image: Any, what: str) -> None:
    with pytest.raises(ImageError) as caught:
        model.predict(image)
    assert caught.value.problem.what == what


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ([], "nothing"),
        ([SAMPLE, SAMPLE], "a list of ndarrays"),
        (SAMPLE.tolist(), "a list of lists"),
        (b"x.png", "a bytes of ints"),
    ],
)
def test_what_is_no_picture(model: Model, image: Any, what: str) -> None:
    with pytest.raises(ImageError, match="give one picture at a time") as caught:
        model.predict(image)
    assert caught.value.problem.what == what


def test_a_tensor_with_gradients_is_its_values(tmp_path: Path) -> None:
    image = SAMPLE.astype(np.float32)
    model = load(model_file(tmp_path / "m.safetensors", image), device="cpu", precision="32")
    tensor = torch.from_numpy(image).requires_grad_()
    assert np.array_equal(model.probabilities(tensor), model.probabilities(image))
    with pytest.raises(ImageError, match="a Tensor: Got unsupported ScalarType BFloat16"):
        model.probabilities(tensor.bfloat16())


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_either_order_of_bytes(tmp_path: Path, kind: type) -> None:
    image = SAMPLE.astype(kind)
    model = load(model_file(tmp_path / "m.safetensors", image), device="cpu", precision="32")
    swapped = image.astype(image.dtype.newbyteorder())
    assert np.array_equal(model.probabilities(swapped), model.probabilities(image))


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    image = SAMPLE.astype(np.float32)
    model = load(model_file(tmp_path / "m.safetensors", image), device="cpu", precision="32")
    image[3, 3, 0] = np.nan
    with pytest.raises(ImageError, match="NaN or infinite"):
        model.probabilities(image)
    path = save(tmp_path / "i.tif", image)
    with pytest.raises(ImageError, match=r"i\.tif: NaN or infinite"):
        model.probabilities(path)


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.uint32])
def test_wide_types_are_predicted_as_they_are_trained_on(tmp_path: Path, kind: type) -> None:
    wide = (SAMPLE[..., 0] * 3).astype(kind)
    save(tmp_path / "i.tif", wide)
    save(tmp_path / "m.png", draw(0, size=64)[1])
    dataset, problems = load_data(
        [Pair("p", (tmp_path / "i.tif",), (tmp_path / "m.png",))], workers=0
    )
    assert not problems
    learnt = dataset.read(0)[0]
    model = load(model_file(tmp_path / "m.safetensors", learnt), device="cpu", precision="32")
    expected = model.engine.probabilities(learnt[None])[0, 0]
    assert np.array_equal(model.probabilities(tmp_path / "i.tif"), expected)
    assert np.array_equal(model.probabilities(wide), expected)
    assert predicted(model, tmp_path / "i.tif", tmp_path / "out").written


def test_grey_and_opaque_alpha_fit_a_colour_model(model: Model, tmp_path: Path) -> None:
    grey = SAMPLE[..., 1]
    assert np.array_equal(model.predict(grey), model.predict(np.stack([grey] * 3, -1)))
    opaque = np.dstack([SAMPLE, np.full((64, 64), 255, np.uint8)])
    assert np.array_equal(model.predict(save(tmp_path / "o.png", opaque)), model.predict(SAMPLE))


# Large pictures


class Watched:
    """The real engine, noting the size of what it is given."""

    def __init__(self, model: Model) -> None:
        self.name, self.model, self.shapes = "watched", model, []
        self.tileable, self.preprocessing = True, model.engine.preprocessing

    def probabilities(self, batch: Array) -> Array:
        self.shapes.append(batch.shape[1:3])
        return self.model.engine.probabilities(batch)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = tiles.stitch.__kwdefaults__
    monkeypatch.setitem(defaults, "whole", 48 * 48)
    monkeypatch.setitem(defaults, "tile", 48)


@pytest.mark.usefixtures("small_tiles")
def test_a_large_picture_is_done_in_tiles_without_seams(model: Model, tmp_path: Path) -> None:
    image = np.concatenate([draw(index, size=96)[0] for index in range(2)], axis=1)
    watched = Watched(model)
    tiled = probability_map(watched, model.card, image)[0]
    assert set(watched.shapes) == {(48, 48)}
    whole = model.engine.probabilities(image[None])[0, 0]
    assert tiled.shape == whole.shape == (96, 192)
    rim = 12  # of a tile: what this network sees beyond its edge
    inner = (slice(rim, -rim), slice(rim, -rim))
    assert np.abs(tiled - whole)[inner].mean() < 0.01
    assert ((tiled >= 0.5) == (whole >= 0.5)).mean() > 0.98
    save(tmp_path / "large.png", image)
    predicted(model, tmp_path / "large.png", tmp_path / "out")
    written = np.asarray(Image.open(tmp_path / "out" / "large.png"))
    assert np.array_equal(written > 0, tiled >= 0.5)


def test_averaging_is_another_prediction(model: Model, photos: Path, tmp_path: Path) -> None:
    predicted(model, photos / "a.png", tmp_path / "plain", probabilities="tif")
    predicted(model, photos / "a.png", tmp_path / "out", probabilities="tif", tta=True)
    image = np.asarray(Image.open(photos / "a.png"))
    plain, averaged = (
        tifffile.imread(tmp_path / name / "a_probability.tif") for name in ("plain", "out")
    )
    assert np.array_equal(averaged, Averaged(model.engine).probabilities(image[None])[0, 0])
    assert not np.array_equal(averaged, plain)
    mask = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(mask > 0, averaged >= 0.5)
    again = predicted(model, photos / "a.png", tmp_path / "out", probabilities="tif", tta=True)
    assert len(again.skipped) == 1
    other = predicted(model, photos / "a.png", tmp_path / "out", probabilities="tif")
    assert other.problems[0].what == "this model made it with --tta"
    other = predicted(model, photos / "a.png", tmp_path / "plain", tta=True)
    assert other.problems[0].what == "this model made it without --tta"
    (tmp_path / "plain" / "b.png").write_bytes((tmp_path / "plain" / "a.png").read_bytes())
    other = predicted(model, photos / "b.tif", tmp_path / "plain", tta=True)
    assert "a file that this model did not make" in other.problems[0].what


# Small pictures together


def counted(model: Model, monkeypatch: pytest.MonkeyPatch, most: int = 99) -> list[int]:
    """How many pictures each pass of the engine has; more than `most` do not fit in memory."""
    passes: list[int] = []
    real = model.engine.probabilities

    def probabilities(batch: np.ndarray) -> np.ndarray:
        passes.append(len(batch))
        if len(batch) > most:
            raise OutOfMemory("too many")
        return real(batch)

    monkeypatch.setattr(model.engine, "probabilities", probabilities)
    return passes


def test_small_pictures_of_one_shape_go_through_together(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    folder, shapes = tmp_path / "photos", [(64, 64)] * 20 + [(48, 64)] * 3 + [(64, 64)] * 2
    for index, shape in enumerate(shapes):
        save(folder / f"p{index:02}.png", rng.integers(0, 255, (*shape, 3), np.uint8))
    save(folder / "p05.png", np.zeros((64, 64), np.uint16))  # of another type
    (folder / "p21.png").write_bytes(b"no picture")
    passes = counted(model, monkeypatch)
    outcome = predicted(model, folder, tmp_path / "out")
    assert passes == [5, 14, 1, 1, 2]
    assert [path.stem for path in outcome.written] == [
        f"p{index:02}" for index in range(25) if index not in (5, 21)
    ]
    assert [Path(problem.path).stem for problem in outcome.problems] == ["p05", "p21"]
    monkeypatch.undo()
    for path in outcome.written:
        alone = model.predict(folder / path.name)
        assert (np.asarray(Image.open(path)) != alone).mean() < 1e-3  # sums of another order


def test_pictures_that_do_not_fit_together_are_drawn_alone(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        save(tmp_path / "photos" / f"{name}.png", SAMPLE)
    passes = counted(model, monkeypatch, most=1)
    outcome = predicted(model, tmp_path / "photos", tmp_path / "out")
    assert passes == [3, 1, 1, 1]
    assert [path.stem for path in outcome.written] == ["a", "b", "c"]
    assert not outcome.problems


def test_large_pictures_go_through_alone(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("contorno.predict"), "_PIXELS", 2 * 64 * 64)
    for name in "abcde":
        save(tmp_path / "photos" / f"{name}.png", SAMPLE)
    passes = counted(model, monkeypatch)
    predicted(model, tmp_path / "photos", tmp_path / "out")
    assert passes == [2, 2, 1]
