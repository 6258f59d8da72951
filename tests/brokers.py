"""Brokers that a test can start, NATS and RabbitMQ, each a child process with a folder and ports of its own; and a rollout on any."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from rig import free_port

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_S = 300
CAMERAS = 5


def simulate(url: str | None, *arguments: object, cameras: int = CAMERAS) -> dict:
    where = ["--broker", url] if url else []
    command = [sys.executable, "-m", "compose", "simulate", "--cameras", cameras, "--size", 100_000, "--soak-s", 0.2, *where, *arguments, "--json"]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


class Child:
    """A broker that is a process of ours, on `port`."""

    program: str | None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        log = (self.folder / "out.txt").open("ab")
        with log:
            self._process = subprocess.Popen(self.command(), env={**os.environ, **self.environment()}, stdout=log, stderr=log, start_new_session=True)
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        self.stop(signal.SIGKILL)
        raise RuntimeError(f"{type(self).__name__} did not start: {(self.folder / 'out.txt').read_text()[-2000:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):  # RabbitMQ's script has children: all of its session are meant
                os.killpg(self._process.pid, number)
            self._process.wait()
            self._process = None


class Nats(Child):
    """NATS with JetStream and MQTT; one of a cluster when routes are given."""

    program = shutil.which("nats-server")

    def __init__(self, folder: Path, name: str = "n1", cluster_port: int | None = None, routes: tuple[int, ...] = ()) -> None:
        super().__init__(folder)
        self.name, self.cluster_port, self.routes = name, cluster_port, routes
        self._client_port = free_port()

    def command(self) -> list[str]:
        lines = [f"server_name: {self.name}", f'listen: "127.0.0.1:{self._client_port}"']
        lines += [f'jetstream {{ store_dir: "{self.folder}/js" }}', f'mqtt {{ listen: "127.0.0.1:{self.port}" }}']
        if self.cluster_port:
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self.routes)
            lines += [f'cluster {{ name: fleet, listen: "127.0.0.1:{self.cluster_port}", routes: [{routes}] }}']
        config = self.folder / "nats.conf"
        config.write_text("\n".join([*lines, ""]))
        return [str(self.program), "-c", str(config)]


class RabbitMq(Child):
    """RabbitMQ with its MQTT plugin."""

    program = str(RABBITMQ) if RABBITMQ.exists() else None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._epmd_port, self._dist_port = free_port(), free_port()

    def command(self) -> list[str]:
        lines = ["listeners.tcp = none", f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}", "mqtt.allow_anonymous = true", "max_message_size = 65536"]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, "mqtt.default_user = guest", "mqtt.default_pass = guest", ""]))
        (self.folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        return [str(self.program)]

    def environment(self) -> dict[str, str]:
        own = {"NODENAME": f"maskfleet{self.port}@localhost", "MNESIA_BASE": f"{self.folder}/mnesia", "LOG_BASE": f"{self.folder}/log"}
        own |= {"ENABLED_PLUGINS_FILE": f"{self.folder}/enabled_plugins", "CONFIG_FILE": f"{self.folder}/rabbitmq", "DIST_PORT": str(self._dist_port)}
        erlang = {"ERL_EPMD_PORT": str(self._epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": str(self.folder)}
        return {**{f"RABBITMQ_{name}": value for name, value in own.items()}, **erlang}

    def stop(self, number: int = signal.SIGTERM) -> None:
        super().stop(number)
        # Erlang's name server outlives its nodes.
        subprocess.run(["epmd", "-port", str(self._epmd_port), "-kill"], capture_output=True, check=False)
