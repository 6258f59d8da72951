"""What a camera starts with: the models that were installed, or those that the settings name or the package brings along."""

import logging
from pathlib import Path

from edge_agent import update
from edge_agent.crashes import MAX_CRASHES, Crashes
from edge_agent.load import Eyes, read_manifest, shipped, with_release
from edge_agent.settings import Settings
from edge_agent.slots import Slots
from edge_agent.update_state import Lost, Release, State
from protocol.errors import DeviceError, Reason, Rejected
from protocol.messages import Model
from protocol.release import MODEL_FILE
from protocol.rollouts import Kind, UpdateState

log = logging.getLogger(__name__)

KINDS: tuple[Kind, ...] = ("classifier", "detector")


def pinned(settings: Settings) -> frozenset[Kind]:
    """The kinds whose model the settings name: those are not updated."""
    named: dict[Kind, bool] = {"classifier": settings.classify.release is not None, "detector": settings.detect.model != "shipped"}
    return frozenset(kind for kind, is_named in named.items() if is_named)


def folder_of(settings: Settings) -> Path:
    """Where this camera keeps its models."""
    return settings.state_dir / "models" / settings.address.name


def slots_of(settings: Settings, eyes: Eyes) -> Slots:
    """What is kept there; `eyes` are those that the settings ask for."""
    fixed = pinned(settings)
    return Slots(folder_of(settings), {kind: (_release(_model(eyes, kind)), None) if kind in fixed else _shipped(kind) for kind in KINDS})


def recall(settings: Settings, eyes: Eyes, slots: Slots, crashes: Crashes) -> tuple[Eyes, State, dict[Kind, Path]]:
    """The eyes with the models that were installed, the state of updates, and the release folder of each model.

    A model that cannot be loaded any more, or takes the agent down again and again, is given up for the one in `eyes`: a camera always sees.
    """
    before = slots.load()
    state = _without_crashing(before, slots, crashes)
    folders = {kind: shipped(kind) for kind in KINDS}
    for kind in KINDS:
        release = state.installed(kind)
        try:
            if release.slot is not None and kind not in pinned(settings):
                folder = slots.folder(kind, release.slot)
                eyes, folders[kind] = _with(eyes, kind, release, folder, settings), folder
            elif release.model_copy(update={"counter": 0}) != slots.shipped(kind):  # another package, or other settings
                state = update.step(state, Lost(kind, slots.shipped(kind))).state
        except (Rejected, DeviceError) as error:
            log.error("the installed %s is lost, the one that ships sees instead: %s", kind, error)  # noqa: TRY400
            state = update.step(state, Lost(kind, slots.shipped(kind))).state
    if state != before:
        try:
            slots.save(state)
        except OSError as error:
            log.error("the journal of updates cannot be written: %s", error)  # noqa: TRY400
    return eyes, state, folders


def _without_crashing(state: State, slots: Slots, crashes: Crashes) -> State:
    """The state without the model that was installed last, after too many crashes; without any, where that is not known."""
    count = crashes.count()
    if count < MAX_CRASHES:
        return state
    crashes.forget()
    installed = [kind for kind in KINDS if state.installed(kind).slot is not None]
    latest = state.target.kind if state.state is UpdateState.COMMITTED and state.target else None
    detail = f"the agent went down {count} times in a row while it saw"
    for kind in [kind for kind in installed if kind == latest] or installed:
        log.error("the installed %s is given up, the one that ships sees instead: %s", kind, detail)
        state = update.step(state, Lost(kind, slots.shipped(kind), Reason.RESTARTED, detail)).state
    return state


def _with(eyes: Eyes, kind: Kind, release: Release, folder: Path, settings: Settings) -> Eyes:
    found = with_release(eyes, kind, folder, settings)
    if _model(found, kind).digest != release.digest:
        raise Rejected(Reason.WRONG_DIGEST, f"{folder}: not the release that was installed")
    return found


def _model(eyes: Eyes, kind: Kind) -> Model:
    return eyes.classifier if kind == "classifier" else eyes.detector


def _release(model: Model) -> Release:
    return Release(digest=model.digest, name=model.name, version=model.version)


def _shipped(kind: Kind) -> tuple[Release, Path]:
    manifest = read_manifest(shipped(kind))
    release = Release(digest=manifest.digest, fingerprint=manifest.fingerprint, name=manifest.name, version=manifest.version)
    return release, shipped(kind) / MODEL_FILE
