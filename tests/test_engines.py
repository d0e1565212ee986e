"""One contract for every engine: the same probabilities however the pictures are handed over."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from making import model_file
from notebooks import shaken

import contorno
from contorno.card import ModelCard
from contorno.config import NetworkConfig, Preprocessing
from contorno.engines import Engine, whole_image
from contorno.engines.artifacts import Artifacts
from contorno.engines.averaging import Averaged, Ensemble
from contorno.engines.pytorch import PyTorchEngine
from contorno.engines.select import Source, open_engine, quantise
from contorno.errors import OutOfMemory
from contorno.files import sha256
from contorno.hardware import Hardware
from contorno.images import read_image
from contorno.models import Segmenter, build_network

EXACT = Hardware("cpu", "32-true", "CPU, float32")
COARSE = Hardware("cpu", "bf16-mixed", "CPU, bfloat16")
ENGINES = {  # name in these tests -> engine, hardware
    "pytorch": ("pytorch", EXACT),
    "pytorch bf16": ("pytorch", COARSE),
    "openvino": ("openvino", EXACT),
    "openvino bf16": ("openvino", COARSE),
    "openvino-int8": ("openvino-int8", COARSE),
    "onnxruntime": ("onnxruntime", EXACT),
}
# Largest difference allowed between two ways of asking for the same thing: sums in another order.
STATM = Path("/proc/self/statm")  # pages that this process has, the second number
CLOSE = {
    "pytorch": 1e-5,
    "pytorch bf16": 0.05,
    "openvino": 1e-5,
    "openvino bf16": 0.05,
    "openvino-int8": 0.05,
    "onnxruntime": 1e-5,
}
# Mean difference from double precision. A random network of 4 to 16 channels on noise is the
# hardest case for 8 bits; what they cost a trained one is for `contorno bench` to measure.
FAR = CLOSE | {"openvino-int8": 0.15}
EXACT_ONES = [name for name, close in CLOSE.items() if close < 0.05]
TYPES = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0, "float32": 2.5}
SIZES = [(1, 1), (17, 33), (40, 24), (5, 64)]
every_engine = pytest.mark.parametrize("name", list(ENGINES))


def model(
    kind: str = "uint8",
    *,
    classes: int = 1,
    size: tuple[int, int] | None = None,
    up: str = "transposed",
    architecture: str = "UNet",
    patch: int = 1,
) -> Segmenter:
    """A small model with its card."""
    torch.manual_seed(0)
    scale = TYPES[kind]
    card = ModelCard(
        network=NetworkConfig(
            architecture=architecture,
            in_channels=3,
            out_channels=classes,
            widths=(4, 8, 16),
            up=up,
            patch=patch,
        ),
        preprocessing=Preprocessing(
            mean=(0.1 * scale, 0.2 * scale, 0.3 * scale),
            std=(scale / 2,) * 3,
            size=size,
            dtype=kind,
            output="sigmoid" if classes == 1 else "softmax",
        ),
    )
    segmenter = Segmenter(shaken(build_network(card.network)), card.preprocessing).eval()
    segmenter.card = card
    return segmenter


def source(segmenter: Segmenter, hardware: Hardware) -> Source:
    """What engines are made of; equal models share their artefacts, until the tests end."""
    digest = sha256(segmenter.card.model_dump_json().encode())
    artifacts = Artifacts(Path(FOLDERS.name) / digest / "model.safetensors", digest)
    return Source(segmenter.card, hardware, artifacts, lambda: segmenter)


FOLDERS = tempfile.TemporaryDirectory()


def engine_of(name: str, segmenter: Segmenter, *, threads: int | None = None) -> Engine:
    engine, hardware = ENGINES[name]
    for package in {"openvino": ["openvino"], "openvino-int8": ["openvino", "nncf"]}.get(
        engine, ["onnxruntime"] if engine == "onnxruntime" else []
    ):
        pytest.importorskip(package)
    made_of = source(segmenter, hardware)
    if engine == "openvino-int8":
        kind = segmenter.card.preprocessing.dtype
        quantise(made_of, pictures(8, 48, 40, kind))
    return open_engine(engine, made_of, threads=threads)


def pictures(count: int, height: int, width: int, kind: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(0).random((count, height, width, 3)) * TYPES[kind]
    return values.astype(kind)


def plain(segmenter: Segmenter, batch: np.ndarray) -> np.ndarray:
    """The whole model step by step, in double precision."""
    images = torch.from_numpy(batch.astype(np.float64)).permute(0, 3, 1, 2).contiguous()
    size = images.shape[-2:]
    if segmenter.size is not None:
        images = F.interpolate(images, segmenter.size, mode="bilinear", antialias=True)
    network = copy.deepcopy(segmenter.network).double()
    with torch.no_grad():
        values = network((images - segmenter.mean.double()) / segmenter.std.double())
    result = torch.sigmoid(values) if values.shape[1] == 1 else torch.softmax(values, dim=1)
    if segmenter.size is not None:
        result = F.interpolate(result, size, mode="bilinear", antialias=True)
    return result.numpy()


@every_engine
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_of_every_type_and_size(name: str, kind: str, classes: int) -> None:
    segmenter = model(kind, classes=classes)
    engine = engine_of(name, segmenter)
    for height, width in SIZES:
        batch = pictures(2, height, width, kind)
        expected = plain(segmenter, batch)
        found = engine.probabilities(batch)
        assert found.shape == (2, classes, height, width)
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1
        assert np.abs(found - expected).mean() < FAR[name]
        if name in EXACT_ONES:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@every_engine
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_pixels_taken_in_patches(name: str, up: str) -> None:
    segmenter = model(up=up, patch=2)
    engine = engine_of(name, segmenter)
    for height, width in SIZES:
        batch = pictures(2, height, width)
        found = engine.probabilities(batch)
        assert found.shape == (2, 1, height, width)
        assert np.abs(found - plain(segmenter, batch)).mean() < FAR[name]


@every_engine
def test_many_threads_ask_one_engine(name: str) -> None:
    engine = engine_of(name, model())
    batches = [pictures(4, 32, 32)[i : i + 1] for i in range(4)] * 8
    alone = [engine.probabilities(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(engine.probabilities, batches))
    np.testing.assert_array_equal(together, alone)


@every_engine
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_batches_of_1_and_8_are_the_same(name: str, up: str) -> None:
    engine = engine_of(name, model(up=up))
    batch = pictures(8, 33, 47)
    together = engine.probabilities(batch)
    alone = np.concatenate([engine.probabilities(batch[i : i + 1]) for i in range(8)])
    assert together.std() > 0.1
    np.testing.assert_allclose(together, alone, rtol=0, atol=CLOSE[name])


@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell")
def test_pictures_that_each_have_another_size_do_not_fill_the_memory(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = model_file(tmp_path / "model.safetensors", np.eye(32, dtype=np.uint8)[..., None])
    engine, pages = contorno.load(path, device="cpu", engine="openvino").engine, []
    for number in range(150):
        engine.probabilities(np.zeros((1, 20 + number, 180 - number, 1), np.uint8))
        pages.append(int(STATM.read_text().split()[1]))
    grown = (pages[-1] - pages[100]) * os.sysconf("SC_PAGE_SIZE")  # by then all is kept that is
    assert grown < 20e6


def test_each_engine_computes_in_its_own_format_whichever_was_opened_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stands in for a GPU, whose formats PyTorch keeps for the whole process."""
    used: list[Hardware] = []
    monkeypatch.setattr("contorno.engines.pytorch.use", used.append)
    exact, short = PyTorchEngine(model(), EXACT), PyTorchEngine(model(), COARSE)
    for engine in (exact, short, exact):
        engine.probabilities(np.zeros((1, 16, 16, 3), np.uint8))
    assert used == [EXACT, COARSE, EXACT]


