"""`maskfleet-agent`: the commands of one camera."""

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.settings import FILE_VARIABLE, Settings, read_settings
from protocol.errors import FleetError, Rejected, escaped, in_one_line

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="One mask camera.")

File = Annotated[Path | None, typer.Option("--settings", envvar=FILE_VARIABLE, help="Settings file (TOML).")]
Uri = Annotated[str | None, typer.Option("--camera", help="Camera URI, instead of the one in the settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def main() -> None:
    """Runs a command; whatever is wrong with what it was given is one line and exit code 1."""
    try:
        app()
    except (FleetError, OSError) as error:
        _complain(error)
        sys.exit(1)


@app.command()
def run(file: File = None, camera: Uri = None) -> None:
    """Watches, alerts and reports until stopped (SIGTERM, Ctrl-C), or until recorded material ends."""
    from edge_agent import agent, heap

    heap.keep_small()
    settings = _settings(file, camera)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    async def watch() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            if stop.is_set():
                os._exit(1)  # asked twice: something hangs
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        await agent.run(settings, stop)

    asyncio.run(watch())


@app.command()
def infer(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, folders, videos.")], file: File = None, as_json: Json = False
) -> None:
    """Finds faces in files and says what each wears."""
    from edge_agent.infer import infer as look
    from edge_agent.load import load_eyes

    eyes = load_eyes(read_settings(file))
    results, failures = [], 0
    for path in paths:
        for result in look(eyes, path):
            if isinstance(result, Rejected):
                failures += 1
                _complain(result)
                continue
            if isinstance(result, str):
                typer.echo(escaped(result), err=True)
                continue
            if as_json:
                results.append(result)
                continue
            faces = ", ".join(f"{face['label']} ({face['p_no_mask']:.2f})" for face in result["faces"])
            print(escaped(f"{result['file']} {result['frame']}: {faces or 'no face'}"))
    if as_json:
        print(json.dumps({"results": results}))
    if failures:
        raise typer.Exit(1)


@app.command()
def bench(file: File = None, camera: Uri = None, frames: Annotated[int, typer.Option(min=1)] = 100, as_json: Json = False) -> None:
    """Measures how fast this machine sees, on as many threads as are set (one, unless changed)."""
    from edge_agent.bench import bench as measure
    from edge_agent.load import load_eyes

    settings = _settings(file, camera)
    figures = measure(settings, load_eyes(settings), frames)
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:16} {value}")


@app.command()
def doctor(file: File = None, camera: Uri = None, as_json: Json = False) -> None:
    """Looks whether everything is there: libraries, models, camera, broker, disk, port, clock."""
    from edge_agent.doctor import examine

    settings = _settings(file, camera)
    logging.disable(logging.CRITICAL)
    findings = examine(settings)
    is_good = all(finding.is_good for finding in findings)
    if as_json:
        print(json.dumps({"ok": is_good, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:  # one line each, however long
            mark = typer.style("ok", fg="green") if finding.is_good else typer.style("no", fg="red")
            typer.echo(f"{mark}  {finding.part:10}  {finding.text}")
    if not is_good:
        raise typer.Exit(1)


def _settings(file: Path | None, camera: str | None) -> Settings:
    return read_settings(file, **({} if camera is None else {"uri": camera}))


def _complain(error: FleetError | OSError) -> None:
    typer.echo(f"{typer.style('error:', fg='red')} {in_one_line(error)}", err=True)


if __name__ == "__main__":
    main()
