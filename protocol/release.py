"""A release: a model file and the manifest that says what it is, what it must answer, and how good it was measured to be.

The last fields of the manifest are filled in when it is signed; a release that was never signed leaves them empty.
"""

import hashlib
import math
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from protocol.errors import Reason, Rejected, one_line

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
CARD_FILE = "CARD.md"
MAX_NAME = 64
MAX_MANIFEST_BYTES = 20_000
MAX_MODEL_BYTES = 20_000_000
MAX_GOLDEN_BYTES = 2_000_000
MAX_CHUNK_BYTES = 48 * 1024

Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False)


class Input(_Part):
    """What the model takes: a classifier exactly this size; a detector any multiple of 32, and this is what its MACs are counted at."""

    width_px: int = Field(gt=0, le=4096)
    height_px: int = Field(gt=0, le=4096)
    colour: Literal["rgb", "bgr"]
    crop_margin: float = Field(ge=1, le=4)
    """Side of the square that is cut around a face, in units of the longer side of its box."""


class Architecture(_Part):
    """How the network is built, and what that costs for one picture."""

    name: str
    channels: tuple[int, ...]
    parameters: int
    parameters_nonzero: int
    macs: int
    """Multiply-accumulates, as thop counts them."""
    flops: int
    """2 x MACs."""


class Score(_Part):
    """What the model reached on one data set that did not choose it."""

    n: int
    accuracy: Share
    """Share that is right (of a classifier's pictures) or found (of the faces a detector should find)."""
    accuracy_low: Share
    """Lower end of the 95 % Wilson interval."""
    accuracy_high: Share
    recall_with_mask: Share | None
    recall_without_mask: Share | None


class Source(_Part):
    """Pictures that the model was trained on."""

    name: str
    pictures: int
    licence: str


class Golden(_Part):
    """A self-test: the inputs are the first bytes of SHAKE-256 of a seed, so nothing but the answers need travel."""

    seed: str
    shape: Annotated[tuple[Annotated[int, Field(gt=0, le=4096)], ...], Field(min_length=1, max_length=4)]
    outputs: dict[str, tuple[float, ...]]
    """Each output of the model, flattened; of a detector some, for all would be long."""
    tolerance: float = Field(gt=0, le=0.1)

    @field_validator("shape")
    @classmethod
    def _is_small(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(shape) > MAX_GOLDEN_BYTES:
            raise ValueError(f"more than {MAX_GOLDEN_BYTES} bytes")
        return shape

    def input_bytes(self) -> bytes:
        """The golden input: as many bytes as `shape` has elements, the same on every machine."""
        return hashlib.shake_256(self.seed.encode()).digest(math.prod(self.shape))


def check_names(*names: str) -> None:
    """Raises Rejected when a name or version is longer than a manifest takes."""
    for name in names:
        if len(name) > MAX_NAME:
            raise Rejected(Reason.BAD_SETTING, f"{name}: has {len(name)} characters, at most {MAX_NAME}; give another --name or --version")


class Manifest(_Part):
    """All that a camera must know about a model before it runs it."""

    v: Literal[1] = 1
    kind: Literal["classifier", "detector"]
    name: str = Field(max_length=MAX_NAME)
    version: str = Field(max_length=MAX_NAME)
    created: AwareDatetime
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the model file."""
    size_bytes: int = Field(gt=0, le=MAX_MODEL_BYTES)
    input: Input
    labels: tuple[str, ...]
    threshold: Share
    """A score from here on counts: as a bare face (classifier) or as a face (detector)."""
    unsure: tuple[Share, Share]
    """A classifier's p(without_mask) strictly between these is no vote."""
    temperature: float = Field(gt=0)
    """What the logits were divided by; it is already inside the model."""
    architecture: Architecture
    scores: dict[str, Score]
    sources: tuple[Source, ...]
    golden: Golden
    counter: int = Field(default=0, ge=0, le=2**53)
    """Rises with every release of a kind that is signed: an older one that is sent again is known by it."""
    expires: AwareDatetime | None = None
    """From then on no camera takes this release any more."""
    minimum_agent: str = Field(default="0", pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")
    """The oldest agent that can run this model."""
    chunk_bytes: int = Field(default=MAX_CHUNK_BYTES, gt=0, le=MAX_CHUNK_BYTES)
    """The model travels in chunks of this size; the last one may be shorter."""
    chunks: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of each chunk; empty in a release that was never signed."""

    @model_validator(mode="after")
    def _has_all_chunks(self) -> Self:
        if self.chunks and len(self.chunks) != math.ceil(self.size_bytes / self.chunk_bytes):
            raise ValueError(f"{len(self.chunks)} chunks of {self.chunk_bytes} bytes are not {self.size_bytes} bytes")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides: the model, and how a camera asks and reads it. Another name, counter or date changes nothing."""
        decides = self.model_dump_json(include={"kind", "digest", "input", "labels", "threshold", "unsure", "golden"})
        return hashlib.sha256(decides.encode()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The manifest in these bytes; raises Rejected for anything else."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise Rejected(Reason.TOO_LARGE, f"manifest: {len(data)} bytes, at most {MAX_MANIFEST_BYTES}")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise Rejected(Reason.BAD_RELEASE, f"manifest: {one_line(error)}") from None

    def check_model(self, model: bytes) -> None:
        """Raises Rejected unless these bytes are the model that the manifest describes."""
        if digest(model) != self.digest:
            raise Rejected(Reason.WRONG_DIGEST, f"model: {len(model)} bytes whose SHA-256 is not the manifest's")

    def check_agent(self, agent_version: str) -> None:
        """Raises Rejected when an agent of this version is too old for the model."""
        if _numbers(agent_version) < _numbers(self.minimum_agent):
            raise Rejected(Reason.AGENT_TOO_OLD, f"the release needs agent {self.minimum_agent}, this is {agent_version}")

    def check_date(self, now: datetime) -> None:
        """Raises Rejected when the release has expired.

        A clock that stands before the release was made is wrong (a board without a clock battery wakes in 1970) and
        cannot judge: then the counter alone keeps old releases out.
        """
        if self.expires is not None and now >= self.expires:
            raise Rejected(Reason.EXPIRED, f"the release expired at {self.expires.isoformat()}")

    def encode(self) -> bytes:
        """The manifest as a file: the same bytes for the same manifest."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _numbers(version: str) -> list[int]:
    """`0.10.2` as [0, 10, 2]; what follows the numbers, such as `rc1`, does not count."""
    found = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers
