"""The command line: help that helps, errors without tracebacks, exit codes."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from errno import EACCES
from pathlib import Path

import numpy as np
import pytest
import torch
from making import WORDS, digests, easy, model_file, save
from PIL import Image

import contorno
from contorno import api, cli, progress, reading
from contorno.cli import main
from contorno.errors import Interrupted, StorageError

COMMANDS = ("check", "train", "evaluate", "predict", "bench", "convert", "demo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sample = np.asarray(Image.open(data / "images" / "p0.png"))[..., None]
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors", sample)


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_words_and_every_command_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: contorno {command} " in text
    for name in inspect.signature(getattr(cli, command)).parameters:
        option = "--" + name.replace("_", "-")
        line = next(
            line
            for line in text.splitlines()
            if re.search(rf"(^|[\s*│]){option}(?![\w-])", line) or name.upper() in line
        )
        words = re.sub(r"--[\w-]+|[A-Z_]{2,}|\[.*?\]", "", line).strip(" │*")
        assert len(words.split()) >= 2, line


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_first_page_lists_the_commands(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"\b{command}\b", text) for command in COMMANDS)
    assert "Example: contorno train" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == contorno.__version__


def test_compute_threads_wait_a_moment_unless_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    main(["--version"])
    assert "GOMP_SPINCOUNT" not in os.environ


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom contorno.cli import main\n"
        f"for command in {COMMANDS}: main([command, '--help'])\nmain(['--help'])\n"
        "print('loaded', sorted({'torch', 'numpy', 'pydantic', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


# Wrong use


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--epoch", "3", "i", "m"], "--epoch"),
        (["train", "i", "m", "--epochs", "many"], "many"),
        (["train", "i", "m", "--recipe", "best"], "best"),
        (["train", "i", "m", "more"], "more"),
        (["train", "i", "m", "--up", "nearest"], "nearest"),
        (["predict", "model", "images"], "--out"),
        (["evaluate", "model"], "IMAGES"),
        (["retrain", "i", "m"], "retrain"),
        (["predict", "m", "i", "--out", "o", "--device", "tpu"], "tpu"),
    ],
)
def test_options_that_do_not_exist(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert named.lower() in (output.err + output.out).lower()
    assert "Traceback" not in output.err + output.out


@pytest.mark.parametrize("option", ["--suffix", "--channels"])
def test_endings_may_begin_with_a_hyphen(option: str) -> None:
    for command in (["train", "i", "m"], ["check", "i", "m"], ["evaluate", "r", "i", "m"]):
        if command[0] == "evaluate" and option == "--channels":
            continue
        _, bound, _ = cli.app.parse_args([*command, option, "-a,-b"], exit_on_error=False)
        assert bound.arguments[option.strip("-")] == "-a,-b"


def refused(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The message of a command that cannot work, on standard error and without a traceback."""
    assert main(words) == code
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert output.err.startswith("contorno: ")
    return output.err


