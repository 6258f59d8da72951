import importlib.util
import subprocess

from rig import ROOT


def test_the_pages_are_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run `make docs`"
    assert generate.ROLLOUT.read_text(encoding="utf-8") == generate.rollout_page(), "run `make docs`"


def test_what_ships_is_small() -> None:
    """No data and no large file is tracked: pictures of the package are the demo's two."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert all((ROOT / name).stat().st_size < 1_000_000 for name in names if (ROOT / name).exists())
    pictures = [name for name in names if name.lower().endswith((".jpg", ".jpeg", ".png", ".mp4"))]
    assert all(name.startswith(("edge_agent/assets/", "docs/")) for name in pictures)