@pytest.fixture
def two_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@every_engine
def test_the_number_of_threads_does_not_matter(
    name: str, two_threads: Callable[[int], None]
) -> None:
    batch = pictures(3, 65, 63)
    two_threads(1)
    one = engine_of(name, model(), threads=1).probabilities(batch)
    two_threads(2)
    two = engine_of(name, model(), threads=2).probabilities(batch)
    np.testing.assert_allclose(two, one, rtol=0, atol=CLOSE[name])


@every_engine
def test_asking_twice_gives_the_same_and_changes_nothing(name: str) -> None:
    segmenter = model()
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    engine = engine_of(name, segmenter)
    batch = pictures(2, 17, 33)
    kept = batch.copy()
    first = engine.probabilities(batch)
    segmenter.train()  # as between two epochs: statistics of the batch must not be used
    assert np.array_equal(engine.probabilities(batch), first)
    assert np.array_equal(batch, kept)
    for key, value in segmenter.state_dict().items():
        assert torch.equal(value, before[key]), key


@every_engine
@pytest.mark.parametrize("kind", TYPES)
def test_arrays_of_any_layout(name: str, kind: str) -> None:
    """Read-only, sliced, flipped and Fortran-ordered arrays: no warning, and the same answer."""
    engine = engine_of(name, model(kind))
    batch = pictures(2, 18, 34, kind)
    first = engine.probabilities(batch)
    locked = batch.copy()
    locked.setflags(write=False)
    wide = np.repeat(batch, 2, axis=2)
    for other in (locked, np.asfortranarray(batch), wide[:, :, ::2], batch[:, ::-1][:, ::-1]):
        assert np.array_equal(engine.probabilities(other), first)
    row = batch[:, :1].copy()  # mirrored it is the same, and contiguous to NumPy
    assert np.array_equal(engine.probabilities(row[:, ::-1]), engine.probabilities(row))