def test_wrong_input_is_told_in_words(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, masks, out = str(data / "images"), str(data / "masks"), str(tmp_path / "out")
    assert "nowhere: there is no such folder" in refused(
        ["train", str(tmp_path / "nowhere"), masks, "--out", out], capsys
    )
    assert "sub-folders: images, masks" in refused(["train", str(data), masks], capsys)
    assert "train needs a folder of images" in refused(["train"], capsys)
    assert "give one of the two" in refused(
        ["train", images, masks, "--time", "5s", "--epochs", "2"], capsys
    )
    for words in (["train", images, masks, "--epochs", "1.5"], ["bench", "x", "--rounds", "2.5"]):
        assert main(words) == 2
        output = capsys.readouterr()
        assert f"{words[-1]!r} is no whole number" in output.out + output.err
    assert "widths '4;8' must be whole numbers" in refused(
        ["train", images, masks, "--widths", "4;8"], capsys
    )
    assert "time '5 parsecs'" in refused(["train", images, masks, "--time", "5 parsecs"], capsys)
    assert "no such model file or run folder" in refused(
        ["predict", str(tmp_path / "m"), images, "--out", out], capsys
    )
    assert "no image to predict" in refused(
        ["predict", str(model), str(tmp_path / "*.png"), "--out", out], capsys
    )
    assert "there is no such folder" in refused(
        ["evaluate", str(model), str(tmp_path / "nowhere"), masks, "--out", out], capsys
    )
    assert "nowhere.pth" in refused(
        ["convert", str(tmp_path / "nowhere.pth"), "--out", out], capsys
    )
    assert not (tmp_path / "out").exists()


def test_too_few_pairs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("p1\n")
    words = refused(
        [
            "train",
            str(data / "images"),
            str(data / "masks"),
            "--files",
            str(tmp_path / "one.txt"),
            "--out",
            str(tmp_path / "out"),
            *WORDS,
        ],
        capsys,
    )
    assert "1 usable pair(s) give" in words
    assert "each needs at least one" in words


def test_masks_without_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = easy(tmp_path, 3)
    for path in (root / "masks").iterdir():
        save(path, np.zeros((32, 32), np.uint8))
    words = refused(
        [
            "train",
            str(root / "images"),
            str(root / "masks"),
            "--out",
            str(tmp_path / "out"),
            *WORDS,
        ],
        capsys,
    )
    assert "all masks hold the single value 0: there is nothing to learn" in words


# Exit codes, with stand-ins for what goes wrong inside


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "contorno: stopped"),
        (Interrupted("Stopped at epoch 2", exit_code=143), 143, "contorno: Stopped at epoch 2"),
        (StorageError("x: no space"), 1, "contorno: x: no space"),
        (
            PermissionError(EACCES, "Permission denied", "a/b"),
            2,
            "contorno: a/b: Permission denied",
        ),
        (ZeroDivisionError("a bug"), 1, "contorno: an error of contorno itself: ZeroDivisionError"),
    ],
)
def test_errors_have_a_message_and_an_exit_code(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stand_in(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "train", stand_in)
    message = refused(["train", "i", "m"], capsys, code=code)
    assert message.startswith(words)
    assert ("--debug" in message) == isinstance(error, ZeroDivisionError)


def test_names_between_wrong_quotes_are_no_error_of_contorno(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = " ".join(f"photos/p{number}.png" for number in range(400))  # "$(ls photos/*.png)"
    out = ["--out", str(tmp_path / "out")]
    for words in (
        ["check", listed],
        ["train", listed, *out],
        ["predict", str(model), listed, *out],
    ):
        assert "File name too long; check the path" in refused(words, capsys)


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "contorno", "train", str(tmp_path / "nowhere"), "m"]
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "find_pairs" in debug.stderr


def test_check_prints_writes_and_ends_with_what_it_found(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [str(data / "images"), str(data / "masks")]
    assert main(["check", *pairs, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["good"] == printed["pairs"]
    page, file = tmp_path / "check.html", tmp_path / "check.json"
    shutil.copytree(data, tmp_path / "copy")
    broken = next((tmp_path / "copy" / "masks").iterdir())
    broken.write_bytes(broken.read_bytes()[:60])
    pairs = [str(tmp_path / "copy" / part) for part in ("images", "masks")]
    assert main(["check", *pairs, "--json", str(file), "--page", str(page)]) == 1
    said = capsys.readouterr()
    written = json.loads(file.read_text())
    assert "error: " in said.out
    assert f"{written['good']} of {written['pairs']} pairs can be used" in said.out
    assert "mask value" in said.out
    assert "damaged" in said.out
    assert "Traceback" not in said.out + said.err
    assert written["good"] == written["pairs"] - 1
    assert "damaged" in page.read_text()
    for mask in (tmp_path / "copy" / "masks").iterdir():
        mask.write_bytes(b"")
    assert main(["check", *pairs]) == 2


def test_check_writes_also_where_no_image_has_a_mask(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks").mkdir()
    for index, mask in enumerate(sorted((data / "masks").iterdir())):
        shutil.copy(mask, tmp_path / "masks" / f"other{index}.png")
    pairs = [str(data / "images"), str(tmp_path / "masks")]
    page, file = tmp_path / "check.html", tmp_path / "check.json"
    page.write_text("<title>contorno check</title>")  # of the last check
    assert main(["check", *pairs, "--json", str(file), "--page", str(page)]) == 2
    assert "no mask here is named after an image" in capsys.readouterr().out
    assert [one["kind"] for one in json.loads(file.read_text())["findings"]] == ["no-names"]
    assert "no mask here is named after an image" in page.read_text()
    assert main(["check", *pairs, "--json", "-"]) == 2
    assert json.loads(capsys.readouterr().out)["good"] == 0
    lonely = str(tmp_path / "masks" / "other0.png")
    assert lonely in refused(["check", *pairs, "--json", lonely], capsys, code=2)


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "MODEL", "IMAGES", "--out", ""],
        ["predict", "MODEL", "IMAGES", "--out="],
        ["predict", "MODEL", "", "--out", "drawn"],
        ["check", "", "MASKS"],
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    """As scripts give it whose variable is not set."""
    here = shutil.copytree(data / "images", tmp_path / "here")
    monkeypatch.chdir(here)
    before = digests(here)
    real = {"MODEL": model, "IMAGES": data / "images", "MASKS": data / "masks"}
    said = refused([str(real.get(word, word)) for word in words], capsys, code=2)
    assert "an empty argument" in said
    assert digests(here) == before


@pytest.mark.parametrize("option", ["--json", "--page"])
def test_check_replaces_no_image_or_mask(
    data: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    before = digests(data)
    pairs = [str(data / part) for part in ("images", "masks")]
    mask = str(data / "masks" / "p0.png")
    assert mask in refused(["check", *pairs, option, mask], capsys, code=2)
    assert digests(data) == before


def test_check_replaces_only_what_it_wrote(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, scores = [str(data / part) for part in ("images", "masks")], tmp_path / "scores"
    assert main(["evaluate", str(model), *pairs, "--out", str(scores), "--engine", "pytorch"]) == 0
    page, file, notes = (tmp_path / name for name in ("check.html", "check.json", "notes.html"))
    file.touch()
    for _ in range(2):
        assert main(["check", *pairs, "--json", str(file), "--page", str(page)]) == 0
    same = refused(["check", *pairs, "--json", str(file), "--page", str(file)], capsys, code=2)
    assert f"{file}: json and page are one file" in same
    notes.write_text("<title>mine</title>")
    for other in (notes, scores / "results.json", scores / "report.html"):
        before = other.read_bytes()
        for option in ("--json", "--page"):
            told = refused(["check", *pairs, option, str(other)], capsys, code=2)
            assert f"{other}: a file that check did not write" in told
        assert other.read_bytes() == before


def test_a_reader_that_has_enough_is_no_error(data: Path) -> None:
    words = [sys.executable, "-m", "contorno", "check", data / "images", data / "masks", "--json=-"]
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None
    command.stdout.close()
    assert b"contorno itself" not in command.communicate()[1]
    assert command.returncode == 0


def test_a_refusal_that_cannot_be_printed_has_its_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "contorno", "check", str(tmp_path / "nowhere")]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(words, stderr=full, check=False).returncode == 2


def test_names_that_the_output_cannot_spell_are_escaped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "set")
    shutil.copy(data / "images" / "p0.png", tmp_path / "set" / "images" / "ñandú.png")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["check", *(str(tmp_path / "set" / part) for part in ("images", "masks"))]) == 1
    output.flush()
    assert rb"\xf1and\xfa.png" in output.buffer.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_files_are_read_a_run_leaves_nothing(
    data: Path,
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def signalled(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("nothing more is done")

    monkeypatch.setattr(reading, "find_pairs", signalled)
    pairs, out = [str(data / "images"), str(data / "masks")], str(tmp_path / "out")
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else before)
    try:
        for more in ([], ["--folds", "2"]):
            words = ["train", *pairs, "--out", out, *WORDS, *more]
            told = refused(words, capsys, code=128 + number)
            assert told == "contorno: Stopped before training began\n"
    finally:
        signal.signal(number, before)
    assert not list(tmp_path.iterdir())


# What is shown


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_takes_the_place_of_lines(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    code = main(
        [
            "train",
            str(data / "images"),
            str(data / "masks"),
            "--out",
            str(tmp_path / "run"),
            "--epochs",
            "3",
            "--crop",
            "32",
            "--workers",
            "0",
            *WORDS,
        ]
    )
    assert code == 0
    shown = terminal.getvalue()
    assert "Training" in shown
    assert "images/s" in shown
    assert not re.search(r"^Epoch 1/3", shown, re.M)
    assert "Report:" in shown


def test_evaluate_prints_a_table(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "i" / "none.png", np.zeros((32, 32), np.uint8))
    save(tmp_path / "m" / "none.png", np.zeros((32, 32), np.uint8))
    for folder, short in (("images", "i"), ("masks", "m")):
        for path in (data / folder).iterdir():
            (tmp_path / short / path.name).write_bytes(path.read_bytes())
    assert (
        main(
            [
                "evaluate",
                str(model),
                str(tmp_path / "i"),
                str(tmp_path / "m"),
                "--out",
                str(tmp_path / "out"),
                "--device",
                "cpu",
                "--precision",
                "32",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "7 images, threshold 0.5" in text
    for name in ("Dice", "IoU", "Precision", "Recall", "Boundary F", "HD95"):
        assert re.search(rf"{name}.*\d\.\d{{4}} \(\d", text)
    assert "1 image(s) without any object, " in text


def test_convert_and_predict(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    notebook = contorno.UNet(1, 1, widths=(4, 8), up="bilinear", activation="sigmoid")
    torch.save(notebook.state_dict(), tmp_path / "unet.pth")
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(tmp_path / "unet.pth"), "--out", str(out)]) == 0
    assert "UNet, bilinear, 1 channel(s) in, 1 out, widths 4, 8" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "unet.pth"), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (
        main(
            [
                "convert",
                str(tmp_path / "unet.pth"),
                "--out",
                str(out),
                "--overwrite",
                "--size",
                "16",
            ]
        )
        == 0
    )
    assert main(["predict", str(out), str(data / "images"), "--out", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 6


def test_demo_passes_its_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}
    figure = {"n": 1, "mean": 0.5, "low": 0.4, "high": 0.6, "value": None}
    results = {
        "images": [1],
        "threshold": 0.5,
        "empty": {"images": 0},
        "pooled": {"dice": figure},
        "per_image": dict.fromkeys(
            ("dice", "iou", "precision", "recall", "boundary_f", "hd95"), figure
        ),
    }

    def stand_in(out: Path, **options: object) -> dict[str, object]:
        seen.update(options, out=out)
        return results

    monkeypatch.setattr(api, "demo", stand_in)
    assert main(["demo", "--out", str(tmp_path), "--time", "3s", "--seed", "4"]) == 0
    assert seen == {"out": tmp_path, "time": "3s", "seed": 4}
    assert "0.5000 (0.4000 to 0.6000)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (3723, "1:02:03"), (59.6, "1:00")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert progress.clock(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (12_300_000, "12.3 MB"),
        (98_304, "98.3 kB"),
        (5e9, "5 GB"),
        (2e12, "2 TB"),
    ],
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert progress.size(count) == words


def test_values_are_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "no/images", "no/masks", "--epochs", "0", "--batch-size", "-3"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "training.epochs: 0" in said
    assert "training.batch_size: -3" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "512"], "size is for recipe classic, not auto"),
        (["--recipe", "classic", "--crop", "64"], "crop is for recipe auto, not classic"),
        (["--recipe", "classic", "--encoder", "timm/x"], "encoder is for recipe auto"),
        (["--recipe", "classic", "--up", "bilinear", "--loss", "bce"], "needs plain outputs"),
        (["--encoder", "timm/no_such_encoder"], "timm/no_such_encoder"),
        (["--group", "("], "is not a regular expression"),
        (["--folds", "1"], "folds (1) must be a whole number, 2 or more"),
        (["--validation-files", "nowhere.txt"], "nowhere.txt: cannot be read as a list"),
    ],
)
def test_options_are_refused_before_anything_is_read(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "no/images", "no/masks", *words, "--out", str(tmp_path / "run")]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "training.seed: -1"),
        (["--seed", str(2**64)], f"training.seed: {2**64}"),
        (["--learning-rate", "inf"], "training.learning_rate: inf"),
        (["--recipe", "classic", "--batch-size", "0"], "training.batch_size: 0"),
        (["--crop", "64", "--widths", "1,2,3,4,5,6,7"], "leave less than 2 at the bottom"),
        (["--crop", "64", "--patch", "4"], "halve the picture 4 times after a patch of 4, and 64"),
    ],
)
def test_values_that_cannot_work_are_named(
    words: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [str(data / "images"), str(data / "masks"), "--out", str(tmp_path / "run")]
    assert main(["train", *pairs, "--epochs", "1", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
