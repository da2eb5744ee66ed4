"""The sending and receiving itself: one thread, one epoll, all connections.

A plain epoll loop on purpose. Most of its time is the kernel's TCP, which no other interface saves:
a loop of the same kind in C takes two thirds of its CPU time. An io_uring whose rings numpy fills
and reads is faster on hundreds of connections and far slower on ten; one whose rings Python itself
fills and reads (multishot receives, IORING_SETUP_DEFER_TASKRUN) takes a quarter to a third less on
10 to 256 connections, but needs Linux 6.1, and this loop would have to stand beside it for older
kernels and for whatever is rare. What can be done a column at a time (comparing replies, counting
latencies) is.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from servers.load_lanes import Lane, Lanes, failure
from servers.load_messages import WINDOWS, Message, Messages
from servers.load_options import Address, LoadError, LoadOptions
from servers.load_schedule import due_times
from servers.load_tally import Connected, Tally
from servers.load_timer import NEVER, SECOND, Timer

__all__ = ("Engine",)

BATCH = 256  # replies compared at once: a pause of 30 us, and 0.1 us for each of them
LARGE = 16_384  # bytes; from here on replies are compared piece by piece, and never gathered
SCRATCH = 1 << 20
EVENTS = 1024
RENEWED_TIMEOUTS = 3  # after which a server is given up that takes messages and never answers
QUIET_S = 0.05  # how often time limits are looked at


class Engine:
    """Makes one process' share of a load: `connect`, then `run`, once."""

    def __init__(self, address: Address, options: LoadOptions) -> None:
        self.options = options
        self.lanes = Lanes(address)
        self.tally = Tally(errors=self.lanes.errors)
        self.suffix = options.suffix.encode()
        self.renews = options.per_request or address.transport == "udp"
        self.datagrams = address.transport == "udp"
        self.gap_ns = None if options.byte_gap_us is None else options.byte_gap_us * 1000
        self.kinds = [Messages(size, self.suffix, options.seed) for size in options.sizes]
        order = np.random.default_rng(options.seed).integers(0, len(self.kinds), WINDOWS)
        messages = [self.kinds[kind].all[k] for k, kind in enumerate(order)]
        self.next_message = itertools.cycle(messages).__next__
        self.busy = [Lane(quota) for quota in self._quotas()]
        self.idle = [Lane(idle=True) for _ in range(options.idle)]
        self.unfinished = len(self.busy)
        self.free: deque[Lane] = deque()  # open loop: lanes that could send
        self.again: list[Lane] = []  # lanes that failed and go on with their next message
        self.typing: list[tuple[int, int]] = []  # heap of (when, fd): next byte of slow senders
        self.took: list[int] = []
        self.start = self.replied = self.progress = 0
        self.end = self.cutoff = self.next_due = NEVER
        self.draining = False
        self.schedule: Iterator[int] | None = None
        self.timer = Timer()
        self.scratch = memoryview(bytearray(SCRATCH))
        self.pieces = np.frombuffer(self.scratch, np.uint8)
        self.go_on = self._go_on_closed if options.rate is None else self._go_on_open
        self.take_next = self._renew if options.per_request else self.go_on

    def _quotas(self) -> list[int]:
        options = self.options
        if options.messages is None or options.rate is not None:
            return [NEVER] * options.connections
        share, more = divmod(options.messages, options.connections)
        return [share + (k < more) for k in range(options.connections)]

    def connect(self) -> Connected:
        """Connect the busy ones, then the idle ones; raise LoadError if none can be made.

        An idle one must not stand before a busy one at a server that takes one after the other:
        where busy ones are still trying, idle ones are not begun. With a connection per request
        the busy ones are made later.
        """
        lanes, busy = self.lanes, [] if self.options.per_request else self.busy
        lanes.connect(busy)
        if not lanes.pending:
            lanes.connect(self.idle)
        stand = sum(lane.connected for lane in busy)
        idle = sum(lane.connected for lane in self.idle)
        if stand + idle == 0 and (busy or self.idle):
            cause = " and ".join(lanes.errors).replace("connecting: ", "") or "no answer"
            raise LoadError(f"{lanes.address.label}: {cause}; is the server running there?")
        return Connected(stand, idle, lanes.pending)

    def run(self, at_ns: int | None = None, control: int = -1) -> Tally:
        """Make the load from `at_ns` (CLOCK_MONOTONIC; None: now) on, close all, return the tally.

        Anything to read on the descriptor `control` ends the period early, its end the run.
        """
        options, tally = self.options, self.tally
        self.control = control
        if control >= 0:
            self.lanes.epoll.register(control, select.EPOLLIN)
        self.lanes.epoll.register(self.timer.fd, select.EPOLLIN)
        gc.disable()
        self.start = time.monotonic_ns() if at_ns is None else at_ns
        period_end = NEVER if options.duration is None else int(options.duration * SECOND)
        self.end = min(NEVER, self.start + period_end)
        self.cutoff = self.end + int(options.timeout * SECOND)
        period_end = self.end
        if options.rate is not None:
            due = due_times(options, self.start, self.end)
            self.schedule = itertools.islice(due, options.messages)
            self.next_due = next(self.schedule, NEVER)
        time.sleep(max(0, self.start - time.monotonic_ns()) / SECOND)
        cpu = time.process_time()
        tally.started_ns = self.start
        self.progress = self.replied = time.monotonic_ns()
        self.lanes.unmute()
        for lane in self.busy:
            if lane.connected or options.per_request:
                self.take_next(lane, time.monotonic_ns())
            elif lane.socket is None and lane not in self.lanes.turned_away:
                self.unfinished -= 1  # failed already while connecting, and was counted
        self._loop()
        self._compare()
        tally.cpu_s = time.process_time() - cpu
        tally.stopped_ns = self.replied
        if period_end != NEVER and self.end == period_end:
            tally.stopped_ns = max(self.replied, period_end)
        tally.unsent = self._count_unsent()
        tally.idle_open = self._count_idle()
        tally.connections_served = sum(lane.served for lane in self.busy)
        tally.connections_made = self.lanes.made
        gc.enable()
        self.close()
        return tally

    def _count_unsent(self) -> int:
        """Return how many messages were due, or asked for by number, and were not begun."""
        if self.options.duration is None:
            begun = sum(self._quotas()) - sum(lane.left for lane in self.busy)
            return (self.options.messages or 0) - begun
        if self.schedule is None:
            return 0
        rest = itertools.chain([self.next_due], self.schedule)
        return sum(1 for _ in itertools.takewhile(self.end.__gt__, rest))

    def _count_idle(self) -> int:
        """Return how many idle connections the server has left open."""
        if self.idle:
            for fd, mask in self.lanes.epoll.poll(0, len(self.lanes.by_fd) + 1):
                lane = self.lanes.by_fd.get(fd)
                if lane is not None and lane.idle:
                    self._rare_event(lane, mask)
        return sum(lane.connected for lane in self.idle)

    def close(self) -> None:
        """Close every socket."""
        for lane in (*self.busy, *self.idle):
            self.lanes.close(lane)
        self.lanes.epoll.close()
        if self.timer.fd >= 0:
            os.close(self.timer.fd)
            self.timer.fd = -1

    def _loop(self) -> None:
        poll, by_fd, now = self.lanes.epoll.poll, self.lanes.by_fd, time.monotonic_ns
        took, readable = self.took, select.EPOLLIN
        next_check = 0
        while self.unfinished > 0:
            at = now()
            if self.again:
                again, self.again = self.again, []
                for renewed in again:
                    self.take_next(renewed, at)
            if self.typing:
                self._type(at)
            if self.schedule is not None:
                self._send_due(at)
            if len(took) >= BATCH:
                self._compare()
            if at >= next_check:
                self._check_limits(at)
                next_check = at + int(QUIET_S * SECOND)
            if self.typing or self.free:
                typing = self.typing[0][0] if self.typing else NEVER
                self.timer.set(min(typing, self.next_due) if self.free else typing)
            for fd, mask in poll(0 if self.again else QUIET_S, EVENTS):
                lane = by_fd.get(fd)
                if lane is None:
                    self._own_event(fd)
                    continue
                message = lane.message
                if mask != readable or message is None or lane.got or message.due >= LARGE:
                    self._rare_event(lane, mask)
                    continue
                kind, window, _, due = message
                try:
                    reply = lane.recv(due + 1)  # one more, to see a reply that is too long
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._fail(lane, failure(error))
                    continue
                at = now()
                if len(reply) != due:
                    self._take_piece(lane, np.frombuffer(reply, np.uint8), at)
                    continue
                kind.replies.append(reply)
                kind.windows.append(window)
                took.append(at - lane.started)
                lane.message = None
                lane.served = True
                self.replied = at
                self.take_next(lane, at)

    # A lane's next message

    def _renew(self, lane: Lane, at: int) -> None:
        self.lanes.close(lane)
        self.go_on(lane, at)

    def _go_on_closed(self, lane: Lane, at: int) -> None:
        if lane.left > 0 and at < self.end:
            self._begin(lane, at)
        else:
            self._finish(lane)

    def _go_on_open(self, lane: Lane, at: int) -> None:
        if self.draining:
            self._finish(lane)
        else:
            self.free.append(lane)

    def _finish(self, lane: Lane) -> None:
        self.lanes.close(lane)
        self.unfinished -= 1

    def _send_due(self, at: int) -> None:
        """Begin the messages that are due, as far as lanes are free."""
        assert self.schedule is not None
        free = self.free
        while free and self.next_due <= at and self.next_due < self.end:
            self._begin(free.popleft(), self.next_due)
            self.next_due = next(self.schedule, NEVER)
        if (self.next_due >= self.end or at >= self.cutoff) and not self.draining:
            self.draining = True
            while free:
                self._finish(free.popleft())

    def _begin(self, lane: Lane, at: int) -> None:
        """Send the next message, as far as the socket takes it."""
        lane.left -= 1
        message = lane.message = self.next_message()
        request = message.request
        lane.started = at
        if not lane.connected or self.gap_ns is not None:
            self._begin_later(lane, request)
            return
        try:
            sent = lane.send(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(lane, failure(error))
            return
        if sent < len(request):
            lane.unsent = request[sent:]
            self.lanes.epoll.modify(lane.fd, select.EPOLLIN | select.EPOLLOUT)

    def _begin_later(self, lane: Lane, request: memoryview) -> None:
        lane.unsent = request
        if lane.connected:
            heapq.heappush(self.typing, (lane.started, lane.fd))
        elif not self.lanes.open(lane):
            self._fail(lane, None)
        elif lane.connected:
            self._stands(lane)

    def _stands(self, lane: Lane) -> None:
        """Put a lane to work that came to stand while the load runs."""
        self.progress = time.monotonic_ns()
        if lane.idle:
            return
        if lane.message is None:
            self.take_next(lane, self.progress)
        elif self.gap_ns is not None:
            heapq.heappush(self.typing, (self.progress, lane.fd))
        else:
            self._send_rest(lane)

    def _send_rest(self, lane: Lane) -> None:
        assert lane.unsent is not None
        try:
            sent = lane.send(lane.unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(lane, failure(error))
            return
        self.progress = time.monotonic_ns()
        left = lane.unsent[sent:]
        lane.unsent = left if len(left) else None
        mask = select.EPOLLIN if lane.unsent is None else select.EPOLLIN | select.EPOLLOUT
        self.lanes.epoll.modify(lane.fd, mask)

    def _type(self, at: int) -> None:
        """Send the bytes of slow senders that are due."""
        assert self.gap_ns is not None
        while self.typing and self.typing[0][0] <= at:
            _, fd = heapq.heappop(self.typing)
            lane = self.lanes.by_fd.get(fd)
            if lane is None or lane.unsent is None:
                continue
            try:
                sent = lane.send(lane.unsent[:1])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._fail(lane, failure(error))
                continue
            self.progress = at
            left = lane.unsent[sent:]
            lane.unsent = left if len(left) else None
            if lane.unsent is not None:
                heapq.heappush(self.typing, (at + self.gap_ns, fd))

    # Replies

    def _rare_event(self, lane: Lane, mask: int) -> None:
        """Handle connecting, sending on, failing, and replies that are large or in pieces."""
        if not lane.connected:
            reason = self.lanes.settle(lane, mask)
            if reason is not None:
                self._fail(lane, reason)
            elif lane.connected:
                self._stands(lane)
            return
        if mask & select.EPOLLOUT and lane.unsent is not None:
            self._send_rest(lane)
        if mask & ~select.EPOLLOUT and lane.socket is not None:
            try:
                got = lane.socket.recv_into(self.scratch)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(lane, failure(error))
                return
            self._take_piece(lane, self.pieces[:got], time.monotonic_ns())

    def _take_piece(
        self, lane: Lane, piece: np.ndarray[tuple[int], np.dtype[np.uint8]], at: int
    ) -> None:
        """Compare a part of a reply, and see whether the reply is whole."""
        self.progress = at
        if len(piece) == 0 and not self.datagrams:
            self._fail(lane, "closed by server")
        elif lane.message is None:
            self._fail(lane, "data that nobody asked for")
        elif self.suffix:
            self._take_suffixed(lane, lane.message, piece.tobytes(), at)
        else:
            message = lane.message
            end = lane.got + len(piece)
            if end > message.due or (self.datagrams and end < message.due):
                self._fail(lane, "wrong reply")
                return
            same = bool(np.array_equal(piece, message.expected[lane.got : end]))
            lane.good = same and (lane.got == 0 or lane.good)
            lane.got = end
            if end == message.due:
                self._judge(lane, message, at)

    def _take_suffixed(self, lane: Lane, message: Message, piece: bytes, at: int) -> None:
        """Take a reply whose parts may each carry the suffix; no message contains it."""
        lane.raw = lane.raw + piece if lane.got else bytearray(piece)
        lane.got = len(lane.raw)
        if lane.got < message.due or not lane.raw.endswith(self.suffix):
            return
        text = lane.raw.replace(self.suffix, b"")
        if len(text) > message.size:
            self._fail(lane, "wrong reply")
        elif len(text) == message.size:
            lane.good = text == message.expected.tobytes()
            self._judge(lane, message, at)

    def _judge(self, lane: Lane, message: Message, at: int) -> None:
        """Count a whole reply that came in pieces, and go on."""
        self._count(lane.good, not lane.good, message.size, lane.got)
        self.took.append(at - lane.started)
        lane.got = 0
        lane.message = None
        lane.served = True
        self.replied = at
        self.take_next(lane, at)

    def _compare(self) -> None:
        """Compare the replies gathered so far, and count their latencies."""
        for kind in self.kinds:
            self._count(*kind.compare(), kind.size, kind.reply_size)
        self.tally.latencies.add(self.took)
        self.took.clear()

    def _count(self, right: int, wrong: int, size: int, reply_size: int) -> None:
        self.tally.messages += right + wrong
        self.tally.bytes_sent += (right + wrong) * size
        self.tally.bytes_received += (right + wrong) * reply_size
        self.tally.verified += right
        self.tally.errors["wrong reply"] += wrong

    # Trouble

    def _fail(self, lane: Lane, reason: str | None) -> None:
        """Count a failure (None: it is counted) and end the lane, or renew it where lanes are."""
        if reason is not None:
            where = "idle: " if lane.idle else "between messages: " if lane.message is None else ""
            self.tally.errors[where + reason] += 1
        was_free = not lane.idle and lane.message is None and lane.connected
        if lane.message is not None:
            self.tally.bytes_sent += lane.message.size - len(lane.unsent or b"")
        lane.message = None
        lane.got = 0
        lane.unsent = None
        self.lanes.close(lane)
        if lane.idle:
            return
        if was_free and lane in self.free:
            self.free.remove(lane)
        if not self.renews:
            self.unfinished -= 1
        elif self.options.per_request or self.lanes.open(lane):
            self.again.append(lane)
        else:
            self.unfinished -= 1

    def _check_limits(self, at: int) -> None:
        """End what takes too long: a message of its own connection, or everything."""
        for lane, stands in self.lanes.retry():
            if stands:
                self._stands(lane)
            else:
                self._fail(lane, None)
        timeout = int(self.options.timeout * SECOND)
        if self.renews:
            for lane in self.busy:
                if lane.message is not None and at - lane.started > timeout:
                    self._fail(lane, "timed out")
            timeout *= RENEWED_TIMEOUTS
        outstanding = sum(lane.message is not None for lane in self.busy)
        if outstanding == 0 and self.schedule is not None:
            self.progress = at  # nothing is due
        stalled = at - max(self.progress, self.replied) > timeout
        over = at >= self.end if self.schedule is None else self.draining
        period_over = outstanding == 0 and over
        if stalled or period_over:
            self._give_up(outstanding)

    def _give_up(self, outstanding: int) -> None:
        connecting = [lane for lane in self.lanes.by_fd.values() if not lane.connected]
        waiting = [*connecting, *self.lanes.turned_away]
        never = sum(not lane.idle and lane.message is None for lane in waiting)
        self.tally.errors.update({"timed out": outstanding, "never connected": never})
        self.unfinished = 0

    def _own_event(self, fd: int) -> None:
        if fd == self.timer.fd:
            self.timer.clear()
        elif fd == self.control:
            self.lanes.epoll.unregister(fd)
            self.end = self.cutoff = time.monotonic_ns()
            if not os.read(fd, 4096):
                self.unfinished = 0
