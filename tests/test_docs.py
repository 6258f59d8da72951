import importlib.util
import re
import subprocess

import pytest
from live import listening
from rig import ROOT

from protocol.messages import Command, Message
from protocol.rollouts import RolloutCommand


def test_the_pages_are_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run `make docs`"
    assert generate.SETTINGS.read_text(encoding="utf-8") == generate.settings_page(), "run `make docs`"
    assert generate.ROLLOUT.read_text(encoding="utf-8") == generate.rollout_page(), "run `make docs`"


def modules(package: str) -> set[str]:
    return {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}


def test_every_module_has_a_room() -> None:
    rooms = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("## Flow")[0]
    named = set(re.findall(r"(\w+)\.py", rooms))
    for package in ("protocol", "edge_agent", "trainer", "compose"):
        assert {name for name in modules(package) if not name.startswith("detector")} <= named, package


@pytest.mark.parametrize(("page", "kind"), [("README.md", Command), ("docs/fleet.md", RolloutCommand)])
async def test_an_example_that_is_copied_twice_is_two_commands(page: str, kind: type[Message], mosquitto) -> None:
    examples = re.findall("^mosquitto_pub .*$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    async with listening(mosquitto) as ear:
        for example in examples * 2:
            subprocess.run(["bash", "-c", example.replace("mosquitto_pub", f"mosquitto_pub -p {mosquitto.port}")], check=True)
        await ear.until(lambda ear: len(ear.of(kind)) == len(examples) * 2)
    assert examples
    assert len({command.id for command in ear.of(kind)}) == len(examples) * 2


def test_what_ships_is_small() -> None:
    """No data and no large file is tracked: pictures of the package are the demo's two."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert all((ROOT / name).stat().st_size < 1_000_000 for name in names if (ROOT / name).exists())
    pictures = [name for name in names if name.lower().endswith((".jpg", ".jpeg", ".png", ".mp4"))]
    assert all(name.startswith(("edge_agent/assets/", "docs/")) for name in pictures)
