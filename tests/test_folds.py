"""Folds: every image scored by the model that has not seen it, stopped and resumed exactly."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import EXACT, digest, digests, easy, save
from PIL import Image

import contorno
from contorno import folds
from contorno.card import ModelCard, Tuned
from contorno.cli import main
from contorno.config import NetworkConfig, Preprocessing, read_config
from contorno.engines import whole_image
from contorno.ensemble import pooled_card
from contorno.errors import ConfigError, InputError, Interrupted, ModelFileError
from contorno.finish import finish
from contorno.model import EnsembleModel
from contorno.trainer import Trainer

FOLDS = 3
OPTIONS = {"widths": (4, 8), "crop": 32, "epochs": 4, "learning_rate": 0.02, "batch_size": 4}
CPU = {"device": "cpu", "precision": "32"}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs: a1, a2, b1, b2, ... two of each group; 9 groups."""
    root = easy(tmp_path_factory.mktemp("discs"), 18)
    for kind in ("images", "masks"):
        for index in range(18):
            name = f"{'abcdefghi'[index // 2]}{index % 2 + 1}.png"
            (root / kind / f"p{index}.png").rename(root / kind / name)
    return root


def train(root: Path, run: Path, **options: Any) -> contorno.Model:
    given = OPTIONS | EXACT | {"folds": FOLDS, "group": "^[a-z]"} | options
    return contorno.train(root / "images", root / "masks", out=run, **given)


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = train(discs, folder)
    assert isinstance(model, EnsembleModel)
    return folder


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def picture(root: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(root / "images" / f"{name}.png"))


# The folds


def test_every_image_validates_once_and_no_group_is_parted(run: Path, discs: Path) -> None:
    names = sorted(path.stem for path in (discs / "images").iterdir())
    validated: list[str] = []
    for fold in range(1, FOLDS + 1):
        parts = json.loads((run / f"fold{fold}" / "split.json").read_text())
        validated += parts["validation"]
        assert sorted([*parts["training"], *parts["validation"]]) == names
        groups = [{name[0] for name in parts[part]} for part in ("training", "validation")]
        assert not groups[0] & groups[1]
        assert "groups are not parted" in parts["rule"]
    assert sorted(validated) == names
    assert [len(part) for part in folds.read_plan(run).parts] == [6, 6, 6]
    assert results(run)["groups"] == {name: name[0] for name in names}  # over which intervals are
    of_fold = results(run / "fold1")["groups"]
    assert of_fold == {name: name[0] for name in of_fold}
    assert len(of_fold) == 6


def test_each_fold_is_an_ordinary_run(run: Path, discs: Path) -> None:
    seeds, prepared = set(), set()
    for fold in range(1, FOLDS + 1):
        names = {path.name for path in (run / f"fold{fold}").iterdir()}
        wanted = {"config.toml", "split.json", "log.jsonl", "model.safetensors", "state"}
        assert names >= wanted | {"results.json", "report.html"}
        config = read_config(run / f"fold{fold}" / "config.toml")
        assert config.data.validation == pytest.approx(1 / FOLDS)
        seeds.add(config.training.seed)
        prepared.add(config.preprocessing.model_dump_json())  # the mean hands one picture to all
        assert contorno.load(run / f"fold{fold}", **CPU).predict(picture(discs, "a1")).any()
    assert seeds == {0, 1, 2}
    assert len(prepared) == 1


