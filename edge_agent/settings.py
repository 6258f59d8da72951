"""One frozen tree of settings: a TOML file, then `MASKFLEET_...` variables over it; a key that is not known is refused."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from edge_agent.decide import Rules
from edge_agent.gate import Gate
from edge_agent.outbox import Limits
from edge_agent.sources import NVARGUS
from protocol.broker import Broker
from protocol.errors import Reason, Rejected, in_one_line, one_line
from protocol.signature import KEY_TEXT, TrustedKeys, trusted_keys
from protocol.topics import SEGMENT, Address

PREFIX, DELIMITER = "MASKFLEET_", "__"
FILE_VARIABLE = f"{PREFIX}SETTINGS"
"""Names the settings file itself."""
DATA_VARIABLE = f"{PREFIX}DATA"
"""Says where tests and benchmarks find their pictures: no setting, but exported beside an agent it is no mistake either."""

Name = Annotated[str, Field(pattern=f"^{SEGMENT.pattern}$")]


def _from_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


def _not_empty(given: Any) -> Any:
    """An empty path would be the folder that the agent was started in."""
    if given == "":
        raise ValueError("expected a path, not an empty text")
    return given


def _without_nul(given: Any) -> Any:
    """The system takes no NUL, in a path or in the arguments of a program."""
    if isinstance(given, str) and "\0" in given:
        raise ValueError("it holds a NUL character")
    return given


_NoNul = BeforeValidator(_without_nul)
HomePath = Annotated[Path, _NoNul, BeforeValidator(_not_empty), AfterValidator(_from_home)]
"""May begin with `~`."""
HomeText = Annotated[
    str, _NoNul, BeforeValidator(_not_empty), AfterValidator(lambda text: str(_from_home(Path(text))) if text.startswith("~") else text)
]
"""The same, where it may be a word as well."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BrokerSettings(_Section):
    """The MQTT broker."""

    url: str = "mqtt://localhost:1883"
    """`mqtt://host:port`, or `mqtts://host:port` for TLS."""
    username: str | None = None
    """The camera's name, where the broker asks for one."""
    password: SecretStr | None = None
    """Better in the variable than in a file that others can read."""
    ca_file: HomePath | None = None
    """Certificate authority of the broker, where it is not one that the system knows."""
    cert_file: HomePath | None = None
    """This camera's certificate, where the broker asks for one."""
    key_file: HomePath | None = None
    """The private key to that certificate."""
    keepalive_s: int = Field(default=15, ge=5, le=600)
    """When the broker has heard nothing for one and a half times as long, it says `offline` for the camera."""

    def broker(self) -> Broker:
        """As the link takes it; raises Rejected when the URL is wrong, or the rest does not go together."""
        return Broker.parse(
            self.url,
            username=self.username,
            password=self.password and self.password.get_secret_value(),
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            keepalive_s=self.keepalive_s,
        )


class DetectSettings(_Section):
    """Finding faces."""

    model: HomeText = "shipped"
    """`shipped`, `haar`, or the path of a detector's release folder or of an ONNX file in YuNet's format."""
    smallest_face_px: int = Field(default=48, ge=8, le=2000)
    """The smallest face that must be seen (shorter side, in pixels of the camera's picture). Pictures are looked at no larger than it
    needs: twice the size is about a quarter of the time."""
    score: float | None = Field(default=None, gt=0, lt=1)
    """How sure a network must be that something is a face; its release's own threshold when empty."""


class ClassifySettings(_Section):
    """Telling masked from bare faces."""

    release: HomePath | None = None
    """A release folder; the release that the package brings along when empty."""


class DecideSettings(_Section):
    """When a face is worth an alert."""

    votes_needed: int = Field(default=Rules.votes_needed, ge=1, le=1000)
    """How many of a face's last `votes_kept` readings must agree to open or close an incident."""
    votes_kept: int = Field(default=Rules.votes_kept, ge=1, le=1000)
    """How many of a face's readings are kept, and vote; of more than 20 in a second some are left out."""
    least_p: float = Field(default=Rules.least_p, ge=0, le=1)
    """The mean p(no mask) of the votes that open an incident must reach this."""
    age_s: float = Field(default=Rules.age_s, ge=0, le=3600)
    """How long a face must have been followed before it can open an incident."""
    seen_share: float = Field(default=Rules.seen_share, ge=0, le=1)
    """In so many of the late frames (some 60, or since it was first seen) a face must have been seen to open an incident."""
    smallest_px: float = Field(default=Rules.smallest_px, ge=0)
    """Faces whose longer side is smaller than this open no incident."""
    lost_s: float = Field(default=Rules.lost_s, gt=0, le=3600)
    """A face not seen for this long has left; one that comes back after that is another face, which no cooldown holds back."""
    cooldown_s: float = Field(default=Rules.cooldown_s, ge=0, le=86400)
    """A face opens its next incident at the earliest this long after its last one."""

    @model_validator(mode="after")
    def _needs_a_majority(self) -> "DecideSettings":
        if not self.votes_kept / 2 < self.votes_needed <= self.votes_kept:
            raise ValueError("votes_needed must be more than half of votes_kept and at most all of it")
        return self

    def rules(self) -> Rules:
        """As the decision takes them."""
        return Rules(**self.model_dump())


