"""What follows the trainings of a study: detectors' crops, eight bits, latencies, the table and the report of what is finished."""

import json
from pathlib import Path
from typing import Any

from protocol.errors import Reason, Rejected
from trainer import crops, latency, quantise, report, tables
from trainer.crops import Cut
from trainer.folder import alone, write_whole
from trainer.models import MaskNet
from trainer.splits import Splits
from trainer.tables import Run

TABLE_FILE = "table.json"


def finish(folder: Path, data: Path, splits: Splits, found: dict[str, Cut], *, measure: bool) -> dict[str, Any]:
    """Measures what was not measured yet, and writes table.json, report.html and report.md, alone; the table as a document."""
    with alone(folder / ".lock"):
        finished = tables.collect(folder)
        tables.score_crops(finished, found)
        if measure:
            _quantise_each(finished, splits)
            networks = {key: same[0].network for key, same in tables.by_key(finished).items()}
            small = {key: network for key, network in networks.items() if isinstance(network, MaskNet)}  # others only teach
            write_whole(folder / tables.LATENCY_FILE, json.dumps(latency.compare(small), indent=1).encode())
        document = report.document(finished, tables.read_json(folder / tables.LATENCY_FILE))
        write_whole(folder / TABLE_FILE, json.dumps(document, indent=1).encode())
        report.write(folder, data)
        return document


def cuts(frames: Path, yunet: Path | None) -> dict[str, Cut]:
    """The faces of the frames that each detector finds, by detector; raises Rejected when one finds none."""
    detectors = {**({"yunet": crops.yunet(yunet)} if yunet else {}), "haar": crops.haar()}
    found = {name: crops.cut(frames, detect) for name, detect in detectors.items()}
    for name, cut in found.items():
        if not len(cut.pictures):
            raise Rejected(Reason.BAD_INPUT, f"{frames}: {name} finds none of the annotated faces")
    return found


def _quantise_each(finished: tuple[Run, ...], splits: Splits) -> None:
    """Tries 8 bits on the first run of each kind, where that was not tried yet."""
    for same in tables.by_key(finished).values():
        run = same[0]
        if isinstance(run.network, MaskNet) and not (run.folder / tables.INT8_FILE).exists():
            compared = quantise.make(run.config, run.network, run.results, splits, "1", run.folder / "int8")
            write_whole(run.folder / tables.INT8_FILE, json.dumps({**vars(compared), "is_kept": compared.is_kept}).encode())
