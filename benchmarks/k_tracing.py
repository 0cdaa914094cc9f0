"""What do traces cost? `python -m benchmarks.k_tracing`.

One message's way is walked again and again, with the spans and notes the worker makes on it (`WAY`) and
nothing between them: without a collector, with one of which the message is not drawn, and recorded. What
counts is processor time: of the thread that walks, the worker's event loop, and of the others, which send.
The collector is another process, which answers and forgets.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks.method import BLOCKS, Row, Target, in_turns, median, parser, require_quiet, write
from consumer.broker import Delivery
from consumer.ops.otlp import OtlpTracer
from consumer.ops.tracing import Tracer, note, span
from consumer.settings import load_settings

LEAST = {
    "google_cloud_project": "bench",
    "subscription": "work",
    "results_topic": "results",
    "dead_letter_topic": "dead-letters",
    "bucket": "photos",
    "backend_url": "none",
}
RECORDED = 110
"""Messages of a round that are recorded: their spans fit into the exporter's queue, which drops others."""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Way = Mapping[str, "Way"]
_STEP: Way = {"model": {}, "result": {}}
WAY: Way = {
    "parse pipeline": {},
    "claim": {},
    "fetch": {"download": {}, "decode photo": {}},
    "run": {"step one": _STEP, "step two": _STEP},
    "record": {},
    "publish results": {},
    "callback": {},
    "mark": {},
    "ack": {},
}
"""Spans within spans: with the message's own eighteen."""

COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def collector() -> Iterator[str]:
    """Yield the url of one."""
    process = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def count(way: Way) -> int:
    """Return how many spans there are on it."""
    return sum(1 + count(inner) for inner in way.values())


def walk(way: Way) -> None:
    """Make the spans, and say something of each."""
    for name, inner in way.items():
        with span(name, part=1):
            note(size=3)
            walk(inner)


@dataclass
class Walker:
    """Walks so many messages' way, again and again."""

    messages: int
    tracer: Callable[[], Tracer] | None
    """Makes one for each round; None walks nowhere."""
    elsewhere: list[float] = field(default_factory=list)
    """Seconds of the other threads, round by round, for each message."""

    def round(self) -> float:
        """Return the seconds of processor time that a message takes of this thread."""
        here, everywhere = time.thread_time(), time.process_time()
        asyncio.run(self._walk())
        seconds = time.thread_time() - here
        self.elsewhere.append((time.process_time() - everywhere - seconds) / self.messages)
        return seconds / self.messages

    async def _walk(self) -> None:
        tracer = self.tracer() if self.tracer else None
        for number in range(self.messages):
            name = str(number)
            delivery = Delivery(name, name, b"{}", {"traceparent": TRACE}, datetime.now(UTC), 1)
            if tracer is not None:
                with tracer.message(delivery):
                    walk(WAY)
                await asyncio.sleep(0)
        if tracer is not None:
            await tracer.close()


def main() -> None:
    """Measure and write `k-tracing.json`."""
    options = parser(__doc__).parse_args()
    require_quiet(busy=options.busy)
    with collector() as url:

        def drawn(sampler: str) -> Callable[[], Tracer]:
            told = {"otel_exporter_otlp_endpoint": url, "otel_traces_sampler": sampler}
            settings = load_settings({**LEAST, **told})
            return lambda: OtlpTracer(settings)

        walkers = {
            "nowhere": Walker(20_000, None),
            "no collector": Walker(20_000, Tracer),
            "not drawn": Walker(10_000, drawn("always_off")),
            "recorded": Walker(RECORDED, drawn("always_on")),
        }
        found = in_turns({name: it.round for name, it in walkers.items()}, options.blocks or BLOCKS)

    def row(side: str, what: str, most: float) -> Row:
        beyond = [1e6 * (one - none) for one, none in zip(found[side], found["nowhere"], strict=True)]
        return Row("k", f"{what}, µs", median(beyond), Target(most=most), note=f"{1 + count(WAY)} spans")

    sending = [1e6 * seconds for seconds in walkers["recorded"].elsewhere[1:]]
    rows = [
        row("no collector", "without a collector: processor time a message", 20),
        row("not drawn", "with a collector, a message that is not drawn: processor time", 40),
        row("recorded", "a message that is recorded: processor time of its own thread", 1000),
        Row("k", "a message that is recorded: processor time of the thread that sends, µs", median(sending)),
    ]
    write("k-tracing", rows, options)


if __name__ == "__main__":
    main()