class OutboxSettings(_Section):
    """How much waits for a broker that is away; beyond any of these the oldest alert is dropped, and counted on `health`."""

    messages: int = Field(default=Limits.messages, ge=1, le=1_000_000)
    """At most so many alerts and ends of incidents."""
    size_bytes: int = Field(default=Limits.size_bytes, ge=10_000, le=10**9)
    """Together at most so large."""
    age_s: float = Field(default=Limits.age_s, ge=60)
    """None older than this; the default is 30 days."""

    def limits(self) -> Limits:
        """As the outbox takes them."""
        return Limits(**self.model_dump())


class SnapshotSettings(_Section):
    """Pictures that leave the camera: none, unless switched on here."""

    on_alert: bool = False
    """One with each alert; all faces but the incident's are blurred."""
    on_request: bool = False
    """One when the command `snapshot` asks for it; all faces are blurred."""


class UpdateSettings(_Section):
    """Whose models a camera takes over MQTT, and how it tries them."""

    trusted_keys: tuple[HomeText, ...] = ()
    """Public keys of those who sign releases: each 44 letters of base64, or the path of a file that holds them. Updates are off without one."""
    shadow_s: float = Field(default=15, gt=0, le=3600)
    """The old and the new model see the same faces for so long, and the old one decides."""
    trial_s: float = Field(default=20, gt=0, le=3600)
    """The new model decides for so long before it stays."""
    gate: Gate = Gate()
    """What it must hold to."""

    def owner_keys(self) -> TrustedKeys:
        """The public keys by their ids; raises Rejected."""
        try:
            return trusted_keys(key if KEY_TEXT.fullmatch(key) else Path(key).read_text(encoding="ascii") for key in self.trusted_keys)
        except OSError as error:
            raise Rejected(Reason.BAD_SETTING, f"setting updates.trusted_keys: {in_one_line(error)}") from None
        except UnicodeDecodeError:
            raise Rejected(Reason.BAD_SETTING, "setting updates.trusted_keys: a file holds no public key in base64") from None


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    base: Name = "maskfleet"
    """First segment of every topic."""
    site: Name = "home"
    """The place of the camera."""
    camera: Name = "door"
    """Unique in its site: two cameras of one name throw each other off the broker."""
    uri: str = "demo:"
    """The camera: `csi://0`, `v4l2:///dev/video0`, `rtsp://...`, `file:video.mp4`, `images:FOLDER` or `demo:`."""
    csi_source: Annotated[str, _NoNul] = NVARGUS
    """The GStreamer pipeline behind `csi://`, up to raw video; `{width} {height} {fps} {sensor} {sensor_mode} {flip}` are filled in."""
    state_dir: HomePath = Field(default_factory=lambda: Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "maskfleet")
    """Where alerts are kept until the broker has them, and models that were fetched: `maskfleet` in `XDG_STATE_HOME`, or in `~/.local/state`."""
    telemetry_s: float = Field(default=10, ge=1, le=300)
    """Seconds between two telemetry messages."""
    threads: int = Field(default=1, ge=1, le=64)
    """How many processor threads the work on one frame may take, in OpenCV and in ONNX Runtime alike."""
    prometheus_port: int | None = Field(default=None, ge=1, le=65535)
    """Where Prometheus finds the figures, on this machine only: `http://127.0.0.1:<port>/metrics`. Needs `pip install '.[prometheus]'`."""
    home_assistant: bool = True
    """Whether the camera shows itself to Home Assistant; false removes it there."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Only what is at least so grave is logged, on standard error."""
    broker: BrokerSettings = BrokerSettings()
    detect: DetectSettings = DetectSettings()
    classify: ClassifySettings = ClassifySettings()
    decide: DecideSettings = DecideSettings()
    outbox: OutboxSettings = OutboxSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    updates: UpdateSettings = UpdateSettings()

    @property
    def address(self) -> Address:
        """Which camera this is."""
        return Address(self.base, self.site, self.camera)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes over what the file says."""
        return env_settings, init_settings


def read_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """The settings in a TOML file and the environment; `overrides` (top-level keys) win over both.

    Raises Rejected with one line that names the key.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig")) if file else {}
    except FileNotFoundError:
        raise Rejected(Reason.BAD_SETTING, f"settings {file}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Rejected(Reason.BAD_SETTING, f"settings {file}: {error}") from None
    _refuse_unknown_variables()
    try:
        settings = Settings(**values)
        return settings.model_copy(update=overrides) if overrides else settings
    except ValidationError as error:
        raise Rejected(Reason.BAD_SETTING, f"setting {one_line(error)}".replace("Extra inputs are not permitted", "no such setting")) from None
    except SettingsError as error:
        expected = 'expected JSON: ["...", "..."] for a list, {...} for a section'
        raise Rejected(Reason.BAD_SETTING, f"variable {_without_json(error)}: {expected}") from None


def _without_json(error: SettingsError) -> str:
    """The variable whose text was no JSON where JSON is needed; pydantic-settings tells no more than the section that it lies in."""
    text = getattr(error.__cause__, "doc", None)
    names = (name for name, value in os.environ.items() if name.upper().startswith(PREFIX) and value == text)
    return next(names, f"{PREFIX}...")


def _refuse_unknown_variables() -> None:
    """pydantic-settings looks only for variables that it knows, and would pass over a misspelt one."""
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper() not in (FILE_VARIABLE, DATA_VARIABLE):
            key, *within = variable[len(PREFIX) :].lower().split(DELIMITER)
            field = Settings.model_fields.get(key)
            if field is None or (within and not isinstance(field.default, BaseModel)):
                raise Rejected(Reason.BAD_SETTING, f"variable {variable}: no such setting")
