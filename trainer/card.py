"""The model card: what a release is, what it was trained on, and what it was measured to do."""

from protocol.release import Manifest
from trainer.evaluate import SURE_P

LICENCES = {
    "andrewmvd-853": "Kaggle andrewmvd/face-mask-detection, CC0 1.0 as stated there; photographs collected from the web",
    "face-mask-12k": "Kaggle ashishjangra27/face-mask-12k-images-dataset, reported as CC0; bare faces cut from CelebA (non-commercial research)",
    "imagenet-1k": "seen by the teacher's first weights only (Apache-2.0, TensorFlow's EfficientNet-Lite0); pictures for non-commercial research",
    "chandrikadeb7": "github.com/chandrikadeb7/Face-Mask-Detection, MIT repository; mixed web pictures and RMFD (research use)",
}


def licence(source: str) -> str:
    """What is known of the licence of a data set."""
    return LICENCES.get(source, "not stated")


def card(manifest: Manifest, held_out: str, surely_bare: dict[str, tuple[float | None, float | None]]) -> str:
    """The card as Markdown.

    `held_out` is the source that the run was not shown, if there is one; `surely_bare` the shares of the masked and of the bare
    faces of each data set that are bare surely enough for an alert.
    """
    a = manifest.architecture
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"A mask {manifest.kind}: an RGB face crop of {manifest.input.width_px}x{manifest.input.height_px} bytes in,",
        f"p({'), p('.join(manifest.labels)}) out. Normalisation, temperature ({manifest.temperature}) and softmax are inside the graph.",
        "",
        "| | |",
        "|---|---|",
        f"| architecture | {a.name}, channels {'-'.join(map(str, a.channels))} |",
        f"| parameters | {a.parameters:,} ({a.parameters_nonzero:,} not zero) |",
        f"| MACs / FLOPs | {a.macs:,} / {a.flops:,} |",
        f"| size | {manifest.size_bytes:,} bytes |",
        f"| SHA-256 | `{manifest.digest}` |",
        f"| made | {manifest.created:%Y-%m-%d} |",
        f"| decision | without_mask from p = {manifest.threshold} on; unsure between {manifest.unsure[0]} and {manifest.unsure[1]} |",
        "",
        "## Measured",
        "",
        "Pictures that were neither trained on nor used to choose, with the 95 % Wilson interval. An agent opens an incident",
        f"only where the bare votes have a mean p(without_mask) of {SURE_P} at least: the last columns are the faces with so much.",
        "",
        f"| data set | pictures | accuracy | masked recall | bare recall | bare from {SURE_P} on | masked from {SURE_P} on |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, s in manifest.scores.items():
        accuracy = f"{s.accuracy:.1%} ({s.accuracy_low:.1%} to {s.accuracy_high:.1%})"
        masked, bare = surely_bare.get(name, (None, None))
        shares = (s.recall_with_mask, s.recall_without_mask, bare, masked)
        lines.append(f"| {name} | {s.n} | {accuracy} | {' | '.join(map(_share, shares))} |")
    lines += ["", "## Trained on", "", "| data set | pictures | licence, as far as known |", "|---|---:|---|"]
    lines += [f"| {s.name} | {s.pictures} | {s.licence} |" for s in manifest.sources]
    lines += [
        "",
        "No picture is contained in the release. Who needs a model free of non-commercial terms should train without those data sets.",
        "",
        "## Limits",
        "",
        f"{_tested_on(manifest, held_out)} A hand, scarf or",
        "beard before the mouth can be read as a mask. Masks worn below the nose were hardly seen in training. Few sources, hence few kinds",
        "of faces, light and masks: measure on your own door before you rely on it.",
        "",
    ]
    return "\n".join(lines)


def _tested_on(manifest: Manifest, held_out: str) -> str:
    if not held_out:
        return "The test pictures come from the same data sets as the training pictures; expect less on pictures from elsewhere."
    if held_out in {source.name for source in manifest.sources}:  # a teacher or a start may have been shown what the run was not
        return f"The scores are of all pictures of {held_out}, of which what it was made from learned; expect less on pictures from elsewhere."
    return f"The scores are of all pictures of {held_out}, of which nothing was learned."


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
