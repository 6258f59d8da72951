"""Settings -> the parts that see: a release is checked and proven before it may look through a camera."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from edge_agent.classify import Classifier, Judgement
from edge_agent.detect import Detector, HaarDetector
from edge_agent.pipeline import Classify, Pipeline
from edge_agent.runtime import OpenCvNetwork, Session
from edge_agent.settings import ClassifySettings, DetectSettings, Settings
from edge_agent.yunet import YuNetDetector
from protocol.errors import DeviceError, Reason, Rejected, naming
from protocol.messages import Model
from protocol.release import MANIFEST_FILE, MAX_MANIFEST_BYTES, MAX_MODEL_BYTES, MODEL_FILE, Manifest, digest
from protocol.rollouts import Kind

YUNET_SCORE = 0.6
"""For a network that comes without a manifest."""


@dataclass(frozen=True)
class Eyes:
    """What a camera sees with, and which models are in it."""

    detect: Detector
    classify: Classify
    detector: Model
    classifier: Model


def load_eyes(settings: Settings) -> Eyes:
    """Detector and classifier as the settings ask for them; raises Rejected or DeviceError."""
    cv2.setNumThreads(settings.threads)
    detect, detector = load_detector(settings.detect, threads=settings.threads)
    classify, classifier = load_classifier(settings.classify, threads=settings.threads)
    return Eyes(detect, classify, detector, classifier)


def with_release(eyes: Eyes, kind: Kind, release: Path, settings: Settings) -> Eyes:
    """The eyes with one model replaced by that of a release folder; raises Rejected or DeviceError."""
    if kind == "detector":
        detect, detector = load_detector(settings.detect, settings.threads, release)
        return replace(eyes, detect=detect, detector=detector)
    classify, classifier = load_classifier(settings.classify, settings.threads, release)
    return replace(eyes, classify=classify, classifier=classifier)


def with_model(eyes: Eyes, kind: Kind, others: Eyes) -> Eyes:
    """The eyes with one model replaced by that of others."""
    if kind == "detector":
        return replace(eyes, detect=others.detect, detector=others.detector)
    return replace(eyes, classify=others.classify, classifier=others.classifier)


def load_pipeline(settings: Settings, eyes: Eyes) -> Pipeline:
    """A decision path that starts afresh."""
    return Pipeline(eyes.detect, eyes.classify, settings.decide.rules())


def shipped(kind: Kind) -> Path:
    """The release folder of a kind that the package brings along."""
    return Path(str(files("edge_agent") / "models" / kind))


def load_detector(settings: DetectSettings, threads: int = 1, release: Path | None = None) -> tuple[Detector, Model]:
    """The detector of a release folder, or the one that the settings ask for, and what to call it; raises Rejected."""
    if release is not None:
        return _load_detector(release, settings, threads)
    if settings.model == "haar":
        return HaarDetector(settings.smallest_face_px), Model(name="haar", version="frontalface_default", digest="")
    if settings.model == "shipped":
        return _load_detector(shipped("detector"), settings, threads)
    path = Path(settings.model)
    if path.is_dir():
        return _load_detector(path, settings, threads)
    try:
        model = _read(path, MAX_MODEL_BYTES)
        detector = YuNetDetector(_network(model, threads), settings.smallest_face_px, settings.score or YUNET_SCORE)
    except (DeviceError, Rejected) as error:
        raise Rejected(Reason.BAD_INPUT, f"detector {path}: {error}") from None
    return detector, Model(name=path.stem, version="", digest=digest(model))


def _load_detector(folder: Path, settings: DetectSettings, threads: int) -> tuple[Detector, Model]:
    with _naming(folder):
        manifest, model = _read_release(folder, "detector")
        network = _network(model, threads)
        check_golden(network, manifest)
        detector = YuNetDetector(network, settings.smallest_face_px, settings.score or manifest.threshold)
    return detector, Model(name=manifest.name, version=manifest.version, digest=manifest.digest)


def _network(model: bytes, threads: int) -> Session | OpenCvNetwork:
    """ONNX Runtime, which is three times as fast, wherever the network leaves the size of its pictures open."""
    session = Session(model, threads)
    return session if session.takes_any_size else OpenCvNetwork(model)


def load_classifier(settings: ClassifySettings, threads: int = 1, release: Path | None = None) -> tuple[Classifier, Model]:
    """The classifier of a release folder, or of the one that the settings name, or that the package brings along."""
    return _load_classifier(release or settings.release or shipped("classifier"), threads)


def _load_classifier(folder: Path, threads: int) -> tuple[Classifier, Model]:
    with _naming(folder):
        manifest, model = _read_release(folder, "classifier")
        if manifest.labels != ("with_mask", "without_mask") or manifest.input.colour != "rgb" or manifest.input.width_px != manifest.input.height_px:
            raise Rejected(Reason.BAD_RELEASE, "expected square rgb input and labels with_mask, without_mask")
        session = Session(model, threads)
        check_golden(session, manifest)
    judgement = Judgement(manifest.threshold, manifest.unsure)
    classifier = Classifier(session, manifest.input.width_px, manifest.input.crop_margin, judgement)
    return classifier, Model(name=manifest.name, version=manifest.version, digest=manifest.digest)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """What is rejected within names the release; a model that does not run is a bad release."""
    with naming(f"release {folder}"):
        try:
            yield
        except DeviceError as error:
            raise Rejected(Reason.BAD_RELEASE, str(error)) from None


def check_golden(model: Session | OpenCvNetwork, manifest: Manifest) -> None:
    """Raises Rejected unless the model gives the manifest's golden answers on this machine."""
    golden = manifest.golden
    unknown = set(golden.outputs) - set(model.outputs)
    if unknown or not golden.outputs:
        raise Rejected(Reason.WRONG_GOLDEN, f"golden test: the model's outputs are {model.outputs}, its manifest answers for {list(golden.outputs)}")
    images = np.frombuffer(golden.input_bytes(), np.uint8).reshape(golden.shape)
    answers = dict(zip(model.outputs, model.run(images), strict=True))
    for name, expected in golden.outputs.items():
        answer = answers[name]
        if answer.size != len(expected):
            raise Rejected(Reason.WRONG_GOLDEN, f"golden test: {name} has {answer.size} values, expected {len(expected)}")
        difference = float(np.abs(answer.ravel() - np.array(expected)).max())
        if not difference <= golden.tolerance:  # also when it is not a number
            raise Rejected(Reason.WRONG_GOLDEN, f"golden test: {name} differs by {difference:.1e}, at most {golden.tolerance:.0e}")


def _read_release(folder: Path, kind: Literal["classifier", "detector"]) -> tuple[Manifest, bytes]:
    """The manifest and the model of a release folder, the one being the other's."""
    manifest = read_manifest(folder)
    if manifest.kind != kind:
        raise Rejected(Reason.WRONG_KIND, f"a {manifest.kind}, not a {kind}")
    with naming(MODEL_FILE):
        model = _read(folder / MODEL_FILE, MAX_MODEL_BYTES)
    manifest.check_model(model)
    return manifest, model


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a release folder; raises Rejected."""
    with naming(MANIFEST_FILE):
        data = _read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    return Manifest.parse(data)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise Rejected(Reason.BAD_RELEASE, error.strerror or str(error)) from None
    if len(data) > max_bytes:
        raise Rejected(Reason.TOO_LARGE, f"more than {max_bytes} bytes")
    return data
