"""Answers the cameras' wishes for chunks: gathers them for a moment, then broadcasts what was wished for once, at a bounded rate."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable

from protocol.chunks import MAX_PARTS, Piece, cut, pieces
from protocol.errors import LinkError
from protocol.link import Link
from protocol.receiver import Received
from protocol.rollouts import Chunk, Want
from protocol.topics import ChunkAddress, ReleaseAddress
from trainer.shelf import Shipment

log = logging.getLogger(__name__)

GATHER_S, GATHER_MAX_S = 1.0, 30.0
"""A broadcast begins when no wish came for a second, or the first has waited for thirty: a large fleet takes a while to hear of a release."""
GATHER_SHARE = 0.3
"""A fleet that took long to wish is waited for longer: this share of the time since its first wish."""
RATE_BYTES_S = 128 * 1024
ECHO_S = 20.0
"""A broker that has not passed a chunk on by then has refused it; one that ends the connection has done so at once."""
PATIENCE = 20
"""So many times a camera may wish for every chunk of a release: loss needs a few, only a hostile client needs more. A chunk that is still to be
sent is not counted again, however slowly that goes."""
MAX_WAITING = 10_000

Find = Callable[[str], Shipment | None]
"""The release that is being rolled out under a short digest, if there is one."""
Belongs = Callable[[str, str], bool]
"""Whether a model, by its short digest, is being rolled out to a camera, `site/camera`."""


class Publisher:
    """Serves chunks of the releases that `find` knows to the cameras that `belongs` knows; `bytes_sent` counts what the broker took."""

    def __init__(
        self,
        link: Link,
        base: str,
        find: Find,
        belongs: Belongs,
        rate_bytes_s: float = RATE_BYTES_S,
        is_telling: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_telling` says whether more cameras are about to hear of a release: their wishes are waited for."""
        self._link = link
        self._base = base
        self._find = find
        self._belongs = belongs
        self._rate_bytes_s = rate_bytes_s
        self._is_telling = is_telling
        self._next_s = 0.0
        self._wishes: dict[str, set[int]] = defaultdict(set)
        self._wished: Counter[tuple[str, str]] = Counter()
        self._heard_s = 0.0
        self._parts = 1
        self._is_proven = False
        self.bytes_sent = 0

    async def run(self) -> None:
        """Serves until cancelled."""
        async with self._link.receive(self._base, Want, max_waiting=MAX_WAITING) as wants, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(wants))
            while True:
                await self._gather()
                for release in list(self._wishes):
                    await self._broadcast(release)

    async def _listen(self, wants: AsyncIterator[Received[Want]]) -> None:
        async for address, want, _ in wants:
            camera, shipment = f"{want.site}/{want.camera}", self._find(address.release)
            if shipment is None or not self._belongs(address.release, camera):  # patience with invented names would have no end
                log.debug("%s wishes for a model that is not being rolled out to it", camera)
                continue
            total = len(shipment.manifest.chunks)
            who = (address.release, camera)
            self._wished[who] += len(set(want.chunks) - self._wishes[address.release])
            if self._wished[who] > PATIENCE * total:
                log.warning("%s has wished for %d chunks of a model of %d: not served any more", camera, self._wished[who], total)
                continue
            self._wishes[address.release] |= {number for number in want.chunks if number < total}
            self._heard_s = asyncio.get_running_loop().time()

    async def _gather(self) -> None:
        clock = asyncio.get_running_loop().time
        while not any(self._wishes.values()):
            await asyncio.sleep(GATHER_S / 10)
        first_s = clock()
        while clock() < min(self._heard_s + max(GATHER_S, GATHER_SHARE * (self._heard_s - first_s)), first_s + GATHER_MAX_S):
            await asyncio.sleep(GATHER_S / 10)
            if self._is_telling():
                self._heard_s = clock()

    async def _broadcast(self, release: str) -> None:
        """Sends each chunk that is wished for; a wish is met when its chunk is sent, so one that comes meanwhile is not met twice."""
        shipment = self._find(release)
        if shipment is None:
            del self._wishes[release]
            return
        address = ReleaseAddress(self._base, release)
        chunks = cut(shipment.model, shipment.manifest.chunk_bytes)
        self._wishes[release] &= set(range(len(chunks)))  # the model may have been signed again since, in fewer chunks
        for number in sorted(self._wishes[release]):
            try:
                await (self._send if self._is_proven else self._prove)(address, number, chunks[number])
            except LinkError as error:
                log.info("chunk %d: %s", number, error)
                await self._link.wait_online()
                return
            self._wishes[release].discard(number)

    async def _send(self, address: ReleaseAddress, number: int, chunk: bytes) -> None:
        for piece, data in pieces(number, chunk, self._parts):
            await self._send_piece(address, piece, data)

    async def _send_piece(self, address: ReleaseAddress, piece: Piece, data: bytes) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, self._next_s - clock()))
        self._next_s = max(clock(), self._next_s) + len(data) / self._rate_bytes_s
        await self._link.send(ChunkAddress(address.base, address.release, str(piece)), Chunk(data=data))
        self.bytes_sent += len(data)

    async def _prove(self, address: ReleaseAddress, number: int, chunk: bytes) -> None:
        """Sends the first chunk of all and waits until it comes back; when it does not, the broker gets pieces of half the size.

        Raises LinkError when it did not. A size that was passed on once is good for ever: what fails later is the network.
        """
        async with self._link.receive(address, Chunk, max_waiting=2 * MAX_PARTS) as echoes:
            try:
                await self._send(address, number, chunk)
                async with asyncio.timeout(ECHO_S):
                    await anext(echoes)
            except (LinkError, TimeoutError) as error:
                self._is_proven = self._parts * 2 > MAX_PARTS  # then it is not the size
                self._parts = 1 if self._is_proven else self._parts * 2
                log.warning("the broker did not pass a chunk on (%s); from now on each goes in %d parts", str(error) or "no echo", self._parts)
                raise LinkError("not passed on") from None
        self._is_proven = True
