from pathlib import Path

import pytest
from made_releases import PUBLIC, TRUSTED

from edge_agent.settings import Settings, UpdateSettings, read_settings
from protocol.errors import Reason, Rejected


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_are_good() -> None:
    settings = read_settings()
    assert settings.uri == "demo:"
    assert settings.broker.broker().port == 1883


def test_a_file_and_the_environment_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        tmp_path / "a.toml", 'site = "lobby"\ncamera = "door-1"\n[broker]\nurl = "mqtts://broker.example"\nusername = "door"\n[decide]\nage_s = 2\n'
    )
    monkeypatch.setenv("MASKFLEET_CAMERA", "door-2")
    monkeypatch.setenv("MASKFLEET_BROKER__PASSWORD", "secret")
    settings = read_settings(file)
    assert (settings.address.site, settings.address.camera) == ("lobby", "door-2")
    broker = settings.broker.broker()
    assert (broker.host, broker.port, broker.username, broker.password, broker.is_tls) == ("broker.example", 8883, "door", "secret", True)
    assert settings.decide.rules().age_s == 2
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 1", "setting colour: no such setting"),
        ("[broker]\nhots = 'x'", "setting broker.hots: no such setting"),
        ("camera = 'front door'", "setting camera: "),
        ("telemetry_s = 0.5", "setting telemetry_s: "),
        ("[decide]\nvotes_needed = 2\nvotes_kept = 7", "more than half"),
        ("[detect]\nsmallest_face_px = 'wide'", "setting detect.smallest_face_px: "),
        ("this is no toml", "settings .*a.toml: "),
        ("state_dir = '~nosuchuser/x'", "setting state_dir: .*nosuchuser"),
        ("[classify]\nrelease = '~nosuchuser/x'", "setting classify.release: "),
        ("[detect]\nmodel = '~nosuchuser/x'", "setting detect.model: "),
        ("[updates]\ntrusted_keys = ['~nosuchuser/x']", "setting updates.trusted_keys.0: "),
        ("[broker]\nca_file = '~nosuchuser/x'", "setting broker.ca_file: "),
        ('state_dir = "a\\u0000b"', "setting state_dir: .*NUL"),
        ('[classify]\nrelease = "a\\u0000b"', "setting classify.release: .*NUL"),
        ('[detect]\nmodel = "a\\u0000b"', "setting detect.model: .*NUL"),
        ('csi_source = "a\\u0000b"', "setting csi_source: .*NUL"),
        ('[updates]\ntrusted_keys = ["a\\u0000b"]', "setting updates.trusted_keys.0: .*NUL"),
        ("state_dir = ''", "setting state_dir: .*empty"),
        ("[classify]\nrelease = ''", "setting classify.release: .*empty"),
        ("[detect]\nmodel = ''", "setting detect.model: .*empty"),
        ("[broker]\nca_file = ''", "setting broker.ca_file: .*empty"),
        ("[updates]\ntrusted_keys = ['']", "setting updates.trusted_keys.0: .*empty"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Rejected, match=says) as caught:
        read_settings(write(tmp_path / "a.toml", text))
    assert caught.value.reason is Reason.BAD_SETTING
    assert "\n" not in str(caught.value)


def test_a_file_that_windows_notepad_wrote_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbfsite = 'lobby'\r\n")
    assert read_settings(file).site == "lobby"


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no such file"):
        read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("variable", ["MASKFLEET_CAMREA", "MASKFLEET_BROKR__URL", "MASKFLEET_BROKER__URLL", "MASKFLEET_SITE__NAME"])
def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(Rejected, match="no such setting"):
        read_settings()


def test_a_variable_reaches_a_section_within_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFLEET_UPDATES__GATE__FPS_SHARE", "0.5")
    assert read_settings().updates.gate.fps_share == 0.5


@pytest.mark.parametrize("name", ["DETECT__SCORE", "CLASSIFY__RELEASE", "STATE_DIR", "BROKER__CA_FILE", "UPDATES__TRUSTED_KEYS", "BROKER", "URI"])
def test_an_empty_variable_is_not_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.toml", f"state_dir = '{tmp_path}'\n[detect]\nscore = 0.5\n[broker]\nusername = 'door'\n")
    before = read_settings(), read_settings(file)
    monkeypatch.setenv(f"MASKFLEET_{name}", "")
    assert (read_settings(), read_settings(file)) == before


def test_the_variable_of_tests_and_benchmarks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFLEET_DATA", "/data")
    assert read_settings() == Settings()


@pytest.mark.parametrize("variable", ["MASKFLEET_UPDATES__TRUSTED_KEYS", "MASKFLEET_UPDATES__GATE", "MASKFLEET_BROKER"])
def test_a_variable_that_must_be_json_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("MASKFLEET_BROKER__USERNAME", "door")
    monkeypatch.setenv(variable, "owner.pub")
    with pytest.raises(Rejected, match=rf'^variable {variable}: expected JSON: \["...", "..."\] for a list, {{...}} for a section$'):
        read_settings()


def test_certificates_without_tls_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", '[broker]\nurl = "mqtt://broker"\nca_file = "ca.pem"\n')
    with pytest.raises(Rejected, match="need mqtts"):
        read_settings(file).broker.broker()


def test_trusted_keys_are_texts_or_files(tmp_path: Path) -> None:
    file = tmp_path / "owner.pub"
    file.write_text(f"{PUBLIC}\n")
    for key in (PUBLIC, str(file)):
        assert set(UpdateSettings(trusted_keys=(key,)).owner_keys()) == set(TRUSTED)
    assert UpdateSettings().owner_keys() == {}


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\xfe", b"A" * 44])
def test_what_is_no_trusted_key_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "owner.pub"
    file.write_bytes(content)
    for key in (str(file), str(tmp_path / "none.pub")):
        with pytest.raises(Rejected, match=r"public key|trusted_keys") as caught:
            UpdateSettings(trusted_keys=(key,)).owner_keys()
        assert "\n" not in str(caught.value)


def test_paths_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read_settings(write(tmp_path / "a.toml", "state_dir = '~/state'\n[detect]\nmodel = '~/m.onnx'"))
    assert settings.state_dir == tmp_path / "state"
    assert settings.detect.model == str(tmp_path / "m.onnx")
