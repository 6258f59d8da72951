"""A simulated fleet under each fault: no camera ends on a bad model, and a good one arrives."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import CAMERAS, simulate
from rig import wait_until

MEMORY = Path("/dev/shm")  # where it keeps the cameras' disks
EXPECTED = {
    ("--model", "nan"): "not_a_number",
    ("--model", "crash"): "crashed",
    ("--model", "wrong"): "wrong_golden",
    ("--release", "signature"): "unknown_key",
    ("--release", "counter"): "old_counter",
}


@pytest.mark.parametrize(("fault", "reason"), EXPECTED.items(), ids=[f"{fault[1]}" for fault in EXPECTED])
def test_no_camera_ends_on_a_bad_release(mosquitto, fault: tuple[str, str], reason: str) -> None:
    figures = simulate(mosquitto.url, *fault, cameras=20)
    assert figures["phase"] == "paused", figures
    assert reason in figures["reason"]
    assert figures["committed"] == figures["on_new_model"] == 0


def test_chunks_that_are_cut_short_never_become_a_model(mosquitto) -> None:
    figures = simulate(mosquitto.url, "--release", "truncated", "--answer-s", 5)
    assert figures["phase"] == "paused", figures
    assert "no_answer" in figures["reason"]
    assert figures["on_new_model"] == 0


def test_agents_that_die_in_the_middle_go_on_where_they_were(mosquitto) -> None:
    figures = simulate(mosquitto.url, "--crash", 0.1, "--answer-s", 60, cameras=20)
    assert figures["phase"] in ("done", "paused")
    assert figures["on_new_model"] == figures["committed"], figures


def test_chunks_that_are_lost_are_sent_again(mosquitto) -> None:
    figures = simulate(mosquitto.url, "--loss", 0.2, "--answer-s", 200)
    assert figures["phase"] == "done", figures
    assert figures["on_new_model"] == CAMERAS


def test_slow_links_and_a_wrong_clock_only_take_longer(mosquitto) -> None:
    figures = simulate(mosquitto.url, "--link-kib-s", 40, "--clock-off-s", -1.7e9)
    assert figures["phase"] == "done", figures
    assert figures["on_new_model"] == CAMERAS


def test_two_cameras_of_one_name_stop_a_rollout(mosquitto) -> None:
    """Every name is that of two: so slow a link keeps the first wave's at work until they have thrown each other off a few times."""
    figures = simulate(mosquitto.url, "--duplicates", CAMERAS, "--answer-s", 120, "--link-kib-s", 2)
    assert figures["phase"] == "paused", figures
    assert "duplicate" in figures["reason"]


def test_nothing_is_left_on_the_broker(mosquitto) -> None:
    simulate(mosquitto.url)
    assert mosquitto.retained() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_on_the_broker_or_in_memory_by_one_that_is_ended(mosquitto, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "compose", "simulate", "--cameras", "3", "--soak-s", "60", "--broker", mosquitto.url]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # children of what a shell runs in the background would be deaf to it
    process = subprocess.Popen(command)
    signal.signal(signal.SIGINT, before)
    disks = f"maskfleet-simulate-{process.pid}-*"
    wait_until(lambda: any("/rollout/" in topic for topic in mosquitto.retained()), 60)
    assert list(MEMORY.glob(disks))
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert mosquitto.retained() == []
    assert not list(MEMORY.glob(disks))


def test_a_disk_that_takes_no_more_is_one_line() -> None:
    """Here, no file may be longer than 50 kB."""
    command = [sys.executable, "-m", "compose", "simulate", "--cameras", "1", "--size", "1000000"]
    done = subprocess.run(["prlimit", "--fsize=50000", *command], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "error: File too large\n")
