"""A run's folder: what was asked for, how it went, and the weights; no pickle anywhere."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from protocol.errors import Reason, Rejected
from trainer.backbone import blank
from trainer.folder import write_whole
from trainer.models import Architecture, MaskNet, Network
from trainer.results import RESULTS_FILE
from trainer.train import Epoch, Recipe

CONFIG_FILE, METRICS_FILE, WEIGHTS_FILE = "config.json", "metrics.csv", "weights.safetensors"


@dataclass(frozen=True)
class Lineage:
    """Where a network's weights and its objective come from; runs by their names, empty where there is none."""

    teacher: str = ""
    """Who it was distilled from."""
    start: str = ""
    """Whose weights it was pruned from."""
    ratio: float = 0.0
    """Share of the channels that was pruned."""
    steps: int = 1
    """In how many steps they were pruned, each followed by training."""
    features: bool = False
    """Whether the teacher's features were taught beside its answers."""
    views: int = 0
    """How many views of each picture the teacher labelled in advance; 0: it looks at each batch as the student does."""
    no_faces: bool = False
    """Whether pictures without a face were learned from as well."""
    held_out: str = ""
    """The source whose pictures were kept for the test."""

    @property
    def ending(self) -> str:
        """What the names of a fold's runs say of its source; whatever a source is called, they are names of folders."""
        return f"-without-{quote(self.held_out, safe='')}" if self.held_out else ""


@dataclass(frozen=True)
class Config:
    """All that made a run, so that it can be made again."""

    name: str
    architecture_name: str
    architecture: Architecture
    recipe: Recipe
    data: str
    pictures: dict[str, int]
    """By source, the most that it, its teacher or its start learned from, and what they learned from in turn."""
    created: str
    threads: int
    lineage: Lineage = Lineage()

    @classmethod
    def new(
        cls,
        name: str,
        architecture_name: str,
        architecture: Architecture,
        recipe: Recipe,
        data: Path,
        sources: tuple[str, ...],
        lineage: Lineage = Lineage(),
    ) -> "Config":
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
            lineage=lineage,
        )


def record(folder: Path, config: Config, network: Network, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
    """Passes the epochs on while writing them down; at the end the weights are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG_FILE, json.dumps(asdict(config), indent=1).encode())
    with (folder / METRICS_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Epoch.__dataclass_fields__)
        for epoch in epochs:
            writer.writerow(asdict(epoch).values())
            file.flush()
            yield epoch
    save_weights(network, folder / WEIGHTS_FILE)


def load(folder: Path) -> tuple[Config, Network]:
    """The finished run in a folder, its network ready to predict; raises Rejected when there is none."""
    if not (folder / RESULTS_FILE).is_file():
        raise Rejected(Reason.BAD_INPUT, f"{folder}: not a finished run (no {RESULTS_FILE})")
    if missing := [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: not a finished run (no {missing[0]})")
    try:
        config = load_config(folder)
        network = blank(config.architecture)
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: not a run of this version ({str(error).splitlines()[0]})") from None
    network.eval()
    return config, network


def name_in(folder: Path, given: str) -> str:
    """The name of a run in a folder of runs, given by that or, as other commands take it, by the path of its own folder.

    Raises Rejected for the path of a folder elsewhere.
    """
    path = Path(given)
    if path.parent.resolve() == folder.resolve():
        return path.name
    if path.name != given and path.is_dir() and not (folder / given).is_dir():
        raise Rejected(Reason.BAD_INPUT, f"{given}: not a run in {folder}; give --runs {path.parent} for those that are there")
    return given


def check_settings(folder: Path, wanted: Config) -> None:
    """Raises Rejected when the finished run in a folder was made with other settings."""
    held, asked = _settings(load(folder)[0]), _settings(wanted)
    for name, value in asked.items():
        if held[name] != value:
            raise Rejected(
                Reason.BAD_SETTING,
                f"{folder}: was made with other settings ({name} {held[name]}, asked for {value});"
                " ask for the same, give another name or --runs, or remove it",
            )


def _settings(config: Config) -> dict[str, Any]:
    """What a run is made with, by names that an option, a folder or a table has."""
    own = {"data": config.data, "pictures": config.pictures, "architecture": config.architecture_name}
    return {**asdict(config.recipe), **asdict(config.lineage), **own, **asdict(config.architecture)}


def load_student(folder: Path) -> tuple[Config, MaskNet]:
    """As `load`, for what can be pruned, exported and run on a camera; raises Rejected for a teacher that cannot."""
    config, network = load(folder)
    if not isinstance(network, MaskNet):
        raise Rejected(Reason.BAD_INPUT, f"{folder}: {config.architecture_name} only teaches; distil a student from it")
    return config, network


def load_config(folder: Path) -> Config:
    """How a run was made; raises OSError, ValueError, TypeError, KeyError or AttributeError when that cannot be read."""
    raw = json.loads((folder / CONFIG_FILE).read_bytes())
    tuples = {name: tuple(value) for name, value in raw["architecture"].items() if isinstance(value, list)}
    raw["architecture"] = Architecture(**{**raw["architecture"], **tuples})
    raw["recipe"] = Recipe(**raw["recipe"])
    raw["lineage"] = Lineage(**raw.get("lineage", {}))
    return Config(**raw)


def save_weights(network: Network, path: Path) -> None:
    """Writes the weights; a crash leaves the old file or the new one, never half of one."""
    write_whole(path, save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}))
