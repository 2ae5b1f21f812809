"""A bad network between the tiers: the proxy delays, stalls and cuts what flows between an edge and its region."""
import socket

import pytest

from ladder import scripted, until
from proxy import Proxy
from test_failures import first_words, rest_of

WORDS = " ".join(f"w{i}" for i in range(60))
UP = {"policy": {"threshold": {"edge": 1.0, "region": 0.0}}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def far(ladder):
    """(edge, proxy, region): the region is reached through the proxy only."""
    port = free_port()
    region = ladder.region(zmq={"listen": f"tcp://127.0.0.1:{port}", "plain_loopback": True},
                           backends=[scripted("mid", "region", WORDS, delay_ms=10)])
    with Proxy(("127.0.0.1", port)) as proxy:
        edge = ladder.edge(zmq={"plain_loopback": True}, **UP, backends=[
            scripted("small", "edge", "from the device"),
            {"name": "region", "type": "peer", "connect": proxy.endpoint}])
        edge.until_tiers("region")
        yield edge, proxy, region


def test_a_slow_network_only_slows(far):
    edge, proxy, _ = far
    proxy.delay_s = 0.02
    reply = edge.chat(stream=True)
    assert reply.text == WORDS and reply.done


def test_a_stalled_network_is_noticed_and_the_edge_answers(far):
    edge, proxy, _ = far
    proxy.stall()
    until(lambda: not edge.ready()["tiers"].get("region"), "the edge sees that the region is silent")
    reply = edge.chat()
    assert reply.text == "from the device" and reply.rung["degraded"] is True
    proxy.flow()
    edge.until_tiers("region")
    assert edge.chat().text == WORDS


def test_a_cut_in_the_middle_of_a_stream_ends_it_with_an_error_and_the_next_one_works(far):
    edge, proxy, region = far
    connection, response = edge.open_stream()
    seen = first_words(response, 5)
    proxy.cut()
    reply = rest_of(seen, response)
    # The text goes on from another backend that can, or the client is told; it never just stops.
    assert (reply.done and reply.finish == "stop") or (reply.error and not reply.done)
    assert WORDS.startswith(reply.text) or reply.text.endswith("from the device")
    proxy.flow()
    edge.until_tiers("region")
    assert edge.chat().text == WORDS
    until(lambda: region.metric("rung_requests_running") == 0, "the region let go of the cut request")


def test_garbage_from_the_network_costs_one_connection_at_most(far):
    edge, proxy, _ = far
    proxy.garble = 3
    edge.chat()
    until(lambda: proxy.garble == 0, "the garbage went through")
    edge.until_tiers("region")
    assert until(lambda: edge.chat().text == WORDS, "the region answers again")
