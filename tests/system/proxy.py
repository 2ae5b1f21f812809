"""A proxy between two of our nodes (or a node and an upstream) that misbehaves on command: delay, stall, cut, half-close,
loss of bytes. TCP on loopback; one thread a direction.

    with Proxy(("127.0.0.1", 7100)) as proxy:
        ... connect to proxy.address ...
        proxy.stall()      # both directions stand still; connections stay open
        proxy.flow()       # and go on
        proxy.cut()        # every connection is reset; new ones are refused until flow()
"""
import socket
import struct
import threading
import time


class Proxy:
    def __init__(self, target, delay_s=0.0):
        self.target, self.delay_s = target, delay_s
        self.flowing, self.refusing, self.closing = threading.Event(), False, False
        self.garble = 0  # flip a bit in so many of the next pieces that go down
        self.flowing.set()
        self.pairs = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing = True
        self.listener.close()
        self.cut()
        self.flowing.set()

    @property
    def endpoint(self):
        return f"tcp://{self.address[0]}:{self.address[1]}"

    def _accept(self):
        while not self.closing:
            try:
                below, _ = self.listener.accept()
            except OSError:
                return
            if self.refusing:
                self._reset(below)
                continue
            try:
                above = socket.create_connection(self.target, 5)
            except OSError:
                self._reset(below)
                continue
            with self.lock:
                self.pairs.append((below, above))
            threading.Thread(target=self._pump, args=(below, above, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(above, below, True), daemon=True).start()

    def _pump(self, source, sink, down):
        try:
            while data := source.recv(65536):
                self.flowing.wait()
                if self.delay_s:
                    time.sleep(self.delay_s)
                if down and self.garble > 0:
                    self.garble -= 1
                    data = bytes([data[0] ^ 0x40]) + data[1:]
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    @staticmethod
    def _reset(connection):
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        except OSError:
            pass

    def stall(self):
        self.flowing.clear()

    def flow(self):
        self.refusing = False
        self.flowing.set()

    def cut(self):
        self.refusing = True
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for connection in pair:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                self._reset(connection)
