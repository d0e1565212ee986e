"""config.toml comes back as it was; what cannot work is named, all of it at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contorno.config import (
    Config,
    DataConfig,
    NetworkConfig,
    Preprocessing,
    TrainingConfig,
    build,
    parse_duration,
    read_config,
)
from contorno.errors import ConfigError

FULL = Config(
    data=DataConfig(
        images="/a b/imágenes",
        masks='C:\\masks "x"',
        suffix="_mask",
        files=None,
        validation=0.25,
        validation_files="v.txt",
        foreground="1,2",
    ),
    network=NetworkConfig(
        in_channels=5, out_channels=2, widths=(4, 8, 16), up="bilinear", activation="softmax"
    ),
    preprocessing=Preprocessing(
        mean=(0.1, 1e-7, 3.0, 4.5, 12345.678),
        std=(1.0,) * 5,
        size=(512, 640),
        dtype="uint16",
        output="identity",
    ),
    training=TrainingConfig(
        recipe="classic",
        loss="bce+dice",
        learning_rate=1 / 3,
        crop=None,
        time=1200.0,
        augment=False,
    ),
    reasons={"training.batch_size": '4 fits,\nsays "memory"', "data.foreground": "as asked: 1,2"},
)
LEAST = Config(
    data=DataConfig(images="x"),
    network=NetworkConfig(),
    preprocessing=Preprocessing(),
    training=TrainingConfig(),
)


@pytest.mark.parametrize("config", [FULL, LEAST])
def test_a_config_comes_back_from_its_file(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    config.write(path)
    assert read_config(path) == config
    first = path.read_bytes()
    read_config(path).write(path)
    assert path.read_bytes() == first


def test_the_file_is_for_people(tmp_path: Path) -> None:
    FULL.write(tmp_path / "config.toml")
    table = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))
    assert list(table) == ["data", "network", "preprocessing", "training", "reasons"]
    assert table["training"]["loss"] == "bce+dice"
    assert "crop" not in table["training"]  # TOML has no word for nothing
    assert table["reasons"]["data.foreground"] == "as asked: 1,2"


@given(st.floats(min_value=1e-300, max_value=1e300), st.text(), st.integers(0, 10**9))
def test_any_value_survives_the_file(rate: float, text: str, seed: int) -> None:
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        return  # half a UTF-16 pair is no text
    config = LEAST.replace("training", text or "x", learning_rate=rate, seed=seed)
    config = config.replace("data", "", images=text)
    import tomli_w

    from contorno.config import _without_none

    again = tomllib.loads(tomli_w.dumps(_without_none(config.model_dump(mode="json"))))
    assert Config.model_validate(again) == config


def test_replace_changes_a_copy_and_says_why() -> None:
    changed = LEAST.replace("training", "you asked for it", epochs=7, batch_size=2)
    assert (changed.training.epochs, changed.training.batch_size) == (7, 2)
    assert changed.reasons == {
        "training.epochs": "you asked for it",
        "training.batch_size": "you asked for it",
    }
    assert LEAST.training.epochs == 100
    assert LEAST.reasons == {}
    assert changed.replace("training", epochs=8).reasons == changed.reasons
    with pytest.raises(ValidationError):
        LEAST.replace("training", epochs=0)


def test_values_are_fixed_once_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LEAST.training.epochs = 3


def written(tmp_path: Path, **sections: dict[str, Any]) -> Path:
    import tomli_w

    whole: dict[str, dict[str, Any]] = {
        "data": {"images": "x"},
        "network": {},
        "preprocessing": {},
        "training": {},
    }
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(whole | sections), encoding="utf-8")
    return path


def failed(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value


def test_unknown_names_are_errors(tmp_path: Path) -> None:
    error = failed(written(tmp_path, training={"epoch": 3}, colours={"a": 1}))
    assert {problem.path for problem in error.problems} == {"training.epoch", "colours"}
    for problem in error.problems:
        assert "no value has this name" in str(problem)
        assert "another version" in problem.fix


def test_all_problems_stand_in_one_error(tmp_path: Path) -> None:
    error = failed(
        written(
            tmp_path,
            data={"images": "x", "validation": 1.5},
            network={"up": "nearest", "widths": []},
            training={
                "epochs": 0,
                "loss": "l1",
                "learning_rate": -1,
                "crop": 7,
                "batch_size": "many",
            },
            preprocessing={"size": [512]},
        )
    )
    found = {problem.path: problem for problem in error.problems}
    assert set(found) >= {
        "data.validation",
        "network.up",
        "training.epochs",
        "training.loss",
        "training.learning_rate",
        "training.crop",
        "training.batch_size",
        "preprocessing.size.1",
    }
    assert found["data.validation"].what == "1.5"
    assert "less than 1" in found["data.validation"].expected
    assert "'transposed' or 'bilinear'" in found["network.up"].expected
    assert "many" in str(error)


@pytest.mark.parametrize("widths", [(), (4, 0), (-1, 8)])
def test_widths_that_no_network_has(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="network: values that cannot work") as caught:
        build(NetworkConfig, "network", widths=widths)
    assert [problem.path.split(".")[0] for problem in caught.value.problems] == ["widths"]


def test_a_missing_section_and_a_missing_value(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[data]\nmasks = "masks"\n')
    problems = failed(path).problems
    names = {problem.path for problem in problems}
    assert names == {"data.images", "network", "preprocessing", "training"}
    assert {problem.what for problem in problems} == {"it is not there"}  # not what is around it


def test_a_file_that_an_editor_put_a_mark_before(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    FULL.write(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_config(path) == FULL


def test_files_that_are_no_config(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert "cannot be read: No such file" in str(failed(path))
    path.write_text("[data\n")
    assert "not valid TOML" in str(failed(path))
    path.write_bytes(b'[data]\nimages = "\xff\xfe"\n')  # not UTF-8
    assert "not valid TOML" in str(failed(path))
    path.unlink()
    path.mkdir()
    assert "cannot be read" in str(failed(path))


def test_build_makes_sections_and_says_where_it_failed() -> None:
    assert build(DataConfig, "data", images="x", validation=0.1) == DataConfig(
        images="x", validation=0.1
    )
    with pytest.raises(ConfigError, match="data: values that cannot work") as caught:
        build(DataConfig, "data", images=None, validation=0, folds=3)
    assert {problem.path for problem in caught.value.problems} == {"images", "validation", "folds"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("2h", 7200),
        (75, 75),
        ("1.5h", 5400),
        (" 3M ", 180),
        (0.5, 0.5),
        ("1e2s", 100),
        ("10 m", 600),
    ],
)
def test_durations(text: float | str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["20", "1.5", "1e2"])
def test_a_duration_without_a_unit_could_be_anything(text: str) -> None:
    with pytest.raises(ConfigError, match=f"has no unit; write {text}s, {text}m or {text}h"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "m", "0", "0h", "-5m", "2d", "1h30m", "soon", "nan", "inf", "1e400", "infh"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration; write 90s, 20m or 2h"):
        parse_duration(text)
