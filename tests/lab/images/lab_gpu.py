# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for one GPU: lab_gpu.py PORT BUDGET_MIB

ggml's RPC server offers the CPU as a device, with an allocator of its own, but it serves one client at a time, and the
models of a router are many clients. So this takes the clients' connections, starts a real ggml-rpc-server for each,
and shares one budget of memory among them: what one holds, the others cannot have, as on a card. An allocation that
goes beyond it fails cleanly. The device still reports the machine's memory as its own; only the budget is the card's.
"""

import asyncio
import contextlib
import os
import resource
import socket
import sys

SERVER = "/usr/libexec/lab-gpu/ggml-rpc-server"
MIB = 1024 * 1024
QUIET = asyncio.subprocess.DEVNULL


def data_of(pid: int) -> int:
    """Bytes of a process that RLIMIT_DATA counts; 0 when it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


class Card:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.idle: dict[int, int] = {}  # each server's process, and what it took before it had a client

    def share(self) -> None:
        """Let every server grow by what is left of the budget, and by no more."""
        now = {pid: data_of(pid) for pid in self.idle}
        left = max(0, self.budget - sum(max(0, now[pid] - idle) for pid, idle in self.idle.items()))
        for pid, data in now.items():
            with contextlib.suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_DATA, (data + left, resource.RLIM_INFINITY))

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = await asyncio.create_subprocess_exec(
            SERVER,
            "-H",
            "127.0.0.1",
            "-p",
            str(port),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            request, reply = await self.connect(port)
            self.idle[server.pid] = data_of(server.pid)
            self.share()
            ends = [asyncio.create_task(pipe(client, reply)), asyncio.create_task(pipe(request, answer))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        except OSError as error:
            print(f"client lost: {error}", file=sys.stderr)
        finally:
            self.idle.pop(server.pid, None)
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            await server.wait()
            answer.close()

    @staticmethod
    async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _attempt in range(200):
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.02)
        raise OSError(f"{SERVER} did not listen")

    async def run(self, port: int) -> None:
        async with await asyncio.start_server(self.serve, "127.0.0.1", port):
            tell_systemd("READY=1")
            while True:
                await asyncio.sleep(0.05)
                self.share()


def tell_systemd(state: str) -> None:
    """A router that starts before its card listens would abort."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)


async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(MIB):
            sink.write(data)
            await sink.drain()


if __name__ == "__main__":
    asyncio.run(Card(int(sys.argv[2]) * MIB).run(int(sys.argv[1])))
