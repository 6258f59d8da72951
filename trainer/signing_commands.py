"""The commands around signatures: make keys, let one vouch for another, sign a release, and look whether one is signed."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from protocol.chunks import CHUNK_BYTES
from trainer.console import out

MAX_DAYS = 36_500
"""A century: whoever means longer leaves the days out."""

keys = typer.Typer(no_args_is_help=True, help="Keys that sign releases.")


def add_to(app: typer.Typer) -> None:
    """Makes the commands of this module commands of the program."""
    app.add_typer(keys, name="keys")
    app.command()(sign)
    app.command()(verify)


@keys.command()
def new(path: Annotated[Path, typer.Argument(help="Where the pair goes: PATH.key, to be kept, and PATH.pub, for the cameras.")]) -> None:
    """Makes a pair of keys."""
    from trainer import keys as own

    private, public = own.new(path)
    out.print(f"{private}: keep it to yourself\n{public}: {public.read_text().strip()}", soft_wrap=True)


@keys.command()
def trust(
    public: Annotated[Path, typer.Argument(help="The new key: a .pub file.")],
    key: Annotated[Path, typer.Option(help="The old key, which cameras trust: a .key file.")],
    days: Annotated[int | None, typer.Option(min=1, max=MAX_DAYS, help="The statement ends after so many days.")] = None,
) -> None:
    """Lets an old key vouch for a new one, so that cameras take what the new one signs."""
    from trainer import keys as own

    path = own.vouch(public, own.read_private(key), _in(days))
    out.print(f"{path}: give it to `sign --trust`, or `rollback --sign-trust`, with the new key")


def sign(
    release: Annotated[Path, typer.Argument(help="Release folder.")],
    key: Annotated[Path, typer.Option(help="A .key file.")],
    counter: Annotated[int | None, typer.Option(min=1, help="Must rise with every release of a kind; the time in seconds when left out.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=MAX_DAYS, help="No camera takes the release after so many days.")] = None,
    minimum_agent: Annotated[str, typer.Option(help="The oldest agent that can run it.")] = "0",
    chunk_bytes: Annotated[int, typer.Option(min=1024, help="The model travels in pieces of this size.")] = CHUNK_BYTES,
    trust: Annotated[list[Path] | None, typer.Option(help="A .trust file, where cameras do not know the key yet; the oldest first.")] = None,
) -> None:
    """Signs a release: writes counter, chunks and dates into its manifest, and manifest.sig beside it."""
    from trainer import keys as own

    counter = int(time.time()) if counter is None else counter
    manifest = own.sign(release, own.read_private(key), counter, _in(days), minimum_agent, chunk_bytes, own.read_statements(trust or []))
    out.print(f"{release}: {manifest.name} {manifest.version} signed, counter {manifest.counter}, {len(manifest.chunks)} chunks")


def verify(
    release: Annotated[Path, typer.Argument(help="Release folder.")],
    key: Annotated[list[str], typer.Option(help="A trusted public key: base64, or a .pub file.")],
) -> None:
    """Looks whether cameras that trust these keys would take a release today, and until when."""
    from trainer.keys import read_public
    from trainer.shelf import read_shipment

    shipment = read_shipment(release)
    trusted, now = read_public(key), datetime.now(UTC)
    shipment.check(trusted, now)
    manifest, signature = shipment.manifest, shipment.signature
    ends = [date for date in (manifest.expires, signature.end(trusted, now)) if date]
    good = f"until {min(ends):%Y-%m-%d}" if ends else "for ever"
    named = f"{manifest.name} {manifest.version}, counter {manifest.counter}"
    out.print(f"{release}: {named}, signed by {signature.key}, good {good}", soft_wrap=True)


def _in(days: int | None) -> datetime | None:
    return None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
