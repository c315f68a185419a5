"""An SMTP server that keeps what it is given."""

from __future__ import annotations

import asyncio
import email
import email.policy
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP

from working import LONG


class MailSink:
    """Takes every message, but for the first ``refusals``, which it puts off with a temporary error."""

    def __init__(self, refusals: int) -> None:
        self.messages: list[EmailMessage] = []
        self.refusals = refusals
        self.port: Future[int] = Future()
        self.loop = asyncio.new_event_loop()
        self.stop = asyncio.Event()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        if self.refusals:
            self.refusals -= 1
            return "451 try again later"
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 kept"

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(self, hostname="localhost", loop=loop), "127.0.0.1", 0)
        self.port.set_result(server.sockets[0].getsockname()[1])
        await self.stop.wait()
        server.close()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.serve())


@contextmanager
def mail_sink(refusals: int = 0) -> Iterator[MailSink]:
    sink = MailSink(refusals)
    thread = threading.Thread(target=sink.run)
    thread.start()
    try:
        sink.port.result(LONG)
        yield sink
    finally:
        sink.loop.call_soon_threadsafe(sink.stop.set)
        thread.join(LONG)
