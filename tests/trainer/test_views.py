"""Views of pictures that are made once, and what a teacher says of them."""

import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_faces import write_sources, write_splits

from protocol.errors import DeviceError, Rejected
from trainer import job, splits, views
from trainer.crops import write_pictures
from trainer.data import NO_FACE, read_no_faces
from trainer.distil import Teaching, told
from trainer.models import ARCHITECTURES, MaskNet, prepare
from trainer.runs import Lineage, load_config
from trainer.train import Recipe

COUNT = 3


@pytest.fixture
def pictures(tmp_path: Path):
    return splits.read(write_splits(tmp_path / "data", n=8)).train


@pytest.fixture
def teacher() -> MaskNet:
    torch.manual_seed(0)
    return MaskNet(ARCHITECTURES["door-small"]).eval()


def only_file(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_views_are_made_once(pictures, tmp_path: Path) -> None:
    made = views.make(pictures, COUNT, tmp_path / "views.npy")
    assert made.shape == (COUNT, len(pictures), 128, 128, 3)
    assert not np.array_equal(made[0], made[1])
    written = (tmp_path / "views.npy").stat().st_mtime_ns
    assert np.array_equal(views.make(pictures, COUNT, tmp_path / "views.npy"), made)
    assert (tmp_path / "views.npy").stat().st_mtime_ns == written


def test_a_view_half_written_is_made_again(pictures, tmp_path: Path) -> None:
    (tmp_path / "views.part").write_bytes(b"half")
    assert len(views.make(pictures, 1, tmp_path / "views.npy")) == 1


def test_two_that_need_the_same_views_make_them_once(pictures, teacher: MaskNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two openings of a lock file keep each other out, be they of two processes or of two threads."""
    made, asked = [], []
    monkeypatch.setattr(views, "augment", lambda image, rng, real=views.augment: made.append(1) or real(image, rng))
    monkeypatch.setattr(views, "prepare", lambda images, px: asked.append(1) or prepare(images, px))

    def need(_: int) -> tuple[np.ndarray, np.ndarray]:
        images = views.make(pictures, COUNT, tmp_path / "views.npy")
        return images, views.ask(teacher, images, np.arange(len(pictures)), tmp_path / "logits.npy")

    with ThreadPoolExecutor(2) as both:
        one, other = both.map(need, range(2))
    assert len(made) == COUNT * len(pictures)
    assert len(asked) == COUNT
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])


def test_a_disk_without_room_for_the_views_is_one_line_before_any_is_made(pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file size that a process may write stands in for the disk's."""
    monkeypatch.setattr(views, "augment", None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DeviceError, match=r"views\.npy: cannot be written, and takes 0\.0 GB") as caught:
            views.make(pictures, COUNT, tmp_path / "views.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.glob("views.*")] == ["views.lock"]


def test_the_file_of_views_is_that_of_the_pictures_their_classes_and_what_is_done_to_them(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    name = views.file_of_views(pictures, COUNT)
    assert name == views.file_of_views(pictures.select(np.arange(len(pictures))), COUNT)
    others = [
        views.file_of_views(pictures, COUNT + 1),
        views.file_of_views(pictures.select(np.arange(len(pictures))[::-1]), COUNT),
        views.file_of_views(replace(pictures, images_NHWC=pictures.images_NHWC ^ 1), COUNT),
        views.file_of_views(replace(pictures, classes_N=1 - pictures.classes_N), COUNT),
    ]
    monkeypatch.setitem(views.DYED, "with_mask", 0.0)
    assert len({name, *others, views.file_of_views(pictures, COUNT)}) == 6


def test_the_file_of_logits_is_that_of_the_views_the_teacher_and_who_was_asked_for(teacher: MaskNet) -> None:
    rows = np.arange(4)
    name = views.file_of_logits("views.npy", teacher, rows)
    assert name == views.file_of_logits("views.npy", teacher, rows.copy())
    others = [views.file_of_logits("other.npy", teacher, rows), views.file_of_logits("views.npy", teacher, rows[1:])]
    with torch.no_grad():
        next(teacher.parameters()).add_(0.1)
    assert len({name, *others, views.file_of_logits("views.npy", teacher, rows)}) == 4


def test_the_teacher_says_what_it_says_of_those_that_are_asked_for(pictures, teacher: MaskNet, tmp_path: Path) -> None:
    made = views.make(pictures, COUNT, tmp_path / "views.npy")
    rows = np.arange(0, len(pictures), 2)
    logits = views.ask(teacher, made, rows, tmp_path / "logits.npy")
    with torch.no_grad():
        expected = teacher(prepare(torch.from_numpy(made[1][rows]), 128)).numpy()
    assert np.allclose(logits[1, rows], expected, atol=0.05), "16-bit arithmetic"
    assert not logits[:, 1::2].any()


def test_a_pass_shows_each_picture_once(pictures) -> None:
    images = np.broadcast_to(np.arange(len(pictures), dtype=np.uint8)[None, :, None, None, None], (COUNT, len(pictures), 4, 4, 3))
    shown = views.Views(images, np.arange(len(pictures)), pictures.classes_N, np.zeros((COUNT, len(pictures), 2), np.float32))
    seen = [int(row) for batch, _, _ in shown.batches(4, np.random.default_rng(0)) for row in batch[:, 0, 0, 0]]
    assert sorted(seen) == list(range(len(pictures)))


def test_a_student_that_agrees_with_teacher_and_classes_costs_nothing() -> None:
    class Certain(MaskNet):
        def embed(self, images_NCHW):
            return images_NCHW[:, :2, 0, 0] * 5.7565  # as sure as LEAST lets the teacher be

        def judge(self, features_NC):
            return features_NC

    images = torch.zeros(2, 128, 128, 3, dtype=torch.uint8)
    images[0, ..., 0], images[1, ..., 1] = 255, 255
    network, sure = Certain(ARCHITECTURES["door-small"]), torch.eye(2)
    objective = told(Teaching(label_smoothing=0.0), torch.zeros(2))
    right = float(objective(network, images, sure, torch.tensor([0, 1])))
    assert right < 0.5 < float(objective(network, images, sure.flip(0), torch.tensor([0, 1])))
    assert right < 3 < float(objective(network, images, sure, torch.tensor([1, 0])))


def test_what_is_no_face_stays_half_and_half_however_uneven_the_faces_are() -> None:
    network, counts = MaskNet(ARCHITECTURES["door-small"]).eval(), torch.tensor([1.6, 0.4]).log()
    torch.nn.init.zeros_(network.classifier.weight)
    torch.nn.init.zeros_(network.classifier.bias)
    objective, images = told(Teaching(soft_share=0.0, label_smoothing=0.0), counts), torch.zeros(10, 128, 128, 3, dtype=torch.uint8)
    half, sure = torch.full((10, 2), 0.5), torch.tensor([[0.9, 0.1]]).expand(10, 2)
    for said, classes in ((half, [0, 1] * 5), (sure, [0, 0, 0, 0, 1] * 2)):
        network.zero_grad()
        objective(network, images, said, torch.tensor(classes)).backward()
        assert network.classifier.bias.grad.abs().max() < 1e-6


def test_a_job_learns_from_labelled_views_without_what_is_held_out(tmp_path: Path) -> None:
    data = write_sources(tmp_path / "data", n=8)
    parts, source = splits.read(data), "web"
    recipe = Recipe(epochs=1, batch=8)
    list(job.run(job.Job("teacher", "door-small", recipe, Lineage(held_out=source)), parts, data, tmp_path))
    list(job.run(job.Job("student", "door-small", recipe, Lineage(teacher="teacher", views=2, held_out=source)), parts, data, tmp_path))
    logits = np.load(only_file(tmp_path / "teacher", "logits-*.npy"))
    held = np.array([own == source for own in parts.train.sources])
    assert not logits[:, held].any()
    assert logits[:, ~held].any(2).all()
    assert job.is_complete(tmp_path / "student")


def test_a_picture_that_changes_its_class_is_learned_as_what_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_splits(tmp_path / "data", n=8)
    recipe, given = Recipe(epochs=1, batch=8), []
    monkeypatch.setattr(job, "fit", lambda *arguments, real=job.fit: given.append(arguments[-1]) or real(*arguments))

    def learn() -> views.Views:
        for one in (job.Job("teacher", "door-small", recipe), job.Job("student", "door-small", recipe, Lineage(teacher="teacher", views=2))):
            (tmp_path / one.name / "results.json").unlink(missing_ok=True)  # else it would be left as it is
            list(job.run(one, splits.read(data), data, tmp_path))
        return given[-1]

    before = learn()
    (data / "train" / "with_mask" / "003.png").rename(data / "train" / "without_mask" / "moved.png")
    (data / "train" / "without_mask" / "003.png").rename(data / "train" / "with_mask" / "moved.png")
    after = learn()
    assert before.images_VNHWC.shape == after.images_VNHWC.shape
    assert not np.array_equal(before.images_VNHWC, after.images_VNHWC)
    assert not np.array_equal(before.logits_VN2, after.logits_VN2)


def test_most_masks_are_dyed_and_few_bare_faces(pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "augment", lambda image, rng: image)
    made = views.make(pictures, 24, tmp_path / "views.npy")
    changed_VN = (made != pictures.images_NHWC[None]).any((2, 3, 4))
    masked, bare = (changed_VN[:, pictures.classes_N == label].mean() for label in (0, 1))
    assert 0.4 < masked < 0.85
    assert 0 < bare < 0.3


def test_what_is_no_face_is_taught_to_be_half_and_half(pictures) -> None:
    classes = np.full(len(pictures), NO_FACE)
    images = np.zeros((COUNT, len(pictures), 4, 4, 3), np.uint8)
    shown = views.Views(images, np.arange(len(pictures)), classes, np.zeros((COUNT, len(pictures), 2), np.float32))
    rng, told_N2, labels = np.random.default_rng(0), [], []
    for _ in range(40):
        for _, told_n2, classes_n in shown.batches(4, rng):
            told_N2 += told_n2.tolist()
            labels += classes_n.tolist()
    assert np.allclose(told_N2, 0.5)
    assert set(labels) == {0, 1}
    assert 0.4 < np.mean(labels) < 0.6


def test_a_job_learns_from_pictures_without_a_face_but_not_of_what_is_held_out(tmp_path: Path) -> None:
    data = write_sources(tmp_path / "data", n=8)
    noise = list(np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3)).astype(np.uint8))
    write_pictures(noise[:3], "web", tmp_path / "none" / "web")
    parts = replace(splits.read(data), no_faces=read_no_faces(tmp_path / "none" / "web"))
    assert parts.counts == {"door": 8, "web": 11}
    recipe = Recipe(epochs=2, batch=8, keeps_last=True)
    list(job.run(job.Job("teacher", "door-small", recipe), parts, data, tmp_path))
    lineage = Lineage(teacher="teacher", views=2, no_faces=True)
    list(job.run(job.Job("student", "door-small", recipe, lineage), parts, data, tmp_path))
    logits = np.load(only_file(tmp_path / "teacher", "logits-*.npy"))
    assert not logits[:, 16:].any(), "the teacher is not asked about them"
    assert load_config(tmp_path / "student").pictures == {"door": 8, "web": 11}
    list(job.run(job.Job("fold", "door-small", recipe, replace(lineage, held_out="web")), parts, data, tmp_path))
    assert load_config(tmp_path / "fold").pictures == {"door": 8, "web": 8}, "its teacher had no source held out"
    with pytest.raises(Rejected, match="none are given"):
        list(job.run(job.Job("student", "door-small", recipe, lineage), splits.read(data), data, tmp_path))
