"""aiomqtt's client, made to leave no socket and no thread behind. There is no public way to do this."""

import asyncio
import contextlib
import re
import socket
import threading
from typing import Any, Self

import aiomqtt

CONNECTING_LOOK_S = 0.01
LOST = "the connection was lost"
TLS_ALERT = re.compile(r"failed to receive on socket: \[SSL: .*\balert ([a-z ]+?) \(")
"""What the library logs of a broker that says, once it has looked at our certificate, why it does not go on."""
UNSPECIFIED = 128
"""Code of a connection that the other side closed."""
REFUSED = 128
"""Return codes of a subscription from here on mean that it was not granted."""


class Client(aiomqtt.Client):
    """One MQTT connection, used once."""

    _is_connecting = _is_let_go = False
    refusal = ""
    """Why the broker ended TLS, as of a certificate that has expired; empty where it did not, or has not said."""

    async def __aenter__(self) -> Self:
        """Raises MqttError also when the connection was lost before anybody could look: aiomqtt forgets that, and waits for ever."""
        lost = self._disconnected
        await super().__aenter__()
        if lost.done():
            raise aiomqtt.MqttError(LOST) from lost.exception()
        return self

    def _on_disconnect(self, *arguments: Any) -> None:
        """Nobody waits for a greeting that cannot come any more, which aiomqtt would until its time is up. Runs in any thread."""
        if not self._is_let_go:
            self._loop.call_soon_threadsafe(self._give_up)
        if not self._connected.cancelled():  # by who left while connecting: aiomqtt would raise that here, for asyncio to complain of
            super()._on_disconnect(*arguments)

    def _give_up(self) -> None:
        if not self._is_let_go and not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(LOST))

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        """As aiomqtt's, but for a socket that is closed before the loop comes to it: that would be a traceback. Runs in any thread."""

        def register() -> None:
            if sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), self._write)

        self._loop.call_soon_threadsafe(register)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:  # whatever it is, the connection is broken
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _on_log(self, client: Any, userdata: Any, level: Any, text: str) -> None:  # noqa: ARG002
        """The library itself raises no more than that a connection was lost. Runs in any thread."""
        if found := TLS_ALERT.match(text):
            self.refusal = f"the broker ended TLS: {found[1]}"

    def _client_connect(self) -> None:
        """Runs in a thread, which goes on when the task that waits for it is cancelled."""
        self._is_connecting = True
        self._client.on_log = self._on_log
        self._client.disable_logger()  # the link says once what the library would at each attempt
        try:
            self._look_up()
            if not self._is_let_go:
                super()._client_connect()
        finally:
            self._is_connecting = False

    def _look_up(self) -> None:
        """Returns when the broker's name has an address, or when the connection is let go; raises OSError or ValueError when it has none.

        Connecting asks for it again. But it cannot be broken off, and a nameserver that is silent takes longer than whoever stops us
        waits: so it is first asked in a thread that nobody need wait for.
        """
        errors: list[Exception] = []

        def ask() -> None:
            try:
                socket.getaddrinfo(self._hostname, self._port, type=socket.SOCK_STREAM)
            except Exception as error:  # for the thread that waits
                errors.append(error)

        asking = threading.Thread(target=ask, name="look-up", daemon=True)
        asking.start()
        while asking.is_alive() and not self._is_let_go:
            asking.join(CONNECTING_LOOK_S)
        if errors:
            raise errors[0]

    def hang_up(self) -> None:
        """Closes the socket without a goodbye, for after one the broker would not say our last will.

        aiomqtt leaves the socket of a client that never got its answer open; a frozen broker that thaws would then
        accept the stale connection, and end the present one for it.
        """
        own = self._client.socket()
        if isinstance(own, socket.socket):
            with contextlib.suppress(OSError):  # the broker was first
                socket.socket.shutdown(own, socket.SHUT_RDWR)  # also below TLS, whose own would have paho read what is encrypted
        self._client.disconnect()  # this goodbye goes nowhere, and paho closes the socket for it

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reason_codes: Any, properties: Any = None) -> None:
        """Nobody waits any more for an answer that comes late: aiomqtt would complain of it with a traceback."""
        if mid in self._pending_subscribes:
            super()._on_subscribe(client, userdata, mid, reason_codes, properties)

    def _on_unsubscribe(self, client: Any, userdata: Any, mid: int, reason_codes: Any, properties: Any = None) -> None:
        """The same."""
        if mid in self._pending_unsubscribes:
            super()._on_unsubscribe(client, userdata, mid, reason_codes, properties)

    async def let_go(self) -> None:
        """Hangs up for good: a thread that still connects is waited for, or its socket would outlive the loop that serves it."""
        self._is_let_go = True
        while self._is_connecting:
            await asyncio.sleep(CONNECTING_LOOK_S)
        await asyncio.sleep(0)  # what the thread asked of the loop comes first
        # Nor is what ends it: asyncio would complain that nobody asked.
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()
        if not self._disconnected.done():
            self._disconnected.set_result(None)
        self.hang_up()


def cause_of(error: Exception) -> str:
    """What an error came of, in words: of each lost connection aiomqtt itself says only that there are no more messages."""
    cause = error.__cause__
    if isinstance(cause, aiomqtt.MqttCodeError) and getattr(cause.rc, "value", None) == UNSPECIFIED:
        return LOST
    return str(cause or "") or str(error)


def is_refused(code: Any) -> bool:
    """Whether a return code, for which paho has a number or an object with one, says that a subscription was not granted."""
    return int(getattr(code, "value", code)) >= REFUSED
