"""The tests' own tools: what keeps them from other machines, and what tells their time."""

from __future__ import annotations

import socket

import budget_plugin
import network_guard
import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", b"example.org"])
def test_reaching_for_another_machine_fails_the_test(host):
    with pytest.raises(pytest.fail.Exception, match="this test reached for"):
        socket.create_connection((host, 80), timeout=1)


def test_a_datagram_to_another_machine_fails_the_test():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(pytest.fail.Exception):
        sender.sendto(b"x", ("192.0.2.1", 53))


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_a_marked_test_may_reach_out():
    with network_guard.allowed(), pytest.raises(OSError, match=r".*"):
        socket.getaddrinfo("does-not-exist.invalid", 80)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tests/unit/runs/test_compare.py::test_x[a/b]", "unit"),
        ("tests/parity/test_y.py::test_z", "parity"),
        ("tests/test_q.py::test_z", "other"),
    ],
)
def test_the_part_of_a_test_is_its_first_folder(name, part):
    assert budget_plugin.part_of(name) == part
