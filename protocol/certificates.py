"""The certificates of a connection, as they are on disk now or as they last could be read."""

import asyncio
import logging
import ssl

from protocol.broker import Broker
from protocol.errors import Rejected

log = logging.getLogger(__name__)


class Certificates:
    """Those that were renewed on disk are used from the next connection on; for one that is half written, what was read before is."""

    def __init__(self, broker: Broker) -> None:
        """Raises Rejected when a file cannot be used."""
        self._broker = broker
        self._problem = ""
        self.context: ssl.SSLContext | None = broker.tls_context()

    async def read(self) -> None:
        """Reads the files again; each new problem is warned of once."""
        try:
            self.context = await asyncio.to_thread(self._broker.tls_context)
            problem = ""
        except Rejected as error:
            problem = str(error)
            if problem != self._problem:
                log.warning("%s; what was read before is used", problem)
        self._problem = problem
