"""Where a broker is and who one is there: URLs, secrets that are not shown, certificates."""

import re
from pathlib import Path

import pytest

from protocol.broker import Broker
from protocol.errors import Rejected


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://localhost", "mqtt://", "mqtt://host:port", "mqtt://host:99999", "mqtt://host/path", "mqtt://[::1"]
)
def test_a_wrong_broker_url_is_rejected(url: str) -> None:
    with pytest.raises(Rejected, match="broker URL"):
        Broker.parse(url)


@pytest.mark.parametrize("character", "#/?[]\\ @:%")
@pytest.mark.parametrize("part", ["{0}:1@host", "door:{0}@host", "door:12{1}secret@host", "door:{0}@host:99999", "{0}:[{0}@host"])
def test_no_part_of_a_user_or_password_is_shown(part: str, character: str) -> None:
    url = "mqtt://" + part.format(f"se{character}cret", character)
    try:
        parsed = Broker.parse(url)
    except Rejected as error:
        assert not {"se", "cret", "door", "12"} & set(re.findall(r"\w+", str(error)))
        assert "%23 for #" in str(error)
    else:
        assert parsed.host == "host", "a host is shown"


def test_what_is_given_beside_a_broker_url_counts_more() -> None:
    parsed = Broker.parse("mqtt://:secret@broker.example:1884", username="door", password=None, keepalive_s=30)
    assert (parsed.username, parsed.password, parsed.port, parsed.keepalive_s) == ("door", "secret", 1884, 30)
    assert Broker.parse("mqtt://door@broker.example", username="", password="other").password == "other"


def test_half_of_a_pair_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"broker\.key_file: needs broker\.cert_file"):
        Broker.parse("mqtts://host", key_file=tmp_path / "one.pem")
    for url, password in (("mqtt://host", "secret"), ("mqtt://:secret@host", None)):
        with pytest.raises(Rejected, match=r"broker\.password: needs broker\.username"):
            Broker.parse(url, password=password)
    assert Broker.parse("mqtts://host", cert_file=tmp_path / "both.pem").cert_file


def test_a_broker_url_may_hold_everything() -> None:
    parsed = Broker.parse("mqtts://door:p%40ss@broker.example")
    assert (parsed.host, parsed.port, parsed.username, parsed.password, parsed.is_tls) == ("broker.example", 8883, "door", "p@ss", True)
    assert "p@ss" not in repr(parsed)


@pytest.mark.parametrize("file", ["ca_file", "cert_file", "key_file"])
def test_certificates_without_tls_are_rejected(file: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="need mqtts"):
        Broker(password="p@ss", **{file: tmp_path / "one.pem"})


@pytest.mark.parametrize("file", ["ca_file", "cert_file"])
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_certificate_that_is_missing_or_none_is_named(file: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "one.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Rejected, match=rf"broker\.{file}.*one\.pem.*cannot be used"):
        Broker(is_tls=True, **{file: path}).tls_context()


@pytest.mark.parametrize(
    ("url", "is_in_clear"),
    [
        ("mqtt://door:secret@broker.example", True),
        ("mqtt://door:secret@10.0.0.1", True),
        ("mqtts://door:secret@broker.example", False),
        ("mqtt://door:secret@localhost", False),
        ("mqtt://door:secret@[::1]", False),
        ("mqtt://broker.example", False),
    ],
)
def test_a_password_that_all_can_read_is_known(url: str, is_in_clear: bool) -> None:
    assert Broker.parse(url).is_in_clear == is_in_clear
