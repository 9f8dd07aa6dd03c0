"""Measures what lies between the nodes of a job, one rank on each, in the way a training would use it.

usage: network.py BACKEND SECONDS_TO_JOIN SECONDS_TO_LIVE
Ranks say what they do in their logs, among what their libraries say, in lines `UGRO-NETWORK {…}`: {"joined": RANK},
{"trying": [A, B]}, {"link": [A, B], …}, {"all_reduce": …}. Rates are in bytes per second, times in seconds. The whole
takes a few seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

MESSAGE = 16 * 1024 * 1024
PROBE = 256 * 1024
LINKS_SECONDS = 4.0
ALL_REDUCE_SECONDS = 1.5
MOST = 100  # round trips of one link

END, TAKE, GIVE = range(3)


def say(**facts: Any) -> None:
    """One line for who reads the log."""
    print("UGRO-NETWORK " + json.dumps(facts), flush=True)


class RankLink:
    """One end of the way between two ranks. One end asks, the other one serves."""

    def __init__(self, peer: int, device: torch.device) -> None:
        self.peer = peer
        self.words = torch.zeros(2, dtype=torch.int64, device=device)
        self.payload = torch.zeros(MESSAGE, dtype=torch.uint8, device=device)

    def ask(self, kind: int, size: int = 0) -> float:
        """Seconds until the other end has taken, or given, so many bytes."""
        started = time.perf_counter()
        dist.send(torch.tensor([kind, size], device=self.words.device), self.peer)
        if kind == TAKE:
            dist.send(self.payload[: size or 1], self.peer)
            dist.recv(self.words, self.peer)
        elif kind == GIVE:
            dist.recv(self.payload[:size], self.peer)
        self.words.tolist(), self.payload[0].item()  # on a GPU, this waits until all has happened
        return time.perf_counter() - started

    def serve(self) -> None:
        """Do what the other end asks for until it has enough."""
        while True:
            dist.recv(self.words, self.peer)
            kind, size = self.words.tolist()
            if kind == END:
                return
            if kind == TAKE:
                dist.recv(self.payload[: size or 1], self.peer)
                dist.send(self.words, self.peer)
            else:
                dist.send(self.payload[:size], self.peer)

    def round_trip(self, seconds: float) -> float:
        """Seconds that a small message needs there and back; the first one also opens the connection."""
        self.ask(TAKE)
        end = time.perf_counter() + seconds
        times = [self.ask(TAKE)]
        while len(times) < MOST and time.perf_counter() < end:
            times.append(self.ask(TAKE))
        return statistics.median(times)

    def rate(self, kind: int, seconds: float) -> float:
        """Bytes per second in one direction, with messages as large as the time allows."""
        end = time.perf_counter() + seconds
        size = PROBE
        rates: list[float] = []
        while not rates or (len(rates) < 6 and time.perf_counter() < end):
            rates.append(size / self.ask(kind, size))
            size = int(min(MESSAGE, max(PROBE, rates[-1] * seconds / 3)))
        return statistics.median(rates[1:] or rates)


def measure_links(rank: int, size: int, device: torch.device) -> float:
    """Every pair in turn while the others wait, so that they do not disturb each other. Returns the slowest rate."""
    pairs = list(itertools.combinations(range(size), 2))
    seconds = min(1.0, LINKS_SECONDS / len(pairs)) / 3
    slowest = float("inf")
    for pair in pairs:
        dist.barrier()
        if rank == pair[1]:
            RankLink(pair[0], device).serve()
        elif rank == pair[0]:
            say(trying=pair)
            link = RankLink(pair[1], device)
            round_trip = link.round_trip(seconds)
            there, back = link.rate(TAKE, seconds), link.rate(GIVE, seconds)
            link.ask(END)
            say(link=pair, round_trip=round_trip, there=there, back=back)
            slowest = min(slowest, there, back)
    return slowest


def measure_all_reduce(rank: int, size: int, device: torch.device, slowest: float) -> None:
    """Measure an exchange of gradients: the median time of as many as the slowest link allows in the time."""
    rate = torch.tensor(slowest, dtype=torch.float64, device=device)
    dist.all_reduce(rate, dist.ReduceOp.MIN)
    bytes_wanted = min(MESSAGE, rate.item() * ALL_REDUCE_SECONDS / 6)
    gradients = torch.zeros(max(1024, int(bytes_wanted / 4)), device=device)
    times: list[float] = []
    for _ in range(4):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradients)
        gradients[0].item()
        times.append(time.perf_counter() - started)
    if rank == 0:
        took, sent = statistics.median(times[1:]), gradients.numel() * 4
        say(all_reduce=sent, seconds=took, bus_rate=2 * (size - 1) / size * sent / took)


def main(backend: str, seconds_to_join: str, seconds_to_live: str) -> None:
    # A master that died ends nothing; this ends by itself.
    signal.alarm(int(seconds_to_live))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=int(seconds_to_join)))
    dist.barrier()
    say(joined=rank)
    slowest = measure_links(rank, size, device)
    measure_all_reduce(rank, size, device, slowest)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
