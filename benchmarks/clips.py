"""Frames per second of the agent, the notebook loop and AIZOO on the same frames of the same clips, one thread each, in one run.

usage: python benchmarks/clips.py [--data DIR] [--frames N] [--detector MODEL]

DIR is the face-mask data pack (videos/, models/, frames/). Decoding is not counted. The peers take turns on each frame, so that a busy
moment of the machine meets all of them. Then each looks at the annotated frames: how many of their faces it finds, and finds with the
right label (the notebook loop carries random weights: what it finds is the most that it could be right on). Prints one JSON document.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from pack import DATA, need
from peers import Image, Peer, aizoo, notebook_loop, ours

from edge_agent.settings import DetectSettings, read_settings
from trainer.crops import SMALLEST_PX
from trainer.detector_eval import LABELS, match
from trainer.frames import AnnotatedFrame, read_frames
from trainer.measure import machine

CLIPS = ("one_person_unmasked.mp4", "four_people_put_on_masks.mp4")
WARM_UP = 2


def frames_of(clip: Path, count: int) -> list[Image]:
    """`count` frames, evenly spread over the clip."""
    video = cv2.VideoCapture(str(clip))
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = {round(index) for index in np.linspace(0, total - 2, count)}
    frames = []
    for index in range(total):
        ok, image = video.read()
        if ok and index in wanted:
            frames.append(image)
    video.release()
    return frames


def measure(peers: dict[str, Peer], frames: list[Image]) -> dict[str, dict[str, float]]:
    """Mean frames per second, median and 95th percentile of milliseconds, and mean faces of each peer."""
    ms: dict[str, list[float]] = {name: [] for name in peers}
    faces = dict.fromkeys(peers, 0)
    for number, frame in enumerate([*frames[:WARM_UP], *frames]):
        for name, peer in peers.items():
            start = time.perf_counter()
            found = peer(frame)
            if number >= WARM_UP:
                ms[name].append((time.perf_counter() - start) * 1000)
                faces[name] += len(found)
    return {
        name: {
            "fps": round(1000 / float(np.mean(own)), 1),
            "p50_ms": round(float(np.percentile(own, 50)), 2),
            "p95_ms": round(float(np.percentile(own, 95)), 2),
            "faces": round(faces[name] / len(own), 2),
        }
        for name, own in ms.items()
    }


def decide(peer: Peer, frames: list[AnnotatedFrame]) -> dict[str, float | int]:
    """Of the annotated faces of at least SMALLEST_PX, masked or bare: the share that is found, and the share that is also labelled right."""
    annotated = found = right = 0
    for frame in frames:
        faces = peer(frame.image_HWC)
        ranked = np.array([[*face["box"], -number] for number, face in enumerate(faces)], np.float32).reshape(-1, 5)
        number_M, _ = match(ranked, frame.boxes_M4)
        for label, box, number in zip(frame.labels, frame.boxes_M4, number_M, strict=True):
            if label in LABELS and min(box[2:]) >= SMALLEST_PX:
                annotated += 1
                found += bool(np.isfinite(number))
                right += bool(np.isfinite(number)) and faces[int(-number)]["label"] == label
    return {"annotated": annotated, "found": round(found / annotated, 3), "right": round(right / annotated, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--detector", default=DetectSettings().model)
    arguments = parser.parse_args()
    need(*(arguments.data / part for part in ("models/aizoo", "frames/annotations.json", *(f"videos/{clip}" for clip in CLIPS))))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    settings = read_settings(detect=DetectSettings(model=arguments.detector))
    peers = {"ours": ours(settings), "notebook loop": notebook_loop(), "aizoo": aizoo(arguments.data / "models" / "aizoo")}
    clips = {}
    for clip in CLIPS:
        rows = measure(peers, frames_of(arguments.data / "videos" / clip, arguments.frames))
        ratios = {f"ours / {name}": round(rows["ours"]["fps"] / row["fps"], 1) for name, row in rows.items() if name != "ours"}
        clips[clip] = {"peers": rows, "ratios": ratios}
    frames = read_frames(arguments.data / "frames")
    print(
        json.dumps(
            {
                "clips": clips,
                "annotated_frames": {name: decide(peer, frames) for name, peer in peers.items()},
                "detector": arguments.detector,
                "frames": arguments.frames,
                "machine": {**machine(), "warm_up": WARM_UP, "repeats": arguments.frames},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
