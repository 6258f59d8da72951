"""What the commands print: one JSON document, or tables for a person; progress and warnings go to stderr."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trainer.train import Epoch  # torch takes seconds to import, and `--help` needs none of it

# What others named, files and cameras, is no markup: `[v1]` stays as it is.
out, err = Console(markup=False, highlight=False), Console(stderr=True, markup=False, highlight=False)
if not out.is_terminal:
    out = Console(markup=False, highlight=False, width=180)  # a table in a file or a pipe is not squeezed

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1)]


def fail(text: str) -> NoReturn:
    """Says in one line what is wrong, and ends the program."""
    err.print(Text.assemble(("error:", "red"), f" {text}"), soft_wrap=True)
    sys.exit(1)


def show(document: dict[str, Any], rows: list[dict[str, Any]], as_json: bool) -> None:
    """The document as JSON, or its rows as a table."""
    if as_json:
        print(json.dumps(document))
    elif rows:
        table = Table(box=None, padding=(0, 1, 0, 0))
        for key in rows[0]:
            cells = [_cell(row[key]) for row in rows]
            is_text = isinstance(rows[0][key], str | list)
            table.add_column(key.replace("_", " "), justify="left" if is_text else "right", min_width=max(map(len, cells)))
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        out.print(table)


def follow(name: str, total: int, epochs: Iterator["Epoch"]) -> None:
    """Runs a training to its end, with a bar."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(name, total=total)
        for epoch in epochs:
            progress.update(task, advance=1, description=f"{name}: val {epoch.val_accuracy:.3f}")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
