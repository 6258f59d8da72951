import copy

import cv2
import numpy as np
import onnx
import pytest
import torch

from protocol.errors import DeviceError, Reason, Rejected
from trainer.detector_data import overlaps
from trainer.detector_eval import yunet_format
from trainer.detector_net import OUTPUTS, SIZES, STRIDES, DetectorNet, export, export_whole
from trainer.detector_release import PARITY, ROUNDED, answers, check_parity

SHAPES = [(320, 320), (480, 288), (640, 384), (640, 640), (416, 352)]


@pytest.fixture(scope="module", params=["small", "deep"])
def network(request):
    """Untrained, but with answers that differ from place to place and scores on both sides of 0.5."""
    torch.manual_seed(3)
    net = DetectorNet(SIZES[request.param])
    net(torch.rand(4, 3, 128, 128))  # gives BatchNorm statistics that are not 0 and 1
    for head in net.heads:
        head[1].bias.data[:2] = 0.0
        head[1].weight.data *= 3
    return net.eval()


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(export(network))
    return path


def plain_decode(network, image, threshold):
    """Rows of box, landmarks, score in numpy, without suppression: what the format means."""
    found = answers(network, torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    rows = []
    for s in STRIDES:
        cls, obj, bbox, kps = (found[f"{head}_{s}"] for head in ("cls", "obj", "bbox", "kps"))
        width = image.shape[1] // s
        for place, score in enumerate(np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))):
            if score < threshold:
                continue
            row, column = divmod(place, width)
            w, h = np.exp(bbox[place, 2:]) * s
            x, y = (column + bbox[place, 0]) * s - w / 2, (row + bbox[place, 1]) * s - h / 2
            points = (kps[place].reshape(5, 2) + np.array([column, row])) * s
            rows.append([x, y, w, h, *points.ravel(), score])
    return np.array(rows, np.float32).reshape(-1, 15)


@pytest.mark.parametrize("size", SHAPES)
def test_opencv_decodes_it_as_numpy_does_at_any_size(network, model, size):
    image = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    expected = plain_decode(network, image, 0.5)
    detector = cv2.FaceDetectorYN.create(str(model), "", size, 0.5, 1.0, 100_000)  # an IoU of 1: nothing is suppressed
    _, rows = detector.detect(image)
    assert len(expected) > 20
    assert abs(len(rows) - len(expected)) <= 2  # a score on the edge may fall on either side
    order = overlaps(rows[:, :4], expected[:, :4]).argmax(1)
    np.testing.assert_allclose(rows, expected[order], rtol=2e-3, atol=0.05)


def test_outputs_have_the_names_and_shapes_of_yunet(model):
    net = cv2.dnn.readNetFromONNX(str(model))
    net.setInput(np.zeros((1, 3, 96, 160), np.float32))
    shapes = [value.shape for value in net.forward(list(OUTPUTS))]
    places = [96 // s * 160 // s for s in STRIDES]
    assert shapes == [(1, n, channels) for channels in (1, 1, 4, 10) for n in places]


def test_two_exports_are_the_same_bytes_and_say_nothing_of_this_machine(network):
    data = export(network)
    assert data == export(network)
    found = onnx.load_model_from_string(data)
    assert not found.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in found.graph.node)
    assert b"trainer" not in data
    assert b"/" not in b"".join(node.name.encode() for node in found.graph.node)
    assert "BatchNormalization" not in {node.op_type for node in found.graph.node}


@pytest.mark.parametrize("size", ["small", "medium", "lean", "keen", "deep"])
def test_sizes_that_may_ship_fit_into_200_kilobytes(size):
    assert len(export(DetectorNet(SIZES[size]))) <= 200_000


def test_opencv_and_torch_agree(network, model):
    check_parity(network, export_whole(network), PARITY)
    check_parity(network, model.read_bytes(), ROUNDED)


@pytest.mark.parametrize("output", [0, 2, 6], ids=["class", "box", "landmark"])
@pytest.mark.parametrize(("written", "allowed", "moved"), [(export_whole, PARITY, 1e-3), (export, ROUNDED, 0.1)], ids=["whole", "rounded"])
def test_a_head_whose_answers_are_moved_is_no_parity(network, output, written, allowed, moved):
    """What moves more than rounding does is another network's file."""
    other = copy.deepcopy(network)
    for head in other.heads:
        head[1].bias.data[output] += moved
    with pytest.raises(DeviceError, match="differs from torch"):
        check_parity(network, written(other), allowed)


def test_another_networks_file_is_no_parity(network):
    torch.manual_seed(4)
    with pytest.raises(DeviceError, match="differs from torch"):
        check_parity(network, export(DetectorNet(network.widths)), ROUNDED)


def test_wrong_files_are_refused_with_one_line(model, tmp_path, classifier_release):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-2000])
    for path in (cut, classifier_release / "model.onnx"):
        with pytest.raises(Rejected) as caught:
            yunet_format(path)
        assert caught.value.reason is Reason.WRONG_KIND
        assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError, match="no such file"):
        yunet_format(tmp_path / "none.onnx")
