"""What runs, reports and advises opens no socket."""
import socket

import pytest

from w2snb.experiments.running import recommend, run
from w2snb.reporting.regenerating import report


@pytest.fixture
def no_sockets(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "create_server", "socketpair", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)


def test_the_net_holds(no_sockets):
    with pytest.raises(AssertionError, match="a socket was opened"):
        socket.create_connection(("localhost", 9), timeout=1)


def test_a_run(no_sockets, tmp_path):
    assert run("digits", "acd", store=tmp_path, epochs=1, train_size=64, device="cpu", progress=False).id


def test_a_report(no_sockets, tmp_path):
    assert report(["digits_labels"], tmp_path, notebooks=False).exists()


def test_advice(no_sockets, tmp_path):
    assert len(recommend("digits-random_cnn_from_pixels", epochs=1, store=tmp_path, device="cpu", progress=False)) == 20
