"""What the commands print, whatever others named their files."""

import io

import pytest
from rich.console import Console

from trainer import console


@pytest.mark.parametrize("name", ["12k [v1]", "12k [/v1]", "my[red]run", "[/]"])
def test_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    console.show({}, [{"source": name, "n": 3}], as_json=False)
    console.err.print(f"left out, not a picture: {name}")
    with pytest.raises(SystemExit):
        console.fail(f"{name}: no such file")
    printed = capsys.readouterr()
    assert (printed.out.count(name), printed.err.count(name)) == (1, 2)


def test_only_the_word_error_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, markup=False, force_terminal=True, color_system="standard"))
    with pytest.raises(SystemExit) as ended:
        console.fail("no such file")
    assert ended.value.code == 1
    assert text.getvalue() == "\x1b[31merror:\x1b[0m no such file\n"
