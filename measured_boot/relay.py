"""A worker's front that does not always do what the worker does.

It ends a coordinator's TLS with the worker's own certificate and speaks to the worker behind it as a
coordinator, so that the coordinator cannot tell it from the worker: it counts what the worker answers, and
from a given byte on it holds the answers back, or lies.
"""

import asyncio
import ssl
import threading

FRAME_HEADER_BYTES = 9  # RFC 9113, section 4.1
DATA = 0
# A tensor's frames are longer than those of the protocol's own messages.
LEAST_LIE_BYTES = 1024


class Mischief:
    """What relays do from `after_bytes` of a worker's answers on: None, "hold" or "lie".

    Done by the relay that gets there first; `everybody` does it once that has begun.
    """

    def __init__(self, what=None, after_bytes=0, everybody=False):
        self.what, self.after_bytes, self.everybody = what, after_bytes, everybody
        self.culprits = []  # addresses
        self.begun = threading.Event()
        self.released = threading.Event()
        self._one_at_a_time = threading.Lock()

    def is_at(self, relay):
        if self.what is None:
            return False
        with self._one_at_a_time:
            if relay.address in self.culprits:
                return True
            if not (self.everybody if self.begun.is_set() else relay.answered_bytes >= self.after_bytes):
                return False
            self.culprits.append(relay.address)
            self.begun.set()
            return True


class Relay:
    """Before one worker; `address` is what coordinators are told. `certificates` as in Certificates."""

    def __init__(self, name, worker_port, certificates):
        self.worker_port = worker_port
        self.mischief = Mischief()
        self.answered_bytes = 0
        self._server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server_tls.load_cert_chain(certificates.file(name, "pem"), certificates.file(name, "key"))
        self._server_tls.load_verify_locations(certificates.file("coordinators", "pem"))
        self._server_tls.verify_mode = ssl.CERT_REQUIRED
        self._client_tls = ssl.create_default_context(cafile=certificates.file("workers", "pem"))
        self._client_tls.load_cert_chain(certificates.file("coordinator", "pem"),
                                         certificates.file("coordinator", "key"))  # fmt: skip
        for context in (self._server_tls, self._client_tls):
            context.set_alpn_protocols(["h2"])
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait(10)

    def begin(self, mischief):
        """A new run: counts from zero."""
        self.mischief, self.answered_bytes = mischief, 0

    def _run(self, ready):
        asyncio.run(self._serve(ready))

    async def _serve(self, ready):
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._server_tls)
        self.address = f"localhost:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await server.serve_forever()

    async def _relay(self, reader, writer):
        try:
            to_worker = await asyncio.open_connection("localhost", self.worker_port, ssl=self._client_tls)
        except OSError:
            writer.close()
            return
        tasks = [asyncio.create_task(self._requests(reader, to_worker[1])),
                 asyncio.create_task(self._answers(to_worker[0], writer))]  # fmt: skip
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, to_worker[1]):
            end.close()

    @staticmethod
    async def _requests(reader, writer):
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()

    async def _answers(self, reader, writer):
        while True:
            header = await reader.readexactly(FRAME_HEADER_BYTES)
            size, kind = int.from_bytes(header[:3]), header[3]
            payload = bytearray(await reader.readexactly(size))
            self.answered_bytes += size
            if kind == DATA and size >= LEAST_LIE_BYTES and self.mischief.is_at(self):
                if self.mischief.what == "hold":
                    while not self.mischief.released.is_set():
                        await asyncio.sleep(0.05)
                else:
                    # Well inside of the tensor, in each number's sign and exponent.
                    for at in range(size // 2 | 1, size // 2 + 256, 2):
                        payload[at] ^= 0x80
            writer.write(header + payload)
            await writer.drain()
