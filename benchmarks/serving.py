"""The server beside the limit of its own model: throughput and latency at several concurrencies, and memory.

    python benchmarks/serving.py EXPORT IMAGES [--rounds 5] [--seconds 4] [--memory] [--csv FILE]

EXPORT is saved_models/NAME/VERSION, IMAGES a folder of JPEG files. At a concurrency C, C connections each send one
image after another as `:predict` with {"b64": ...}. The limit is what the same signature answers in a process that does
nothing else: the better of C threads that ask for one image each, and of one thread that asks for batches of C (at most
32). Server and limit take turns; the ratio of a turn is that to the mean of the limits before and after it, and the
median counts. The client is a process of its own, on the same cores. With `--memory`, 50,000 requests follow.
"""

import argparse
import asyncio
import base64
import csv
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

CONCURRENCIES = (1, 8, 32, 128)
MOST = 32  # images in a batch
COLUMNS = (
    "concurrency", "limit_per_second", "server_per_second", "ratio", "lowest", "highest", "p50_ms", "p99_ms", "rounds",
)  # fmt: skip


def limit(export, images, orders, results):
    """A process that answers in turns: it takes (concurrency, seconds), and gives images per second."""
    from kerazoo.startup import start_tensorflow

    start_tensorflow(keras=False)
    from kerazoo.exports.saved_model import ExportedModel

    model = ExportedModel(export)
    contents = [Path(file).read_bytes() for file in images]
    for count in (1, 8, MOST):
        model.outputs(contents[:count])
    results.put(0)
    for concurrency, seconds in iter(orders.get, None):
        ways = [by_threads] if concurrency == 1 else [by_threads, by_batches]
        results.put(max(way(model, contents, concurrency, seconds / len(ways)) for way in ways))


def by_threads(model, contents, concurrency, seconds):
    done = [0] * concurrency
    end = time.perf_counter() + seconds

    def work(number):
        while time.perf_counter() < end:
            model.outputs([contents[(number * 31 + done[number]) % len(contents)]])
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(concurrency)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def by_batches(model, contents, concurrency, seconds):
    size = min(concurrency, MOST)
    done = 0
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        at = done % (len(contents) - size)
        model.outputs(contents[at : at + size])
        done += size
    return done / (time.perf_counter() - start)


class Connection(asyncio.Protocol):
    """Sends the next request when an answer is whole. `times` are seconds of each."""

    def __init__(self, requests, number, client):
        self.requests = requests
        self.number = number
        self.client = client
        self.times = []
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport
        self.send()

    def send(self):
        if self.client.over():
            self.transport.close()
            return
        self.start = time.perf_counter()
        self.transport.write(self.requests[(self.number * 31 + len(self.times)) % len(self.requests)])

    def data_received(self, data):
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found or len(rest) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self.buffer[:300])
        self.buffer = b""
        self.times.append(time.perf_counter() - self.start)
        self.send()

    def connection_lost(self, error):
        self.client.ended(error)


class Client:
    """`concurrency` connections for some seconds, or until some number of answers."""

    def __init__(self, requests, concurrency, seconds=None, answers=None):
        self.requests = requests
        self.concurrency = concurrency
        self.seconds = seconds
        self.answers = answers
        self.open = concurrency

    def over(self):
        if self.answers is not None:
            return sum(len(one.times) for one in self.all) >= self.answers
        return time.perf_counter() > self.begun + self.seconds

    def ended(self, error):
        self.open -= 1
        if error or not self.open:
            self.end.set_result(error)

    async def run(self, host, port):
        loop = asyncio.get_running_loop()
        self.end = loop.create_future()
        self.all = [Connection(self.requests, number, self) for number in range(self.concurrency)]
        self.begun = time.perf_counter()
        for one in self.all:
            await loop.create_connection(lambda one=one: one, host, port)
        error = await self.end
        if error:
            raise error
        elapsed = time.perf_counter() - self.begun
        times = sorted(seconds for one in self.all for seconds in one.times)
        return len(times) / elapsed, times[len(times) // 2], times[int(len(times) * 0.99)]


def ask(place, images, orders, results):
    """The client's process: it takes (concurrency, seconds, answers), and gives what `Client.run` does."""
    import uvloop

    name, host, port = place
    requests = []
    for file in images:
        body = json.dumps({"instances": [{"b64": base64.b64encode(Path(file).read_bytes()).decode()}]}).encode()
        head = f"POST /v1/models/{name}:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)
    results.put(0)
    for concurrency, seconds, answers in iter(orders.get, None):
        results.put(uvloop.run(Client(requests, concurrency, seconds, answers).run(host, port)))


class Worker:
    """A process with a function that takes orders."""

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("spawn")
        self.orders, self.results = context.Queue(), context.Queue()
        self.process = context.Process(target=function, args=(*arguments, self.orders, self.results), daemon=True)
        self.process.start()
        self.results.get()

    def __call__(self, *order):
        self.orders.put(order)
        return self.results.get()


def memory(pid):
    """MB of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--options", nargs="*", default=[], help="more flags of kerazoo serve, without --")
    arguments = parser.parse_args()
    images = [str(path) for path in sorted(arguments.images.rglob("*.jp*g"))][:256]
    options = [text for option in arguments.options for text in f"--{option}".split("=")]
    command = [sys.executable, "-m", "kerazoo", "serve", str(arguments.export), "--port", "0", "--json", *options]
    with Path(os.devnull).open("w") as nothing:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=nothing, text=True)
    try:
        address = urlsplit(json.loads(server.stdout.readline())["http"])
        here = Worker(limit, str(arguments.export), images)
        there = Worker(ask, (arguments.export.parent.name, address.hostname, address.port), images)
        rows = [measure(here, there, concurrency, arguments) for concurrency in CONCURRENCIES]
        about = {"cores": os.cpu_count(), "machine": platform.machine(), "tensorflow": tensorflow_version()}
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *about], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | about for row in rows)
        if arguments.memory:
            print_memory(server.pid, there)
    finally:
        server.terminate()
        print("exit code", server.wait())


def measure(here, there, concurrency, arguments):
    there(concurrency, 2, None)
    limits, found = [], []
    for _ in range(arguments.rounds):
        limits.append(here(concurrency, arguments.seconds))
        found.append(there(concurrency, arguments.seconds, None))
    limits.append(here(concurrency, arguments.seconds))
    # each turn of the server stands between two of the limit
    ratios = [2 * one[0] / (before + after) for one, before, after in zip(found, limits, limits[1:], strict=False)]
    row = dict(
        zip(
            COLUMNS,
            (
                concurrency, round(statistics.median(limits), 1), round(statistics.median(one[0] for one in found), 1),
                round(statistics.median(ratios), 3), round(min(ratios), 3), round(max(ratios), 3),
                round(1000 * statistics.median(one[1] for one in found), 1),
                round(1000 * statistics.median(one[2] for one in found), 1), arguments.rounds,
            ),
            strict=True,
        )
    )  # fmt: skip
    print(row, flush=True)
    return row


def print_memory(pid, there):
    done = 0
    for total in (5_000, 20_000, 35_000, 50_000):
        there(32, None, total - done)
        done = total
        print(f"{total:,} requests: {memory(pid):.0f} MB", flush=True)


def tensorflow_version():
    import importlib.metadata

    return importlib.metadata.version("tensorflow")


if __name__ == "__main__":
    main()
