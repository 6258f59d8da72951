"""Chunks on the wire: gathered, sent once, in smaller pieces where a broker refuses whole ones, and only of what is shipped."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rig import MOSQUITTO, Mosquitto, missing

from protocol.broker import Broker
from protocol.chunks import Parts, Piece
from protocol.link import Link
from protocol.release import MANIFEST_FILE, MAX_CHUNK_BYTES, MODEL_FILE, Manifest, digest
from protocol.rollouts import Want
from protocol.topics import ReleaseAddress
from trainer import keys
from trainer.publish import Publisher
from trainer.shelf import Shipment, read_shipment

SIZE, CHUNK = 100_000, 32 * 1024


@pytest.fixture
def shipment(tmp_path: Path, classifier_release: Path) -> Shipment:
    folder, model = tmp_path / "release", bytes(range(250)) * (SIZE // 250)
    folder.mkdir()
    manifest = Manifest.parse((classifier_release / MANIFEST_FILE).read_bytes())
    own = manifest.model_copy(update={"digest": digest(model), "size_bytes": len(model)})
    (folder / MANIFEST_FILE).write_bytes(own.encode())
    (folder / MODEL_FILE).write_bytes(model)
    keys.sign(folder, Ed25519PrivateKey.generate(), 1, None, "0", CHUNK)
    return read_shipment(folder)


@contextlib.asynccontextmanager
async def served(port: int, shipment: Shipment):
    """A publisher that runs, and pieces as a camera receives them."""
    got: list[tuple[Piece, bytes]] = []

    async def listen(client: aiomqtt.Client) -> None:
        async for raw in client.messages:
            got.append((Piece.parse(raw.topic.value.rsplit("/", 1)[1]), raw.payload))  # noqa: PERF401  # tests look at it meanwhile

    async with Link(Broker(port=port), "coordinator") as link, aiomqtt.Client("127.0.0.1", port) as client:
        await link.wait_online()
        publisher = Publisher(
            link,
            "maskfleet",
            lambda short: shipment if short == shipment.short_digest else None,
            lambda _, camera: camera in ("s/a", "s/b"),
            rate_bytes_s=1e6,
        )
        tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(listen(client))]
        await client.subscribe(f"maskfleet-release/{shipment.short_digest}/chunk/+", qos=1)
        await asyncio.sleep(0.2)
        yield client, publisher, got
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wish(client: aiomqtt.Client, shipment: Shipment, *chunks: int, camera: str = "a", release: str = "") -> None:
    want = Want(site="s", camera=camera, chunks=chunks)
    await client.publish(Want.topic.build(ReleaseAddress("maskfleet", release or shipment.short_digest)), want.encode(), qos=1)


async def until(holds, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.05)


async def test_the_union_of_the_wishes_is_sent_once(mosquitto, shipment: Shipment) -> None:
    async with served(mosquitto.port, shipment) as (client, publisher, got):
        await wish(client, shipment, 0, 1, camera="a")
        await wish(client, shipment, 1, 2, 3, camera="b")
        await wish(client, shipment, 9999, camera="b")
        await until(lambda: len(got) >= 4)
        await asyncio.sleep(1.5)
        assert Counter(piece.number for piece, _ in got) == {0: 1, 1: 1, 2: 1, 3: 1}
        assert publisher.bytes_sent == SIZE
        await wish(client, shipment, 2, camera="a")
        await until(lambda: len(got) == 5)


async def test_only_what_is_being_shipped_is_served_and_nobody_is_served_for_ever(mosquitto, shipment: Shipment, monkeypatch) -> None:
    monkeypatch.setattr("trainer.publish.PATIENCE", 1)
    async with served(mosquitto.port, shipment) as (client, publisher, got):
        await wish(client, shipment, 0, release="0" * 32)
        await wish(client, shipment, 0, 1, 2, 3)
        await until(lambda: len(got) == 4)
        await wish(client, shipment, 0, 1, 2, 3)
        await asyncio.sleep(2)
        assert publisher.bytes_sent == SIZE


async def test_who_asks_again_for_what_is_still_to_be_sent_loses_no_patience(mosquitto, shipment: Shipment, monkeypatch, caplog) -> None:
    """As every camera does while chunks are sent slowly."""
    monkeypatch.setattr("trainer.publish.PATIENCE", 1)
    async with served(mosquitto.port, shipment) as (client, publisher, got):
        for _ in range(5):
            await wish(client, shipment, 0, 1, 2, 3)
        await until(lambda: len(got) == 4)
        assert publisher._wished == {(shipment.short_digest, "s/a"): 4}
        assert "not served any more" not in caplog.text
        await wish(client, shipment, 0)
        await until(lambda: "not served any more" in caplog.text)


async def test_a_model_that_was_signed_again_in_fewer_chunks_goes_on_being_served(mosquitto, shipment: Shipment) -> None:
    """It happens between a wish and its answer; who wished asks again."""
    async with served(mosquitto.port, shipment) as (client, publisher, got):
        await wish(client, shipment, 0, 3)
        await until(lambda: publisher._wishes[shipment.short_digest])
        fewer = shipment.manifest.model_copy(update={"chunk_bytes": MAX_CHUNK_BYTES, "chunks": shipment.manifest.chunks[:3]})
        publisher._find = lambda _: replace(shipment, manifest=fewer)
        await until(lambda: got, 10)
        await wish(client, shipment, 1)
        await until(lambda: len(got) == 2, 10)
        assert [(piece.number, len(data)) for piece, data in got] == [(0, MAX_CHUNK_BYTES), (1, MAX_CHUNK_BYTES)]


async def test_names_that_are_in_no_rollout_are_neither_served_nor_counted(mosquitto, shipment: Shipment) -> None:
    async with served(mosquitto.port, shipment) as (client, publisher, got):
        for number in range(50):
            await wish(client, shipment, 0, 1, camera=f"invented-{number}")
        await wish(client, shipment, 2, camera="a")
        await until(lambda: got)
        await asyncio.sleep(1.5)
        assert [piece.number for piece, _ in got] == [2]
        assert list(publisher._wished) == [(shipment.short_digest, "s/a")]


@pytest.mark.parametrize("limit", ["message_size_limit 20000", "max_packet_size 20000"])
async def test_a_broker_that_refuses_whole_chunks_gets_halves(tmp_path: Path, shipment: Shipment, limit: str, monkeypatch, caplog) -> None:
    """mosquitto drops what is over the first limit in silence, and ends the connection over the second."""
    monkeypatch.setattr("trainer.publish.ECHO_S", 2)
    if MOSQUITTO is None:
        missing("mosquitto")
    folder = tmp_path / "broker"
    folder.mkdir()
    mosquitto = Mosquitto(folder, ("allow_anonymous true", limit))
    mosquitto.start()
    try:
        async with served(mosquitto.port, shipment) as (client, _, got):
            await wish(client, shipment, 0, 1, 2, 3)
            parts, whole = Parts(shipment.manifest), {}

            def is_whole() -> bool:
                while got:
                    piece, data = got.pop(0)
                    assert len(data) <= CHUNK / 2
                    if (chunk := parts.add(piece, data)) is not None:
                        whole[piece.number] = chunk
                return len(whole) == len(shipment.manifest.chunks)

            await until(is_whole)
            assert b"".join(whole[number] for number in sorted(whole)) == shipment.model
        assert "did not pass a chunk on ()" not in caplog.text
        assert "did not pass a chunk on (" in caplog.text
    finally:
        mosquitto.stop()
