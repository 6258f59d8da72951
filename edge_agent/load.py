"""Settings -> the parts that see: a release is checked and proven before it may look through a camera."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from edge_agent.classify import Classifier, Judgement
from edge_agent.detect import Detector, HaarDetector, YuNetDetector
from edge_agent.pipeline import Pipeline
from edge_agent.runtime import Session
from edge_agent.settings import ClassifySettings, DetectSettings, Settings
from protocol.errors import DeviceError, Reason, Rejected
from protocol.messages import Model
from protocol.release import MANIFEST_FILE, MAX_MANIFEST_BYTES, MAX_MODEL_BYTES, MODEL_FILE, Manifest, digest


@dataclass(frozen=True)
class Eyes:
    """What a camera sees with, and which models are in it."""

    detect: Detector
    classify: Classifier
    detector: Model
    classifier: Model


def load_eyes(settings: Settings) -> Eyes:
    """Detector and classifier as the settings ask for them; raises Rejected or DeviceError."""
    detect, detector = load_detector(settings.detect)
    classify, classifier = load_classifier(settings.classify)
    return Eyes(detect, classify, detector, classifier)


def load_pipeline(settings: Settings, eyes: Eyes) -> Pipeline:
    """A decision path that starts afresh."""
    return Pipeline(eyes.detect, eyes.classify, settings.decide.rules())


def load_detector(settings: DetectSettings) -> tuple[Detector, Model]:
    """The detector that is asked for, and what to call it."""
    if settings.model == "haar":
        return HaarDetector(settings.width_px, settings.smallest_face_px), Model(name="haar", version="frontalface_default", digest="")
    path = Path(settings.model).expanduser()
    detector = YuNetDetector(path, settings.width_px, settings.smallest_face_px, settings.score)
    return detector, Model(name=path.stem, version="", digest=digest(path.read_bytes()))


def load_classifier(settings: ClassifySettings) -> tuple[Classifier, Model]:
    """The classifier of a release folder, or of the release that the package brings along."""
    if settings.release is not None:
        return _load_classifier(settings.release.expanduser(), settings.threads)
    with as_file(files("edge_agent") / "models" / "classifier") as folder:
        return _load_classifier(folder, settings.threads)


def _load_classifier(folder: Path, threads: int) -> tuple[Classifier, Model]:
    manifest = Manifest.parse(_read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
    if manifest.kind != "classifier":
        raise Rejected(Reason.WRONG_KIND, f"release {folder}: a {manifest.kind}, not a classifier")
    if manifest.labels != ("with_mask", "without_mask") or manifest.input.colour != "rgb" or manifest.input.width_px != manifest.input.height_px:
        raise Rejected(Reason.BAD_RELEASE, f"release {folder}: expected square rgb input and labels with_mask, without_mask")
    model = _read(folder / MODEL_FILE, MAX_MODEL_BYTES)
    manifest.check_model(model)
    try:
        session = Session(model, threads)
        check_golden(session, manifest)
    except DeviceError as error:
        raise Rejected(Reason.BAD_RELEASE, f"release {folder}: {error}") from None
    judgement = Judgement(manifest.threshold, manifest.unsure)
    classifier = Classifier(session, manifest.input.width_px, manifest.input.crop_margin, judgement)
    return classifier, Model(name=manifest.name, version=manifest.version, digest=manifest.digest)


def check_golden(session: Session, manifest: Manifest) -> None:
    """Raises Rejected unless the model gives the manifest's golden answers on this machine."""
    golden = manifest.golden
    if list(golden.outputs) != session.outputs:
        raise Rejected(Reason.WRONG_GOLDEN, f"the model's outputs are {session.outputs}, its manifest has answers for {list(golden.outputs)}")
    images = np.frombuffer(golden.input_bytes(), np.uint8).reshape(golden.shape)
    for (name, expected), answer in zip(golden.outputs.items(), session.run(images), strict=True):
        if answer.size != len(expected):
            raise Rejected(Reason.WRONG_GOLDEN, f"golden test: {name} has {answer.size} values, expected {len(expected)}")
        difference = float(np.abs(answer.ravel() - np.array(expected)).max())
        if not difference <= golden.tolerance:  # also when it is not a number
            raise Rejected(Reason.WRONG_GOLDEN, f"golden test: {name} differs by {difference:.1e}, at most {golden.tolerance:.0e}")


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise Rejected(Reason.BAD_RELEASE, f"{path}: {error.strerror}") from None
    if len(data) > max_bytes:
        raise Rejected(Reason.TOO_LARGE, f"{path}: more than {max_bytes} bytes")
    return data
