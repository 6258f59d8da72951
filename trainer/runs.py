"""A run's folder: what was asked for, how it went, and the weights; no pickle anywhere."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from protocol.errors import Reason, Rejected
from trainer.models import Architecture, MaskNet
from trainer.train import Epoch, Recipe

CONFIG_FILE, METRICS_FILE, WEIGHTS_FILE = "config.json", "metrics.csv", "weights.safetensors"


@dataclass(frozen=True)
class Config:
    """All that made a run, so that it can be made again."""

    name: str
    architecture_name: str
    architecture: Architecture
    recipe: Recipe
    data: str
    pictures: dict[str, int]
    """Training pictures by source."""
    created: str
    threads: int

    @classmethod
    def new(cls, name: str, architecture_name: str, architecture: Architecture, recipe: Recipe, data: Path, sources: tuple[str, ...]) -> "Config":
        """The configuration of a run that starts now."""
        return cls(
            name=name,
            architecture_name=architecture_name,
            architecture=architecture,
            recipe=recipe,
            data=data.name,
            pictures={source: sources.count(source) for source in sorted(set(sources))},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            threads=torch.get_num_threads(),
        )


def record(folder: Path, config: Config, network: MaskNet, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
    """Passes the epochs on while writing them down; at the end the weights are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / CONFIG_FILE, json.dumps(asdict(config), indent=1).encode())
    with (folder / METRICS_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Epoch.__dataclass_fields__)
        for epoch in epochs:
            writer.writerow(asdict(epoch).values())
            file.flush()
            yield epoch
    save_weights(network, folder / WEIGHTS_FILE)


def load(folder: Path) -> tuple[Config, MaskNet]:
    """The finished run in a folder, its network ready to predict; raises Rejected when there is none."""
    try:
        raw = json.loads((folder / CONFIG_FILE).read_bytes())
        raw["architecture"] = Architecture(**{**raw["architecture"], "channels": tuple(raw["architecture"]["channels"])})
        raw["recipe"] = Recipe(**raw["recipe"])
        config = Config(**raw)
        network = MaskNet(config.architecture)
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except FileNotFoundError as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: not a finished run (no {Path(error.filename or '').name})") from None
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: not a run of this version ({str(error).splitlines()[0]})") from None
    network.eval()
    return config, network


def save_weights(network: MaskNet, path: Path) -> None:
    """Writes the weights; a crash leaves the old file or the new one, never half of one."""
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, part)
    os.replace(part, path)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)
