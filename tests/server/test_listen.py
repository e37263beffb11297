"""The listening socket keeps little unsent video in the kernel and says where it is."""

from __future__ import annotations

import socket

import pytest

from ultraflash.server.errors import BadOption
from ultraflash.server.listen import UNSENT_BYTES, address_of, listening_socket


def test_accepted_connections_hold_little_unsent_data() -> None:
    with listening_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            unsent = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert unsent == UNSENT_BYTES


def test_the_address_is_what_a_person_would_type() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener) == f"http://127.0.0.1:{port}/"
    with listening_socket("0.0.0.0", 0) as listener:
        assert address_of(listener).startswith("http://127.0.0.1:")


def test_a_taken_port_or_a_foreign_address_is_an_option_error() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BadOption, match=str(port)):
            listening_socket("127.0.0.1", port)
    with pytest.raises(BadOption, match=r"203\.0\.113\.1"):
        listening_socket("203.0.113.1", 0)