@every_engine
def test_a_fixed_size_is_the_model_s_own_business(name: str) -> None:
    segmenter = model(size=(32, 48))
    batch = pictures(2, 21, 37)
    found = engine_of(name, segmenter).probabilities(batch)
    assert found.shape == (2, 1, 21, 37)
    assert np.abs(found - plain(segmenter, batch)).mean() < FAR[name]


@every_engine
def test_real_pictures_from_files(name: str, tiny_set: Path) -> None:
    """Read from disk, one by one or as a batch: what a prediction of a folder relies on."""
    engine = engine_of(name, model())
    images = [read_image(path) for path in sorted((tiny_set / "test" / "images").iterdir())]
    assert [image.shape for image in images] == [(64, 64, 3)] * 3
    together = engine.probabilities(np.stack(images))
    alone = [engine.probabilities(image[None])[0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=0, atol=CLOSE[name])


def test_bfloat16_is_used_when_asked_and_close() -> None:
    batch = pictures(4, 64, 64)
    exact, coarse = (
        engine_of(name, model()).probabilities(batch) for name in ("pytorch", "pytorch bf16")
    )
    error = np.abs(exact - coarse)
    assert error.max() > 1e-5
    assert error.mean() < 0.01
    assert np.unique(coarse).size > 1000  # probabilities themselves are not of eight bits


def test_the_name_says_where_it_runs() -> None:
    assert PyTorchEngine(model(), EXACT).name == "PyTorch on CPU, float32"


class Counting:
    """A stand-in for an engine that notes what it is given, and has memory for `most` pixels."""

    name, preprocessing = "stand-in", Preprocessing()

    def __init__(self, *, tileable: bool, most: int) -> None:
        self.tileable, self.most = tileable, most
        self.shapes: list[tuple[int, ...]] = []

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        self.shapes.append(batch.shape)
        if batch.shape[1] * batch.shape[2] > self.most:
            raise OutOfMemory("too large")
        return np.full((1, 1, *batch.shape[1:3]), 0.25, np.float32)


def test_a_model_that_resizes_gets_the_whole_picture_however_large() -> None:
    engine = Counting(tileable=False, most=10**9)
    assert whole_image(engine, np.zeros((1700, 1600, 1), np.uint8)).shape == (1, 1700, 1600)
    assert engine.shapes == [(1, 1700, 1600, 1)]


def test_a_picture_that_does_not_fit_in_memory_is_tiled() -> None:
    engine = Counting(tileable=True, most=1024 * 1024)
    result = whole_image(engine, np.zeros((1100, 1300, 1), np.uint8))
    assert result.shape == (1, 1100, 1300)
    assert np.allclose(result, 0.25)
    assert len(engine.shapes) > 2
    with pytest.raises(OutOfMemory):
        whole_image(Counting(tileable=True, most=100), np.zeros((1100, 1300, 1), np.uint8))
    with pytest.raises(OutOfMemory):
        whole_image(Counting(tileable=True, most=100), np.zeros((64, 64, 1), np.uint8))


def test_onnx_runtime_that_lacks_memory_says_so_as_all_do(tmp_path: Path) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    class Full:
        def run(self, *_: object) -> None:
            raise Fail("Failed to allocate memory for requested buffer")

    path = model_file(
        tmp_path / "model.safetensors", np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    )
    engine = contorno.load(path, engine="onnxruntime", device="cpu").engine
    engine._session = Full()
    with pytest.raises(OutOfMemory, match="40 x 24 pixels"):
        engine.probabilities(np.zeros((1, 24, 40, 3), np.uint8))


# Averaging over mirrored and turned pictures


def moved(engine: Engine, picture: np.ndarray, turn: int, mirrored: bool) -> np.ndarray:
    """The engine's answer to a picture that is mirrored, then turned; moved back. By hand."""
    seen = picture[:, ::-1] if mirrored else picture
    for _ in range(turn):  # a quarter turn: the last column becomes the first row
        seen = seen.transpose(1, 0, 2)[::-1]
    found = engine.probabilities(np.ascontiguousarray(seen)[None])[0]
    for _ in range(turn):
        found = found.transpose(0, 2, 1)[:, :, ::-1]
    return found[:, :, ::-1] if mirrored else found


@every_engine
@pytest.mark.parametrize(("size", "ways"), [((32, 32), 8), ((24, 40), 4)])
def test_averages_are_those_computed_by_hand(name: str, size: tuple[int, int], ways: int) -> None:
    engine = engine_of(name, model(classes=3))
    batch = pictures(2, *size)
    turns = (0, 1, 2, 3) if ways == 8 else (0, 2)
    expected = np.stack(
        [
            np.mean(
                [moved(engine, picture, t, m).astype(np.float64) for t in turns for m in (0, 1)],
                axis=0,
            )
            for picture in batch
        ]
    )
    averaged = Averaged(engine)
    found = averaged.probabilities(batch)
    assert found.dtype == np.float32
    assert found.shape == (2, 3, *size)
    assert np.allclose(found, expected, atol=CLOSE[name])
    assert not np.allclose(found, engine.probabilities(batch), atol=CLOSE[name])
    assert averaged.name.startswith(engine.name)
    assert "averaged over mirrored and turned pictures" in averaged.name
    assert averaged.tileable


@every_engine
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_averages_of_a_single_row_or_column(name: str, size: tuple[int, int]) -> None:
    found = Averaged(engine_of(name, model())).probabilities(pictures(1, *size))
    assert found.shape == (1, 1, *size)


class Pointwise:
    """Looks at each pixel alone, so that it does not matter how a picture lies."""

    name, precision, tileable, preprocessing = "pointwise", "32", False, Preprocessing()

    def __init__(self) -> None:
        self.asked = 0

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        self.asked += 1
        return np.sqrt(batch[..., 0] / np.float32(255), dtype=np.float32)[:, None]


@pytest.mark.parametrize(("size", "ways"), [((17, 17), 8), ((9, 17), 4), ((1, 1), 8)])
def test_averaging_changes_nothing_where_nothing_depends_on_the_way(
    size: tuple[int, int], ways: int
) -> None:
    engine = Pointwise()
    batch = pictures(3, *size)
    assert np.array_equal(Averaged(engine).probabilities(batch), engine.probabilities(batch))
    assert engine.asked == ways + 1
    assert not Averaged(engine).tileable


# The mean of several engines


class Constant:
    """Gives the same probabilities for every pixel."""

    precision, preprocessing = "32", Preprocessing()

    def __init__(self, *values: float, tileable: bool = True) -> None:
        self.values, self.tileable, self.name = np.array(values, np.float32), tileable, "constant"

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        shape = (len(batch), len(self.values), *batch.shape[1:3])
        return np.broadcast_to(self.values[:, None, None], shape).copy()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_an_ensemble_is_the_mean_of_its_members(temperature: float) -> None:
    batch = pictures(2, 5, 7)
    found = Ensemble([Constant(0.1), Constant(0.5), Constant(0.9)], temperature=temperature)
    np.testing.assert_allclose(found.probabilities(batch), 0.5, atol=1e-6)
    two = Ensemble([Constant(0.9), Constant(0.5)], temperature=temperature)
    sure = 0.9 if temperature == 1 else 3 / 4  # odds of 9 become 3
    np.testing.assert_allclose(two.probabilities(batch), (sure + 0.5) / 2, atol=1e-6)
    assert two.probabilities(batch).dtype == np.float32
    assert two.name == "constant, mean of 2 models"
    assert two.precision == "32"
    assert two.tileable


def test_an_ensemble_of_exclusive_classes_adds_up_to_1() -> None:
    members = [Constant(0.7, 0.2, 0.1), Constant(0.1, 0.1, 0.8, tileable=False)]
    found = Ensemble(members, temperature=0.5, exclusive=True)
    each = [np.array(one.values, np.float64) ** 2 for one in members]
    expected = np.mean([one / one.sum() for one in each], axis=0)
    result = found.probabilities(pictures(1, 4, 4))[0, :, 2, 3]
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert not found.tileable
