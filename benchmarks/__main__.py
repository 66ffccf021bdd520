"""`make bench`: unary echo, server on one core and load on the other.

Each server is measured in several rounds, in turn with the others, so that a machine that gets
slower does so for all. Reported are the median, the spread and the ratio to bare grpc.aio of the
same round. Needs `h2load` (Debian: nghttp2-client) and `taskset`.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.servers import METHOD, SERVERS

RESULTS = Path(__file__).parent / "results"
PEER = "grpc.aio"
MESSAGE = StringValue(value="hello, world!")


def main() -> None:
    """Measures, prints a table and writes `benchmarks/results/unary.json`."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds for each server (5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds for each round (3)")
    parser.add_argument("--only", nargs="*", help="names of servers; grpc.aio always runs")
    options = parser.parse_args()
    for tool in ("h2load", "taskset"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed (Debian: apt-get install nghttp2-client util-linux)")
    names = [name for name in SERVERS if not options.only or name in options.only or name == PEER]
    rates: dict[str, list[float]] = {name: [] for name in names}
    rounds = [name for _ in range(options.rounds) for name in names]
    for name in track(rounds, "measuring", console=Console(stderr=True)):
        rates[name].append(measure(name, options.seconds))
    report(rates, options.seconds)


def measure(name: str, seconds: int) -> float:
    """Requests a second of one server."""
    server = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.servers", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server, tempfile.NamedTemporaryFile() as body:
        try:
            assert server.stdout is not None  # noqa: S101  # it is a pipe
            port = int(server.stdout.readline())
            check(port)
            message = MESSAGE.SerializeToString()
            body.write(b"\0" + len(message).to_bytes(4, "big") + message)
            body.flush()
            done = subprocess.run(
                [
                    *("taskset", "-c", "1", "h2load", "-c10", "-m10"),
                    *(f"--duration={seconds}", "--warm-up-time=1", "-d", body.name),
                    *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                    *("-H", "user-id: bench", f"http://127.0.0.1:{port}{METHOD}"),
                ],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            server.terminate()
    if not re.search(r" 0 failed, 0 errored, 0 timeout", done.stdout):
        raise RuntimeError(f"{name}: calls failed\n{done.stdout}")
    found = re.search(r"finished in [^,]*, ([\d.]+) req/s", done.stdout)
    if found is None:
        raise RuntimeError(f"{name}: no rate in\n{done.stdout}")
    return float(found[1])


def check(port: int) -> None:
    """The server really answers: h2load does not look at gRPC's status."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        for _ in range(2):
            answer = call(MESSAGE, metadata=(("user-id", "bench"),), timeout=10)
            if answer != MESSAGE:
                raise RuntimeError(f"wrong answer: {answer}")


def report(rates: dict[str, list[float]], seconds: int) -> None:
    """Prints the table and writes the JSON."""
    table = Table(title="unary echo, requests a second; server on one core, load on the other")
    for column in ("server", "median", "lowest – highest", "÷ grpc.aio"):
        table.add_column(column, justify="left" if column == "server" else "right")
    rows = []
    for name, measured in rates.items():
        ratios = [rate / peer for rate, peer in zip(measured, rates[PEER], strict=True)]
        row = {
            "server": name,
            "median": round(statistics.median(measured)),
            "lowest": round(min(measured)),
            "highest": round(max(measured)),
            "ratio_to_grpc_aio": round(statistics.median(ratios), 3),
        }
        rows.append(row)
        table.add_row(
            name,
            f"{row['median']:,}",
            f"{row['lowest']:,} – {row['highest']:,}",
            f"{row['ratio_to_grpc_aio']:.2f}",
        )
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "unary.json").write_text(
        json.dumps(
            {
                "benchmark": "unary echo, h2load -c10 -m10, 13 bytes",
                "date": datetime.now(UTC).date().isoformat(),
                "python": platform.python_version(),
                "grpcio": grpc.__version__,
                "seconds_a_round": seconds,
                "rounds": len(rates[PEER]),
                "servers": rows,
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
