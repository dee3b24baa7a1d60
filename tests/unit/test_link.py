"""The worker's end of the control connection."""

import socket
import threading
from typing import Any

import pytest

from streamline.codec import encode
from streamline.runtime.link import COORDINATOR_GONE, LENGTH, ControlLink, Progress


@pytest.mark.parametrize("cut", [3, LENGTH.size, LENGTH.size + 2])
def test_a_message_cut_short_means_that_the_coordinator_is_gone(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    over = threading.Event()

    def ends(status: int) -> None:
        ended.append(status)
        over.set()

    monkeypatch.setattr("streamline.runtime.link.os._exit", ends)
    seen: list[Any] = []
    data = encode({"a": "message"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = ControlLink(
            server.getsockname(), on_message=seen.append, progress=lambda: Progress(0, {}, {}, {})
        )
        peer, _ = server.accept()
        whole = LENGTH.pack(len(data)) + data
        peer.sendall(whole + whole[:cut])
        peer.close()
        reading = threading.Thread(target=link._receive)
        reading.start()
        assert over.wait(10)
        reading.join()
        link._socket.close()
    assert seen == [{"a": "message"}]
    assert ended == [COORDINATOR_GONE]
