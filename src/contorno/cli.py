"""The command line: one short function per command, each a single call of `api`.

Nothing heavy is imported before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter, Token

from contorno import __version__
from contorno.errors import ConfigError, ContornoError, InputError

app = App(
    name="contorno",
    help="Two folders in, images and masks; out comes a U-Net that draws the mask of any image.\n\n"
    "Example: contorno train images masks --time 20m, then contorno predict runs/NAME photos "
    "--out drawn",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `main` says that it stopped
    help_epilogue="Every command has its own help: contorno train --help",
)
_recipe = Group("Recipe", help="values that win over the recipe's; config.toml gives its reasons")
_machine = Group("Machine")
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # by the system: no error of contorno's

Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(group=_machine)]
Precision = Annotated[Literal["auto", "bf16", "32"], Parameter(group=_machine)]
Engine = Annotated[
    Literal["auto", "pytorch", "openvino", "openvino-int8", "onnxruntime"],
    Parameter(group=_machine),
]
MaskFolders = Annotated[list[str] | None, Parameter(negative=())]
Ending = Annotated[str | None, Parameter(allow_leading_hyphen=True)]  # of stems, such as -mask


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """A whole number: the library would round 1.5 to 2 and say nothing."""
    value = tokens[0].value
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is no whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
Count = Annotated[int | None, Parameter(converter=_whole)]
Number = Annotated[int | None, Parameter(group=_recipe, converter=_whole)]
Workers = Annotated[int | None, Parameter(group=_machine, converter=_whole)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if isinstance(sys.stdout, TextIOWrapper):  # what its encoding lacks is escaped, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    # Compute threads wait between a network's many small operations. Spinning for long makes a
    # shared machine crawl, sleeping at once costs a third of the speed: see docs/LOG.md.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        _refuse_empty(words)
        result = app(words, exit_on_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except ContornoError as error:
        if debug:
            raise
        _say_why(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say_why("stopped")
        return 130
    except Exception as error:
        if debug:
            raise
        if type(error).__module__.startswith("cyclopts"):
            return 2  # already printed, with the usage
        if isinstance(error, OSError) and error.errno in _REFUSED:
            _say_why(f"{error.filename}: {error.strerror}; check the path, and who may use it")
            return 2
        _say_why(
            f"an error of contorno itself: {type(error).__name__}: {error}\n"
            "Run the command again with --debug and report what it prints."
        )
        return 1


def _refuse_empty(words: Sequence[str]) -> None:
    """An empty path would mean the current folder: to read all of it, or to write into it."""
    for at, word in enumerate(words):
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1):
            where = f" after {words[at - 1]}" if at and not word else ""
            raise ConfigError(
                f"an empty argument{where}: {' '.join(quote(one) for one in words)}\n"
                "Is a variable of your script not set? The current folder is ."
            )


def _say_why(message: str) -> None:
    from contorno.progress import failed

    failed(message)


@app.command
def train(
    images: Path | None = None,
    masks: MaskFolders = None,
    *,
    out: Path | None = None,
    recipe: Literal["auto", "classic"] = "auto",
    time: str | None = None,
    resume: Path | None = None,
    folds: Count = None,
    suffix: Ending = None,
    files: Path | None = None,
    channels: Ending = None,
    pages: bool = False,
    validation: float | None = None,
    validation_files: Path | None = None,
    group: str | None = None,
    foreground: str = "bright",
    classes: str | None = None,
    ignore: str | None = None,
    epochs: Number = None,
    batch_size: Number = None,
    size: Number = None,
    crop: Number = None,
    widths: Annotated[str | None, Parameter(group=_recipe)] = None,
    patch: Number = None,
    encoder: Annotated[str | None, Parameter(group=_recipe)] = None,
    up: Annotated[Literal["transposed", "bilinear"] | None, Parameter(group=_recipe)] = None,
    normalise: Annotated[Literal["set", "image"] | None, Parameter(group=_recipe)] = None,
    loss: Annotated[
        Literal["mse", "bce", "ce", "dice", "bce+dice", "ce+dice", "focal", "tversky"] | None,
        Parameter(group=_recipe),
    ] = None,
    learning_rate: Annotated[float | None, Parameter(group=_recipe)] = None,
    seed: Number = None,
    tune: Annotated[bool | None, Parameter(group=_recipe, negative="--no-tune")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
) -> None:
    """Train a model on a folder of images and a folder of masks.

    Example: contorno train cells/images cells/masks --time 20m --out runs/cells

    Parameters
    ----------
    images
        Folder of images (PNG, JPEG, TIFF, BMP, GIF, WebP).
    masks
        Folder of masks with the same stems; leave out when they lie among the images. Where classes
        overlap, give a folder for each: --masks nucleus=DIR1 --masks membrane=DIR2.
    out
        Run folder to make. Default: runs/DATE.
    recipe
        auto, or classic for the reference notebook (MSE, Adam, 100 epochs, 512 x 512).
    time
        How long all of it may take: 90s, 20m, 2h. Default of recipe auto: 10m, unless --epochs is
        given.
    resume
        Run folder to continue exactly where it was stopped.
    folds
        Train so many models, each without one part of the images: --folds 5. Every image is scored
        by a model that has not seen it, masks that look wrong are listed, and the run folder
        predicts with the mean of the models. --time is that of all.
    suffix
        What a mask's stem has after its image's, such as _mask; of several folders of masks one for
        all, or one for each: _cells,_nuclei. Guessed when needed.
    files
        Text file of stems or paths, one a line: only these are used.
    channels
        What the stems end in where each channel has a file of its own: _dapi,_gfp.
    pages
        Take the pages of a TIFF as channels.
    validation
        Share of the pairs that is kept for validation. Default: 0.2, or less where that is more
        than 50 pairs.
    validation_files
        Text file of the stems that are kept for validation.
    group
        Regular expression that finds the patient, slide or sequence in a stem, such as
        "^[^_]+"; no group is parted between training and validation. Guessed when names show it.
    foreground
        bright, dark, nonzero, or the mask values that are foreground, such as 255 or 1,2.
    classes
        Names and mask values, background first: "background=0,nucleus=255,cytoplasm=128".
    ignore
        Mask values that are neither learnt nor scored, such as 255.
    epochs
        Passes over the data.
    batch_size
        Examples in a batch.
    size
        Resize every picture to this edge (for classic).
    crop
        Edge of the training crops (for auto).
    widths
        Channels of each level, such as 32,64,128,256,512.
    patch
        Edge of the squares of pixels that the network takes together: 1, 2 or 4.
    encoder
        Pretrained encoder, such as timm/resnet34 (needs the extra contorno[pretrained]).
    up
        How the decoder doubles the size.
    normalise
        By mean and spread of all training images (set), or of each image on its own (image).
    loss
        What is minimised.
    learning_rate
        Peak step size.
    seed
        Of weights, order, crops and split.
    tune
        Choose threshold, smallest object and the like on the validation images (auto does).
    device
        Where to compute.
    precision
        bf16, or 32 for exact float32.
    workers
        Threads that read and prepare images. Default: all cores.
    """
    from contorno import api

    api.train(
        images,
        _folders(masks),
        out=out,
        recipe=recipe,
        time=time,
        resume=resume,
        folds=folds,
        suffix=suffix,
        files=files,
        channels=channels or (),
        pages=pages,
        validation=validation,
        validation_files=validation_files,
        group=group,
        foreground=foreground,
        classes=classes,
        ignore=ignore,
        device=device,
        precision=precision,
        workers=workers,
        epochs=epochs,
        batch_size=batch_size,
        size=None if size is None else (size, size),
        crop=crop,
        widths=_numbers(widths),
        patch=patch,
        encoder=encoder,
        up=up,
        normalise=normalise,
        loss=loss,
        learning_rate=learning_rate,
        seed=seed,
        tune=tune,
    )


@app.command
def evaluate(
    model: Path,
    images: Path,
    masks: MaskFolders = None,
    *,
    out: Path | None = None,
    suffix: Ending = None,
    files: Path | None = None,
    foreground: str | None = None,
    classes: str | None = None,
    ignore: str | None = None,
    group: str | None = None,
    tta: bool = False,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
) -> None:
    """Score a model on images and masks it has not seen, with a report to look at.

    Example: contorno evaluate runs/cells test/images test/masks

    Parameters
    ----------
    model
        Model file or run folder.
    images
        Folder of images.
    masks
        Folder of masks with the same stems; leave out when they lie among the images.
    out
        Folder to make. Default: evaluation, in the run folder, or here where there is none.
    suffix
        What a mask's stem has after its image's.
    files
        Text file of stems or paths, one a line: only these are scored.
    foreground
        How these masks are coded, where it differs from the training masks.
    classes
        The same, with names: "background=0,nucleus=1".
    ignore
        Mask values that are not scored.
    group
        Regular expression that finds the patient, slide or sequence in a stem: the intervals are
        then over groups, not over images. Guessed when names show it.
    tta
        Average over mirrored and turned pictures (test-time averaging): 4 to 8 times the work.
    engine
        What runs the model. Default: the fastest that is installed.
    device
        Where to compute.
    precision
        bf16, or 32 for exact float32.
    workers
        Threads that read images. Default: all cores.
    """
    from contorno import api, progress

    results = api.evaluate(
        model,
        images,
        _folders(masks),
        out=out,
        suffix=suffix,
        files=files,
        foreground=foreground,
        classes=classes,
        ignore=ignore,
        group=group,
        tta=tta,
        engine=engine,
        device=device,
        precision=precision,
        workers=workers,
    )
    progress.table(results)


@app.command
def check(
    images: Path,
    masks: MaskFolders = None,
    *,
    suffix: Ending = None,
    files: Path | None = None,
    channels: Ending = None,
    pages: bool = False,
    validation_files: Path | None = None,
    group: str | None = None,
    foreground: str = "bright",
    classes: str | None = None,
    ignore: str | None = None,
    json: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    page: Path | None = None,
    workers: Workers = None,
) -> int:
    """Look for everything that is wrong or looks wrong in images and masks, before training.

    Example: contorno check cells/images cells/masks --page check.html

    Nothing is changed. Ends with 0 if nothing is wrong, with 1 after errors or warnings, with 2 if
    not one pair can be used.

    Parameters
    ----------
    images
        Folder of images.
    masks
        Folder of masks, or --masks NAME=FOLDER for each class where classes overlap.
    suffix
        What a mask's stem has after its image's, such as _mask; of several folders of masks one for
        all, or one for each: _cells,_nuclei. Guessed when needed.
    files
        Text file of stems or paths, one a line: only these are looked at.
    channels
        What the stems end in where each channel has a file of its own: _dapi,_gfp.
    pages
        Take the pages of a TIFF as channels.
    validation_files
        Text file of the stems that validate: nothing of them may be in the rest.
    group
        Regular expression that finds the patient, slide or sequence in a stem.
    foreground
        bright, dark, nonzero, or the mask values that are foreground, such as 255 or 1,2.
    classes
        Names and mask values, background first: "background=0,nucleus=255,cytoplasm=128".
    ignore
        Mask values that are neither learnt nor scored, such as 255.
    json
        File to write all findings to; - prints them.
    page
        HTML page to write, with a picture of every suspicious pair.
    workers
        Threads that read. Default: all cores.
    """
    from contorno import api, progress

    printed = json == Path("-")
    result = api.check(
        images,
        _folders(masks),
        suffix=suffix,
        files=files,
        channels=channels or (),
        pages=pages,
        validation_files=validation_files,
        group=group,
        foreground=foreground,
        classes=classes,
        ignore=ignore,
        json=None if printed else json,
        page=page,
        workers=workers,
    )
    if printed:
        import json as writer

        progress.say(writer.dumps(result, indent=1))
    else:
        progress.findings(result)
        if page is not None:
            progress.say(f"Page: {page}")
    if not result["good"]:
        return 2
    return int(any(finding["severity"] != "note" for finding in result["findings"]))


@app.command
def predict(
    model: Path,
    *inputs: str,
    out: Path,
    probabilities: bool = False,
    float_tiff: bool = False,
    overlay: bool = False,
    files: Path | None = None,
    overwrite: bool = False,
    tta: bool = False,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
) -> int:
    """Draw the mask of every image, as PNG in the values of your own masks.

    Example: contorno predict runs/cells photos "more/*.tif" --out drawn --overlay

    Parameters
    ----------
    model
        Model file, run folder, or a .pth checkpoint that contorno convert takes.
    inputs
        Images, folders of images, patterns.
    out
        Folder for the masks. What this model drew there before is skipped.
    probabilities
        Write STEM_probability.png too: 16 bit, 0 to 65535 for 0 to 1.
    float_tiff
        Write the probabilities as STEM_probability.tif, float32, instead.
    overlay
        Write STEM_overlay.png too: the picture with the outline drawn on it.
    files
        Text file of stems or paths, one a line: only these are drawn.
    overwrite
        Replace files that this model did not make, or made otherwise.
    tta
        Average over mirrored and turned pictures (test-time averaging): 4 to 8 times the work.
    engine
        What runs the model. Default: the fastest that is installed.
    device
        Where to compute.
    precision
        bf16, or 32 for exact float32.
    """
    from contorno import api, progress

    outcome = api.predict(
        model,
        inputs,
        out=out,
        probabilities="tif" if float_tiff else "png" if probabilities else None,
        overlay=overlay,
        files=files,
        overwrite=overwrite,
        tta=tta,
        engine=engine,
        device=device,
        precision=precision,
    )
    progress.say(
        f"{len(outcome.written)} mask(s) written to {out}, {len(outcome.skipped)} done "
        f"before, {len(outcome.problems)} problem(s)"
    )
    if outcome.doubts:
        unlike = sum(bool(one.unlike) for one in outcome.doubts.values())
        words = f"; {unlike} image(s) unlike the training images" if unlike else ""
        progress.say(f"Which to look at first: {out / 'doubt.csv'}{words}")
    if outcome.problems:
        words = f"{len(outcome.problems)} problem(s):"
        progress.warn(str(InputError(words, outcome.problems)))  # thousands are cut to a page
    return 1 if outcome.problems else 0


@app.command
def convert(file: Path, *, out: Path, size: Count = None, overwrite: bool = False) -> None:
    """Turn a notebook's or milesial/Pytorch-UNet's checkpoint into a contorno model file.

    Example: contorno convert unet.pth --out model.safetensors

    Parameters
    ----------
    file
        .pt or .pth file of weights (torch.save(model.state_dict(), ...)).
    out
        Model file to write.
    size
        Resize every picture to this edge before the network. Default: its own size.
    overwrite
        Replace an existing file.
    """
    from contorno import api, progress

    model = api.convert(file, out, size=size, overwrite=overwrite)
    network = model.card.network
    progress.say(
        f"{out}: {network.architecture}, {network.up}, {network.in_channels} channel(s) "
        f"in, {network.out_channels} out, widths {', '.join(map(str, network.widths))}; "
        f"{model.card.provenance['converted_from']}; pictures are divided by 255"
    )


@app.command
def bench(
    model: Path,
    images: Path | None = None,
    masks: MaskFolders = None,
    *,
    files: Path | None = None,
    size: Whole = 512,
    rounds: Whole = 5,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Time the engines that can run a model here; the fastest is used from then on.

    Example: contorno bench runs/cells

    Where the run's own pictures are still there, or some are given, an 8-bit form is made, and is
    used by itself only if it loses at most 0.002 of Dice.

    Parameters
    ----------
    model
        Model file or run folder.
    images
        Folder of images like those of the training, none of them trained on.
    masks
        Folder of their masks.
    files
        Text file of stems or paths, one a line: only these are used.
    size
        Edge of the picture that is timed, where no pictures are at hand.
    rounds
        That the engines are timed in, one after the other.
    device
        Where to compute.
    precision
        bf16, or 32 for exact float32.
    """
    from contorno import api, progress

    progress.bench_table(
        api.bench(
            model,
            images,
            _folders(masks),
            files=files,
            size=size,
            rounds=rounds,
            device=device,
            precision=precision,
        )
    )


@app.command
def demo(*, out: Path = Path("contorno-demo"), time: str = "75s", seed: Whole = 0) -> None:
    """Draw a synthetic microscopy set, train on it for a minute, score held-out images.

    Example: contorno demo --out contorno-demo

    Parameters
    ----------
    out
        Folder to make.
    time
        How long the training may take.
    seed
        Of the pictures and of the training.
    """
    from contorno import api, progress

    progress.table(api.demo(out, time=time, seed=seed))


def _folders(masks: list[str] | None) -> str | dict[str, str] | None:
    """A folder, or with NAME=FOLDER several."""
    if not masks or (len(masks) == 1 and ("=" not in masks[0] or Path(masks[0]).is_dir())):
        return masks[0] if masks else None
    named = dict(mask.partition("=")[::2] for mask in masks)
    if len(named) < len(masks) or not all(named.values()) or any("/" in n for n in named):
        raise ConfigError(
            f"masks {' '.join(masks)}: give one folder, or --masks NAME=FOLDER for each class"
        )
    return named


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Whole numbers of "32,64,128"."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"widths {text!r} must be whole numbers, such as 32,64,128") from None
