"""Latency of the six reference models and of the shipped release, in every runtime, in one run: one JSON document.

The references carry random weights: what a network computes does not change how long it takes.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from trainer import latency
from trainer.models import REFERENCES, MaskNet

SHIPPED = Path(__file__).resolve().parent.parent / "edge_agent" / "models" / "classifier" / "model.onnx"


def main() -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    networks = {name: MaskNet(architecture) for name, architecture in REFERENCES.items()}
    found = latency.compare(networks, {"shipped": SHIPPED})
    alone = latency.compare({"teacher": networks["teacher"]}, {"shipped": SHIPPED}, takes_turns=False)
    print(json.dumps({**found, "times_faster": {"taking_turns": ratios(found), "one_after_the_other": ratios(alone)}}))


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """How many times faster the shipped release answers in ONNX Runtime than the teacher does in each runtime, by medians."""
    teacher, shipped = found["models"]["teacher"], found["models"]["shipped"]["onnxruntime"]["p50_ms"]
    return {f"shipped_than_teacher_in_{runtime}": round(teacher[runtime]["p50_ms"] / shipped, 2) for runtime in ("torch", "onnxruntime", "opencv")}


if __name__ == "__main__":
    main()
