"""`maskfleet`: the parts put together."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from protocol.errors import FleetError, in_one_line
from trainer.console import fail

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="A mask-camera fleet on one machine.")
T = TypeVar("T")


def main() -> None:
    """Runs a command; whatever is wrong with what it was given is one line and exit code 1."""
    try:
        app()
    except (FleetError, OSError) as error:
        fail(in_one_line(error))


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the camera runs.")] = 45,
    broker: Annotated[str | None, typer.Option(help="mqtt://host:port of a broker of your own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Shows a camera that sees a face without a mask, then with one, then without; and two rollouts to it, of which one is called back."""
    try:
        from compose.demo import demo as run
    except ModuleNotFoundError as error:
        raise FleetError(f"the demo needs {error.name}: pip install '.[demo]' in the repository") from None

    counts = _until_ended(run(seconds, broker, (lambda _: None) if as_json else lambda text: print(text, flush=True)))
    print(json.dumps(counts) if as_json else ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()))


@app.command()
def simulate(
    cameras: Annotated[int, typer.Option(min=1, max=9999, help="How many.")],
    broker: Annotated[
        str | None, typer.Option(help="mqtt://host:port of a broker of your own; the embedded one is good for about 200 cameras.")
    ] = None,
    size: Annotated[int, typer.Option(min=1000, max=1_500_000, help="Bytes of the model.")] = 400_000,
    waves: Annotated[str, typer.Option(help="As in `maskfleet-trainer rollout start`.")] = "1,10%,50%,100%",
    soak_s: Annotated[float, typer.Option(min=0)] = 0.5,
    answer_s: Annotated[float, typer.Option(min=1)] = 120,
    model: Annotated[str, typer.Option(help="How the new model behaves: good, slow, nan, crash or wrong (golden answers).")] = "good",
    release: Annotated[str, typer.Option(help="What is wrong with the release: none, signature, counter or truncated.")] = "none",
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the chunks that never arrive.")] = 0,
    link_kib_s: Annotated[float | None, typer.Option(min=1, help="How fast chunks arrive at each camera.")] = None,
    crash: Annotated[float, typer.Option(min=0, max=0.9, help="Chance that an agent dies at each change of its update's state.")] = 0,
    clock_off_s: Annotated[float, typer.Option(min=-1.79e9, max=1e11, help="How wrong the cameras' clocks are.")] = 0,
    duplicates: Annotated[int, typer.Option(min=0, help="So many cameras have a name that is another's, too.")] = 0,
    rate_kib_s: Annotated[int, typer.Option(min=1, help="Chunks are sent this fast at most.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Rolls a release out to simulated cameras: real coordinator, links, update machines and chunks; no pixels."""
    try:
        from compose.simulate import RELEASE_FAULTS, Simulation
        from compose.simulate import simulate as run
        from compose.simulated import MODEL_FAULTS, Faults
    except ModuleNotFoundError as error:
        raise FleetError(f"the simulation needs {error.name}: pip install '.[demo]' in the repository") from None

    for name, value, known in (("model", model, MODEL_FAULTS), ("release", release, RELEASE_FAULTS)):
        if value not in known:
            raise FleetError(f"--{name} {value}: choose one of {', '.join(known)}")
    faults = Faults(model, loss, link_kib_s and link_kib_s * 1024, crash, clock_off_s, min(duplicates, cameras))  # type: ignore[arg-type]
    what = Simulation(cameras, broker, size, faults, release, tuple(wave.strip() for wave in waves.split(",")), soak_s, answer_s, rate_kib_s * 1024)  # type: ignore[arg-type]
    figures = _until_ended(run(what, (lambda _: None) if as_json else lambda text: print(text, flush=True)))
    print(json.dumps(figures) if as_json else "\n".join(f"{name:14} {value}" for name, value in figures.items()))


def _until_ended(work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work; SIGTERM ends it as Ctrl-C does, with all that it has to take back."""

    async def ending() -> T:
        task = asyncio.current_task()
        assert task, "a coroutine that runs is a task's"
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(ending())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