def test_progress_says_which_fold(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(discs, tmp_path / "run", folds=2, epochs=1)
    said = capsys.readouterr().out
    assert said.count("pairs (") == 1  # read once
    assert said.index("Fold 1 of 2") < said.index("Fold 2 of 2") < said.index("Out-of-fold Dice")


# Out of fold


def test_the_scores_are_those_of_the_models_that_have_not_seen_the_image(
    run: Path, discs: Path
) -> None:
    found = results(run)
    ensemble = contorno.load(run, **CPU, engine="pytorch")
    card = ensemble.card.model_copy(
        update={
            "tuned": ensemble.card.tuned.model_copy(
                update={
                    "temperature": json.loads((run / "ensemble.json").read_text())["temperature"]
                }
            )
        }
    )
    plan = folds.read_plan(run)
    assert len(found["images"]) == 18
    for row in found["images"]:
        assert row["name"] in plan.parts[row["fold"] - 1]
        member = ensemble.members[row["fold"] - 1]
        image = picture(discs, row["name"])
        drawn = finish(whole_image(member.engine, image[..., None]), card) == 1
        truth = np.asarray(Image.open(discs / "masks" / f"{row['name']}.png")) > 0
        expected = 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum())
        assert row["dice"] == pytest.approx(expected)
    for fold in found["folds"]:
        dice = [row["dice"] for row in found["images"] if row["fold"] == fold["fold"]]
        assert (fold["images"], fold["dice"]) == (6, pytest.approx(np.mean(dice)))
    assert "each by the one of 3 models that was not trained on it" in found["scored_on"]
    assert found["model"]["sha256"] == ensemble.sha256
    page = (run / "report.html").read_text()
    assert found["scored_on"] in page
    assert "Masks that may be wrong" in page
    assert page.count('for="suspect-') == 9
    assert all(f"fold{fold}/report.html" in page for fold in range(1, FOLDS + 1))


def test_the_gains_are_of_all_images(run: Path) -> None:
    tuned = contorno.load(run, **CPU).card.tuned
    assert {gain.images for gain in tuned.gains} == {18}
    assert tuned.temperature == 1  # the members' before the mean


# One model


def test_the_mean_has_seen_what_any_of_its_members_has() -> None:
    seen = [((5.0, 200.0), 90.0), ((0.0, 180.0), 120.0), (None, 100.0), ((3.0, 250.0), 110.0)]
    cards = [
        ModelCard(
            network=NetworkConfig(),
            preprocessing=Preprocessing(range=span, dimmest=dimmest),
            tuned=Tuned(thresholds=(0.3,), temperature=2.0),
        )
        for span, dimmest in seen
    ]
    pooled = pooled_card(cards)
    assert (pooled.preprocessing.range, pooled.preprocessing.dimmest) == ((0.0, 250.0), 90.0)
    assert pooled.tuned == Tuned()
    assert pooled_card(cards[2:3]).preprocessing.range is None


def test_probabilities_are_the_mean_of_the_members(run: Path, discs: Path) -> None:
    ensemble = contorno.load(run, **CPU, engine="pytorch")
    temperature = json.loads((run / "ensemble.json").read_text())["temperature"]
    image = picture(discs, "c2")
    each = []
    for fold in range(1, FOLDS + 1):
        model = contorno.load(run / f"fold{fold}", **CPU, engine="pytorch")
        raw = whole_image(model.engine, image[..., None])[0].astype(np.float64)
        raw = raw.clip(max=1 - 2**-24)  # what float32 rounds to 1 has a logit of its own
        each.append(1 / (1 + (1 / raw - 1) ** (1 / temperature)))
    np.testing.assert_allclose(ensemble.probabilities(image), np.mean(each, axis=0), atol=1e-5)
    mask = finish(ensemble.probabilities(image)[None], ensemble.card)
    assert np.array_equal(ensemble.predict(image), mask * 255)
    assert 0 < mask.mean() < 1


