"""`maskfleet`: the parts put together."""

import asyncio
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from protocol.errors import FleetError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="A mask-camera fleet on one machine.")
err = Console(stderr=True)


def main() -> None:
    """Runs a command; whatever is wrong with what it was given is one line and exit code 1."""
    try:
        app()
    except FleetError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback()
def _commands() -> None:
    """Keeps `demo` a command of its own while it is the only one."""


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the camera runs.")] = 24,
    broker: Annotated[str | None, typer.Option(help="mqtt://host:port of a broker of your own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Shows a camera that sees a face without a mask, then with one, then without."""
    try:
        from compose.demo import demo as run
    except ModuleNotFoundError as error:
        raise FleetError(f"the demo needs {error.name}: pip install 'maskfleet[demo]'") from None

    counts = asyncio.run(run(seconds, broker, (lambda _: None) if as_json else lambda text: print(text, flush=True)))
    print(json.dumps(counts) if as_json else ", ".join(f"{n} {what}" for what, n in counts.items()))


if __name__ == "__main__":
    main()
