"""Latency of the six reference models and of the shipped release, in every runtime, in one run: one JSON document.

The references carry random weights: what a network computes does not change how long it takes.
"""

import json
import logging
from pathlib import Path

import torch

from trainer import latency
from trainer.models import REFERENCES, MaskNet

SHIPPED = Path(__file__).resolve().parent.parent / "edge_agent" / "models" / "classifier" / "model.onnx"


def main() -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    found = latency.compare({name: MaskNet(architecture) for name, architecture in REFERENCES.items()}, {"shipped": SHIPPED})
    teacher, shipped = found["models"]["teacher"], found["models"]["shipped"]["onnxruntime"]["p50_ms"]
    ratios = {f"shipped_than_teacher_in_{runtime}": round(teacher[runtime]["p50_ms"] / shipped, 2) for runtime in ("torch", "onnxruntime", "opencv")}
    print(json.dumps({**found, "times_faster": ratios}))


if __name__ == "__main__":
    main()
