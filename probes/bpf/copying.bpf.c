// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Where copies begin and end, seen from tracepoints: skb_copy_datagram_iovec fires when a copy begins,
 * tcp_rcv_space_adjust when TCP has finished with it. Other protocols have no such end; sock_recv_length at least
 * says what they gave to a call that cannot tell by its result.
 *
 * A copy outside any traced call is io_uring's: in task work on the way back to user space, in a worker, in
 * the SQPOLL thread. It becomes a call of its own, `io_uring`.
 */

static __always_inline int is_tcp_buffer(struct sk_buff *skb)
{
    struct sock *sk = NULL;
    LOAD(sk, skb, sk);
    return sk && protocol_of(sk) == IPPROTO_TCP;
}

static __always_inline void begin_receive_outside(struct thread_state *t, u64 now)
{
    u8 outer = t->mode;
    if (outer == MODE_USER)
        t->user += now - t->mark;
    else
        t->other_calls += now - t->mark;
    t->mark = now;
    begin_call(t, CALL_io_uring, now);
    t->outer_mode = outer;
}

static __always_inline int on_copy_begins(struct sk_buff *skb)
{
    struct thread_state *t = current_thread();
    if (!t)
        return 0;
    u64 now = bpf_ktime_get_ns();
    if (t->mode != MODE_CALL) {
        if (!is_tcp_buffer(skb))
            return 0;
        begin_receive_outside(t, now);
    }
    begin_copy(t, now);
    return 1;
}

/* Takes what a submitting call has just copied off the socket: no descriptor has told which it is. */
static __always_inline void take_from(struct thread_state *t, struct sock *sk, u64 now)
{
    struct descriptor d = {};
    if (socket_of_sock(sk, &d))
        touch_socket(now, t, &d);
    struct socket_state *s = state_of_socket(d.sock);
    if (!s)
        return;
    u32 taken = s->taken_end;
    LOAD(taken, (struct tcp_sock *)sk, copied_seq);
    u32 moved = taken - s->copied_end;
    s->copied_end = taken;
    t->moved += moved;
    t->socket = d.inode;
    t->taken.end = taken;
    t->taken.bytes = moved;
    deliver_further(t, s, now);
    note_partial(t, s, taken);
    if (s->head == s->tail)
        s->taken_end = taken;
}

TRACEPOINT(skb_copy_datagram_iovec)
{
    on_copy_begins((struct sk_buff *)ctx->args[0]);
    return 0;
}

TRACEPOINT(tcp_rcv_space_adjust)
{
    struct thread_state *t = current_thread();
    if (!t || t->mode != MODE_CALL)
        return 0;
    if (!t->copy_at && !is_submit(t->call))
        return 0;
    u64 now = bpf_ktime_get_ns();
    if (t->copy_at)
        end_copy(t, now);
    if (!is_submit(t->call))
        return 0;
    take_from(t, (struct sock *)ctx->args[0], now);
    if (t->call == CALL_io_uring) {
        end_receive_outside(t, now);
    } else {
        t->socket = 0; /* a submitting call may serve many */
    }
    return 0;
}

/* The first message of a socket that nobody has named before has gone: of what remains, nothing is known to be of it. */
static __always_inline void note_first_message(struct sock *sk, struct socket_state *s)
{
    if (s->each || !queued_messages(sk))
        push_unknown_arrival(s, s->last_end + 1);
}

/* Takes a message that a submitting call has just received. */
static __always_inline void take_message(struct thread_state *t, struct sock *sk, u64 now, u64 bytes)
{
    struct descriptor d = {};
    u64 key = (u64)sk;
    int first = !state_of_socket(key);
    t->moved += bytes;
    if (!socket_of_sock(sk, &d))
        return;
    touch_socket(now, t, &d);
    struct socket_state *s = state_of_socket(key);
    if (!s)
        return;
    if (first)
        note_first_message(sk, s);
    t->sock = key;
    t->socket = d.inode;
    if (s->each)
        settle_messages(s, sk, 1, now);
    u32 taken = taken_end(t, s, bytes, bytes);
    bytes = whole_message(t, s, taken, bytes);
    if (arrival_taken(s, taken))
        deliver_apart(t, s, now, bytes);
    forget_messages(s, taken);
}

TRACEPOINT(sock_recv_length)
{
    struct sock *sk = (struct sock *)ctx->args[0];
    int result = ctx->args[1], flags = ctx->args[2];
    if (result <= 0 || flags & MSG_PEEK || protocol_of(sk) == IPPROTO_TCP)
        return 0;
    struct thread_state *t = current_thread();
    if (!t || (t->mode == MODE_CALL && !is_submit(t->call)))
        return 0;
    u64 now = bpf_ktime_get_ns();
    if (t->mode != MODE_CALL)
        begin_receive_outside(t, now);
    take_message(t, sk, now, result);
    if (t->call == CALL_io_uring) {
        end_receive_outside(t, now);
    } else {
        t->sock = 0;
        t->socket = 0;
    }
    return 0;
}
