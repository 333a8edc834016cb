"""Fair timing: turns, spreads, threads, and stopping early. No test depends on a measured time."""

import gc
import math
import signal

import pytest
import torch

from sasa.speed import Stop, StopMeasuringError, ratios, spread, take_turns, torch_threads
from sasa.speed.timing import LEAST_ROUNDS


def test_spread_and_ratios():
    assert ratios([1.0, 2.0], [2.0, 8.0]) == [0.5, 0.25]
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.lower, found.median, found.upper) == (2.0, 3.0, 4.0)
    assert spread([7.0]).lower == spread([7.0]).upper == 7.0


def test_sides_take_turns_in_a_rotating_order():
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abc"}
    times = take_turns(steps, rounds=3, seconds=math.inf, warmups=1)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


class Clock:
    """A clock that only the tests advance."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def step(self, seconds):
        def take():
            self.now += seconds

        return take


@pytest.mark.parametrize(
    ("seconds_of_a_call", "warmups", "rounds"),
    [
        (0.1, 2, 15),  # a fast machine: all of them
        (1.0, 2, 9),  # 4 seconds of warm-up, then rounds of 2 until more than 20 have passed
        (3.0, 1, LEAST_ROUNDS),  # the second warm-up and the fourth round are not started
        (60.0, 1, LEAST_ROUNDS),
    ],
)
def test_slower_machines_take_fewer_rounds(seconds_of_a_call, warmups, rounds):
    clock, called = Clock(), []
    ours = clock.step(seconds_of_a_call)
    steps = {"ours": lambda: (called.append(1), ours()), "baseline": clock.step(seconds_of_a_call)}
    times = take_turns(steps, rounds=15, seconds=20, warmups=2, clock=clock)
    assert {name: len(values) for name, values in times.items()} == {"ours": rounds, "baseline": rounds}
    assert len(called) == warmups + rounds
    assert times["ours"] == pytest.approx([seconds_of_a_call] * rounds)


def test_garbage_collection_is_off_in_a_turn():
    seen = []
    take_turns({"a": lambda: seen.append(gc.isenabled())}, rounds=1, seconds=60, warmups=0)
    assert seen == [False]
    assert gc.isenabled()


def test_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_stops_a_measurement(number, reason):
    before = signal.getsignal(number)
    with Stop() as stop:
        with pytest.raises(StopMeasuringError, match=reason), stop.measuring():
            signal.raise_signal(number)
        with pytest.raises(StopMeasuringError, match=reason), stop.measuring():
            raise AssertionError("no further measurement begins")
    assert signal.getsignal(number) is before
    assert (stop.signal_number, stop.reason) == (number, reason)


def test_a_signal_between_measurements_stops_the_next_one():
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopMeasuringError, match="SIGTERM"), stop.measuring():
            raise AssertionError("no measurement begins")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_the_end_of_the_budget_is_not_a_signal():
    with Stop(seconds=1000) as stop:
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        with pytest.raises(StopMeasuringError, match="the budget of 1000 seconds has passed"), stop.measuring():
            signal.raise_signal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert stop.signal_number is None
