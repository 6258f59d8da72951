"""Certificates that are renewed on disk under a link that runs: against a real mosquitto with TLS."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import Authority
from greetings import broker, eventually
from rig import MOSQUITTO, Mosquitto, missing

from protocol.broker import Broker
from protocol.errors import Rejected
from protocol.link import Link


class Guarded:
    """A broker and a camera that know each other by certificates in one folder."""

    def __init__(self, folder: Path) -> None:
        if MOSQUITTO is None:
            missing("mosquitto")
        self.folder = folder
        self.renew()
        files = (f"cafile {folder}/ca.crt", f"certfile {folder}/broker.crt", f"keyfile {folder}/broker.key")
        self.mosquitto = Mosquitto(folder, (*files, "require_certificate true", "allow_anonymous true"))

    def renew(self, until: timedelta = timedelta(hours=1)) -> None:
        """All of them, of another authority; the camera's good until then, from now on."""
        authority = Authority(self.folder)
        authority.vouch("broker")
        authority.vouch("door", until)

    def broker(self) -> Broker:
        files = {"ca_file": self.folder / "ca.crt", "cert_file": self.folder / "door.crt", "key_file": self.folder / "door.key"}
        return broker(self.mosquitto, is_tls=True, **files)

    async def restart(self, link: Link, change: Callable[[], None]) -> None:
        """The broker is away while files change; returns when the link is there again."""
        self.mosquitto.stop()
        await eventually(lambda: not link.is_online)
        change()
        self.mosquitto.start()
        await eventually(lambda: link.is_online)


async def test_renewed_certificates_are_used_from_the_next_connection_on(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    guarded.mosquitto.start()
    try:
        async with Link(guarded.broker(), "camera") as link:
            await link.wait_online()
            await guarded.restart(link, guarded.renew)
    finally:
        guarded.mosquitto.stop()


async def test_a_certificate_that_is_half_written_leaves_the_last_one_in_use(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    monkeypatch.setattr("protocol.link.backoff_s", lambda attempt, _: attempts.append(attempt) or 0.01)
    guarded = Guarded(tmp_path)
    guarded.mosquitto.start()
    try:
        async with Link(guarded.broker(), "camera") as link:
            await link.wait_online()
            guarded.mosquitto.stop()
            whole = (tmp_path / "door.crt").read_bytes()
            (tmp_path / "door.crt").write_bytes(whole[:100])
            await eventually(lambda: len(attempts) > 3)
            guarded.mosquitto.start()
            await eventually(lambda: link.is_online)
    finally:
        guarded.mosquitto.stop()
    (warned,) = [record.message for record in caplog.records if "cert_file" in record.message]
    assert "door.crt" in warned
    assert "what was read before is used" in warned


@pytest.mark.parametrize(("late", "says"), [(True, "certificate expired"), (False, "certificate required")])
async def test_why_the_broker_ended_tls_is_told_by_the_link_alone(tmp_path: Path, late: bool, says: str, caplog, monkeypatch) -> None:
    """TLS 1.3 lets a client in before the broker has looked at its certificate."""
    attempts: list[int] = []
    monkeypatch.setattr("protocol.link.backoff_s", lambda attempt, _: attempts.append(attempt) or 0.01)
    guarded = Guarded(tmp_path)
    if late:
        guarded.renew(timedelta(minutes=-1))
    guarded.mosquitto.start()
    own = guarded.broker() if late else broker(guarded.mosquitto, is_tls=True, ca_file=tmp_path / "ca.crt")
    try:
        async with Link(own, "camera") as link:
            await eventually(lambda: len(attempts) > 3 and link.problem == f"the broker ended TLS: {says}")
    finally:
        guarded.mosquitto.stop()
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} == {"protocol.link"}


async def test_a_certificate_that_cannot_be_used_at_the_start_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"half")
    with pytest.raises(Rejected, match=r"broker\.ca_file"):
        Link(Broker(is_tls=True, ca_file=tmp_path / "ca.crt"), "camera")