def test_the_folder_predicts_and_scores_as_any_model_does(
    run: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--device", "cpu", "--precision", "32"]
    command = ["predict", str(run), str(discs / "images"), "--out", str(tmp_path / "o"), *words]
    assert main(command) == 0
    assert "mean of 3 models" in capsys.readouterr().out
    drawn = np.asarray(Image.open(tmp_path / "o" / "d1.png"))
    assert (drawn == contorno.load(run, **CPU).predict(picture(discs, "d1"))).all()
    assert main(command) == 0
    assert "0 mask(s) written" in capsys.readouterr().out
    found = contorno.evaluate(
        run, discs / "images", discs / "masks", out=tmp_path / "scores", **CPU
    )
    assert "18 of the 18 images were used in training" in found["scored_on"]
    assert found["per_image"]["dice"]["mean"] > 0.8
    about = json.loads((run / "ensemble.json").read_text())
    assert found["model"]["temperature"] == about["temperature"]
    assert (tmp_path / "scores" / "report.html").exists()
    benched = contorno.bench(run, rounds=1, **CPU)
    assert benched["engines"][0]["name"].endswith("mean of 3 models")
    assert not benched["noise"]


def test_another_member_makes_another_fingerprint(run: Path, discs: Path, tmp_path: Path) -> None:
    """Masks that a changed ensemble finds are not taken for its own."""
    copy = shutil.copytree(run, tmp_path / "copy")
    about = json.loads((copy / "ensemble.json").read_text())
    about["members"] = about["members"][:2]
    (copy / "ensemble.json").write_text(json.dumps(about))
    out = tmp_path / "out"
    first = contorno.predict(run, discs / "images" / "a1.png", out=out, **CPU)
    assert len(first.written) == 1
    again = contorno.predict(copy, discs / "images" / "a1.png", out=out, **CPU)
    assert "this model did not make" in again.problems[0].what


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.unlink(), "this model of a fold is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "not a model file, or damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"), "damaged or changed since"),
    ],
)
def test_a_missing_or_damaged_member_is_named(
    run: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    damage(copy / "fold2" / "model.safetensors")
    with pytest.raises(ModelFileError, match=words) as caught:
        contorno.load(copy, **CPU)
    assert str(copy / "fold2" / "model.safetensors") in str(caught.value)


def test_a_copied_folder_is_all_that_loading_needs(run: Path, discs: Path, tmp_path: Path) -> None:
    for file in ["ensemble.json", *(f"fold{n}/model.safetensors" for n in (1, 2, 3))]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(run / file, tmp_path / file)
    image = picture(discs, "e1")
    models = [contorno.load(path, **CPU) for path in (run, tmp_path, tmp_path / "ensemble.json")]
    masks = [model.predict(image) for model in models]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == masks[2]).all()
    (tmp_path / "ensemble.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"damaged, or of a newer version.* --resume"):
        contorno.load(tmp_path, **CPU)


# Stopping and going on


def same(run: Path, other: Path) -> None:
    """All that two runs made is the same, but for times and the folder's name."""
    for fold in range(1, FOLDS + 1):
        for file in ("model.safetensors", "config.toml", "split.json"):
            place = Path(f"fold{fold}") / file
            assert digest(run / place) == digest(other / place), place
    assert digest(run / "ensemble.json") == digest(other / "ensemble.json")
    assert results(run)["images"] == results(other)["images"]
    assert results(run)["folds"] == results(other)["folds"]
    assert digest(run / "suspects.csv") == digest(other / "suspects.csv")


def stop_in(monkeypatch: pytest.MonkeyPatch, fold: int, step: int) -> None:
    """Send this process a real Ctrl-C in a step of a fold, counted from 1."""
    real, left = Trainer.step, [step]

    def counted(self: Trainer, batch: Any) -> float:
        if self.run.name == f"fold{fold}":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", counted)


@pytest.mark.parametrize(("fold", "step"), [(2, 1), (3, 5)])
def test_stopped_within_a_fold_the_run_ends_in_the_same_bytes(
    run: Path, discs: Path, tmp_path: Path, fold: int, step: int, capsys: Any
) -> None:
    stopped = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, fold, step)
        with pytest.raises(Interrupted, match=rf"in fold {fold} of 3; .*\n.*--resume {stopped}$"):
            train(discs, stopped)
    assert not (stopped / "ensemble.json").exists()
    with pytest.raises(ModelFileError, match=r"not done.* contorno train --resume"):
        contorno.load(stopped)
    with pytest.raises(ConfigError, match=r"exists already.* --resume"):
        train(discs, stopped)
    capsys.readouterr()
    before = folds.read_plan(stopped).before
    contorno.train(resume=stopped, workers=1)
    assert f"{fold - 1} of 3 folds are done" in capsys.readouterr().out
    assert folds.read_plan(stopped).before > before  # the data were read again
    same(stopped, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_after_the_last_fold_it_says_how_to_go_on(
    run: Path, tmp_path: Path, number: int
) -> None:
    stopped = shutil.copytree(run, tmp_path / "run")
    before = signal.getsignal(signal.SIGTERM)

    def signalled(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("nothing more is done")

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folds, "evaluate_parts", signalled)
            words = rf"after the last fold; everything is saved.*\n.*--resume {stopped}$"
            with pytest.raises(Interrupted, match=words) as caught:
                contorno.train(resume=stopped, workers=0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.exit_code == 128 + number
    contorno.train(resume=stopped, workers=0)
    same(stopped, run)


@pytest.mark.parametrize(
    ("fold", "gone"),
    [
        (2, ["config.toml", "log.jsonl", "state", "model.safetensors", "results.json"]),
        (2, ["report.html"]),  # killed before it was noted that the fold is done
        (3, ["config.toml", "split.json", "log.jsonl", "state", "model.safetensors"]),
    ],
)
def test_killed_between_folds_the_run_ends_in_the_same_bytes(
    run: Path, tmp_path: Path, fold: int, gone: list[str]
) -> None:
    killed = shutil.copytree(run, tmp_path / "run")
    plan = folds.read_plan(killed)
    plan.model_copy(update={"spent": plan.spent[: fold - 1]}).write(killed)
    for name in gone:
        path = killed / f"fold{fold}" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for later in range(fold + 1, FOLDS + 1):
        shutil.rmtree(killed / f"fold{later}")
    (killed / "ensemble.json").unlink()
    before = (killed / "fold1" / "model.safetensors").stat().st_mtime_ns
    contorno.train(resume=killed, workers=0)
    assert (killed / "fold1" / "model.safetensors").stat().st_mtime_ns == before
    same(killed, run)


def test_a_fold_without_its_state_is_not_begun_again(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    plan = folds.read_plan(copy)
    plan.model_copy(update={"spent": plan.spent[:2]}).write(copy)
    shutil.rmtree(copy / "fold3" / "state")
    before = digests(copy)
    with pytest.raises(ModelFileError, match=r"fold3/state: no state .* trained before"):
        contorno.train(resume=copy, workers=0)
    assert digests(copy) == before


def test_a_fold_whose_split_names_a_stranger_is_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    plan = folds.read_plan(copy)
    plan.model_copy(update={"spent": plan.spent[:2]}).write(copy)
    file = copy / "fold3" / "split.json"
    parts = json.loads(file.read_text())
    parts["training"]["stranger"] = parts["training"].popitem()[1]
    file.write_text(json.dumps(parts))
    with pytest.raises(InputError, match=r"fold3: split.json names 'stranger', no pair"):
        contorno.train(resume=copy, workers=0)


def test_a_finished_run_is_resumed_to_itself(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("ensemble.json", "results.json", "report.html", "suspects.csv"):
        (copy / name).unlink()
    contorno.train(resume=copy, workers=0)
    same(copy, run)


def test_what_changed_after_its_folds_were_done_is_refused(discs: Path, tmp_path: Path) -> None:
    root, run = shutil.copytree(discs, tmp_path / "set"), tmp_path / "run"
    train(root, run, folds=2, epochs=1)
    mask, config = root / "masks" / "a1.png", run / "fold2" / "config.toml"
    files, before = (mask, config), (mask.read_bytes(), config.read_bytes())
    mask.write_bytes((root / "masks" / "a2.png").read_bytes())
    contents = digests(run)
    with pytest.raises(ConfigError, match="fold1: the data changed since this run was stopped"):
        contorno.train(resume=run, workers=0)
    mask.write_bytes(before[0])
    config.write_text(config.read_text().replace("epochs = 1\n", "epochs = 3\n"))
    with pytest.raises(ConfigError, match="fold2: the config changed since this run was stopped"):
        contorno.train(resume=run, workers=0)
    for file, old in zip(files, before, strict=True):
        file.write_bytes(old)
    assert digests(run) == contents
    contorno.train(resume=run, workers=0)


def test_a_plan_that_was_changed_is_refused(run: Path, discs: Path, tmp_path: Path) -> None:
    for text, words in (("{", "not as contorno wrote it"), ('{"folds": 3}', "not as contorno")):
        (tmp_path / "folds.json").write_text(text)
        with pytest.raises(InputError, match=words):
            contorno.train(resume=tmp_path)
    plan = json.loads((run / "folds.json").read_text())
    (tmp_path / "folds.json").write_text(json.dumps(plan | {"parts": plan["parts"][1:]}))
    with pytest.raises(InputError, match="do not hold every pair once"):
        contorno.train(resume=tmp_path)
    plan["pairs"]["../out"] = plan["pairs"].pop("a1")
    (tmp_path / "folds.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="no stem of a file"):
        contorno.train(resume=tmp_path)
    with pytest.raises(ConfigError, match=r"leave out folds"):
        contorno.train(resume=run, folds=3)


# Time and options


def test_the_time_is_that_of_all_folds(run: Path, discs: Path, tmp_path: Path) -> None:
    plan = folds.read_plan(run)
    assert plan.total is None
    assert plan.share() is None
    new = {"wishes": {"time": 120.0}, "before": 24.0, "spent": (), "scored": ()}
    timed = plan.model_copy(update=new)
    assert timed.share() == 30  # a twentieth is left for the end
    assert timed.model_copy(update={"spent": (20.0,)}).share() == 35
    assert timed.model_copy(update={"spent": (20.0, 80.0)}).share() == 20  # half, at least
    slow = timed.model_copy(update={"spent": (20.0,), "scored": (5.0,)})
    assert slow.share() == 30.5  # the end is as long as the scores of three folds
    assert plan.model_copy(update={"wishes": {}}).total == 600
    assert plan.model_copy(update={"wishes": {}, "recipe": "classic"}).total is None
    options = {"epochs": None, "time": "3s", "out": tmp_path / "run", "folds": 2}
    contorno.train(discs / "images", discs / "masks", **(OPTIONS | EXACT | options))
    configs = [read_config(tmp_path / "run" / f"fold{n}" / "config.toml") for n in (1, 2)]
    assert 0.75 <= configs[0].training.time < 1.5
    assert configs[1].training.time >= 0.75
    assert "what remains of 0:03" in configs[1].reasons["training.time"]
    after = folds.read_plan(tmp_path / "run")
    assert len(after.spent) == len(after.scored) == 2
    assert all(0 < scored < spent for scored, spent in zip(after.scored, after.spent, strict=True))


def test_options_that_contradict_folds_are_refused(discs: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a1")
    for option in ({"validation_files": tmp_path / "list.txt"}, {"validation": 0.3}):
        with pytest.raises(ConfigError, match=rf"folds and {next(iter(option))} both say what"):
            train(discs, tmp_path / "run", **option)
    with pytest.raises(
        ConfigError, match=r"folds \(10\) must be from 2 to 9, the number of groups"
    ):
        train(discs, tmp_path / "run", folds=10)
    assert not (tmp_path / "run").exists()


def test_several_classes(tmp_path: Path) -> None:
    root = easy(tmp_path / "set", 8)
    for path in sorted((root / "masks").iterdir()):
        mask = np.asarray(Image.open(path)) // 255
        mask[:, 16:] *= 2
        save(path, mask)
    model = train(root, tmp_path / "run", folds=2, group=None)
    assert model.card.exclusive
    image = picture(root, "p3")
    total = model.probabilities(image).sum(axis=-1)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert set(np.unique(model.predict(image))) <= {0, 1, 2}
