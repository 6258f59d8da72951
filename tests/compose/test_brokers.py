"""The same rollout on every broker that the documentation names."""

from collections.abc import Iterator

import pytest
from brokers import CAMERAS, Child, Nats, RabbitMq, simulate
from rig import MOSQUITTO, Mosquitto, missing

BROKERS = ("embedded", "mosquitto", "nats", "rabbitmq")


@pytest.fixture(scope="module", params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    folder = tmp_path_factory.mktemp(request.param)
    kinds: dict[str, type[Child]] = {"nats": Nats, "rabbitmq": RabbitMq}
    if request.param == "embedded":
        yield None
        return
    if (MOSQUITTO if request.param == "mosquitto" else kinds[request.param].program) is None:
        missing(request.param)
    broker = Mosquitto(folder) if request.param == "mosquitto" else kinds[request.param](folder)
    broker.start()
    yield broker.url
    broker.stop()


def test_a_release_goes_to_all_in_waves(url: str | None) -> None:
    figures = simulate(url)
    assert figures["phase"] == "done", figures
    assert figures["committed"] == figures["on_new_model"] == CAMERAS
    assert figures["bytes_ratio"] <= 1.2


def test_a_bad_model_stays_on_one_camera_and_leaves_it(url: str | None) -> None:
    figures = simulate(url, "--model", "slow")
    assert figures["phase"] == "paused"
    assert figures["rolled_back"] == 1
    assert 0 < figures["back_s"] < 5
    assert figures["on_new_model"] == 0
    assert figures["committed"] == 0
