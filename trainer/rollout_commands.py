"""The commands of the fleet's half: run the coordinator, begin a rollout, look at it, stop it, go back."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from protocol.broker import Broker
from protocol.errors import Reason, Rejected
from protocol.link import Link
from protocol.rollouts import RolloutAck
from protocol.topics import CAMERAS
from trainer.console import Json, err, out
from trainer.order import Op

T = TypeVar("T")

rollout = typer.Typer(no_args_is_help=True, help="Ships a release to the fleet, in waves.")

URL_HELP = (
    "mqtt://host:port, or mqtts:// for TLS. "
    "User, password and certificates come from MASKFLEET_BROKER__USERNAME, __PASSWORD, __CA_FILE, __CERT_FILE, __KEY_FILE."
)
Url = Annotated[str, typer.Option("--broker", envvar="MASKFLEET_BROKER__URL", help=URL_HELP)]
Base = Annotated[str, typer.Option(envvar="MASKFLEET_BASE", help="First segment of every topic.")]
StateDir = Annotated[Path, typer.Option(envvar="MASKFLEET_STATE_DIR", help="The coordinator's journal and releases; `start` puts the release there.")]
Trust = Annotated[list[str] | None, typer.Option(help="A public key (base64 or a .pub file) that must have signed what is shipped.")]
Which = Annotated[str, typer.Argument(metavar="[ROLLOUT]", help="The one that is under way when left out.")]
Note = Annotated[str, typer.Option(help="For the record.")]

LOCAL = "mqtt://localhost:1883"
STATE_DIR = Path("~/.local/state/maskfleet/coordinator")


def add_to(app: typer.Typer) -> None:
    """Makes the commands of this module commands of the program."""
    app.add_typer(rollout, name="rollout")
    app.command()(watch)


def watch(
    broker: Url = LOCAL,
    base: Base = "maskfleet",
    state_dir: StateDir = STATE_DIR,
    trust: Trust = None,
    rate_kib_s: Annotated[int, typer.Option(min=1, help="Chunks are sent this fast at most, in KiB per second.")] = 128,
) -> None:
    """Runs the coordinator until stopped: started again, it goes on where it was."""
    from trainer.keys import read_public
    from trainer.watch import Coordinator, WatchSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    settings = WatchSettings(_broker(broker), base, state_dir.expanduser(), read_public(trust or []), rate_bytes_s=1024 * rate_kib_s)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Coordinator(settings).run(stop)

    asyncio.run(run())


@rollout.command()
def start(
    release: Annotated[Path, typer.Argument(help="A signed release folder.")],
    broker: Url = LOCAL,
    base: Base = "maskfleet",
    state_dir: StateDir = STATE_DIR,
    trust: Trust = None,
    site: Annotated[list[str] | None, typer.Option(help="All cameras of this site, beside those of --camera; may be repeated.")] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="These cameras: site/camera, or camera at any site, with * and ?; may be repeated.")
    ] = None,
    cameras: Annotated[Path | None, typer.Option(help="Those in this file, too: one in a line, as with --camera; # begins a comment.")] = None,
    waves: Annotated[str, typer.Option(help="How many cameras each wave reaches, with those before it.")] = "1,10%,50%,100%",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="A wave is good when this share of its answers is.")] = 0.9,
    soak_s: Annotated[float, typer.Option(min=0, help="A wave is watched so long before the next.")] = 300,
    answer_s: Annotated[float, typer.Option(min=1, help="No answer in this time is a failure.")] = 1800,
) -> None:
    """Begins a rollout: one camera first, then more, as long as all goes well."""
    from trainer.keys import read_public
    from trainer.shelf import Shelf
    from trainer.watch import SHELF_FOLDER

    select = _select(site or [], camera or [], cameras)
    where = _broker(broker)
    shipment = Shelf(state_dir.expanduser() / SHELF_FOLDER, read_public(trust or [])).put(release)
    rules: dict[str, Any] = {"waves": [wave.strip() for wave in waves.split(",")], "threshold": threshold, "soak_s": soak_s, "answer_s": answer_s}
    begun = _order(where, base, "start", release=shipment.name, select=select, **rules)
    follow = "`maskfleet-trainer rollout status` follows it"
    if begun.cameras == 0:
        follow = "no camera that is known is among those; it waits for one to come, and `maskfleet-trainer rollout abort` ends it"
    out.print(f"rollout {begun.rollout} has begun: {follow}")


@rollout.command()
def status(
    broker: Url = LOCAL,
    base: Base = "maskfleet",
    as_json: Json = False,
) -> None:
    """Shows how the rollouts stand: on a terminal for as long as you look, with --json once."""
    from trainer import status as own

    where = _broker(broker)
    if as_json:
        print(json.dumps(_with_link(where, base, lambda link: own.once(link, base))))
    elif out.is_terminal:
        with contextlib.suppress(KeyboardInterrupt):  # whoever looked has seen enough
            _with_link(where, base, lambda link: own.follow(link, base, out))
    else:
        out.print(own.table(_with_link(where, base, lambda link: own.once(link, base))))


def _stopper(op: Op, text: str) -> None:
    """Adds a command that needs only a rollout and a reason."""

    def command(
        name: Which = "",
        broker: Url = LOCAL,
        base: Base = "maskfleet",
        reason: Note = "",
    ) -> None:
        done = _order(_broker(broker), base, op, name, reason=reason)
        out.print(f"rollout {done.rollout}: {op} done")

    rollout.command(name=op, help=text)(command)


_stopper("pause", "Asks no more cameras; those that were asked go on.")
_stopper("resume", "Goes on after a pause or a stop: cameras that failed are asked again; those that refused are let pass after a stop.")
_stopper("abort", "Ends a rollout: cameras that have not committed keep what they have.")


@rollout.command()
def rollback(
    release: Annotated[Path, typer.Argument(help="The release to go back to, signed again with a higher counter (or see --sign-with).")],
    name: Annotated[str, typer.Option("--rollout", help="Which rollout to undo; the one that is under way, or was last, when left out.")] = "",
    sign_with: Annotated[Path | None, typer.Option(help="A .key file: the release is copied and signed again on the way.")] = None,
    sign_trust: Annotated[
        list[Path] | None, typer.Option(help="With --sign-with: a .trust file, where cameras do not know that key yet; the oldest first.")
    ] = None,
    broker: Url = LOCAL,
    base: Base = "maskfleet",
    state_dir: StateDir = STATE_DIR,
    trust: Trust = None,
    reason: Note = "",
) -> None:
    """Ends a rollout and sends the old model to the cameras that it had reached, all at once."""
    from trainer.keys import read_public, read_statements
    from trainer.shelf import Shelf, put_again
    from trainer.watch import SHELF_FOLDER

    if sign_trust and not sign_with:
        raise Rejected(Reason.BAD_INPUT, "--sign-trust: a release that is not signed on the way (--sign-with) takes no statements")
    shelf = Shelf(state_dir.expanduser() / SHELF_FOLDER, read_public(trust or []))
    shipment = put_again(shelf, release, sign_with, read_statements(sign_trust or [])) if sign_with else shelf.put(release)
    done = _order(_broker(broker), base, "rollback", name, release=shipment.name, reason=reason)
    out.print(f"rollout {done.rollout} takes the cameras back")


def _select(sites: list[str], cameras: list[str], file: Path | None) -> list[str]:
    """`site/camera` patterns; a camera that names no site is of any. Raises Rejected for what names nobody: that is not all."""
    named = [("--site", one, f"{one}/*") for one in sites]
    for where, names in (("--camera", cameras), (str(file), _listed(file) if file else [])):
        named += [(where, one, one if "/" in one else f"*/{one}") for one in names]
    for where, one, pattern in named:
        if not CAMERAS.fullmatch(pattern):
            raise Rejected(Reason.BAD_INPUT, f"{where}: {one[:80]!r}: not one name or pattern of letters, digits, '_' and '-', with * and ?")
    return [pattern for _, _, pattern in named] or ["*/*"]


def _listed(file: Path) -> list[str]:
    """The cameras in a file; raises Rejected."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # Windows writes a mark of the byte order
    except UnicodeDecodeError:
        raise Rejected(Reason.BAD_INPUT, f"{file}: not a text in UTF-8") from None
    listed = [one for line in lines if (one := line.partition("#")[0].strip())]
    if not listed:
        raise Rejected(Reason.BAD_INPUT, f"{file}: names nobody")
    return listed


def _broker(url: str) -> Broker:
    """The broker, with user, password and certificates from the variables that an agent takes too."""
    said = {name: os.environ.get(f"MASKFLEET_BROKER__{name.upper()}") for name in ("username", "password", "ca_file", "cert_file", "key_file")}
    return Broker.parse(url, **{name: Path(one).expanduser() if one and name.endswith("_file") else one for name, one in said.items()})


def _order(broker: Broker, base: str, op: Op, name: str = "", **args: Any) -> RolloutAck:
    from trainer.order import order

    try:
        return _with_link(broker, base, lambda link: order(link, base, op, name, **args))
    except KeyboardInterrupt:
        err.print(f"{op}: interrupted, and not known whether it was done: `maskfleet-trainer rollout status` tells", soft_wrap=True)
        raise typer.Exit(130) from None


def _with_link(broker: Broker, base: str, job: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
    from trainer.order import connected

    async def run() -> T:
        async with connected(broker, base) as link:
            return await job(link)

    return asyncio.run(run())
