// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Copying the payload to the process, seen from tracepoints: skb_copy_datagram_iovec fires when a copy
 * begins, tcp_rcv_space_adjust when TCP has finished with it. Other protocols have no such end.
 */

/* Off-CPU time of the call in flight so far: it may be preempted, or fault, in the middle of a copy. */
static __always_inline u64 call_off_cpu(struct thread_state *t)
{
    return t->call_sleep + t->call_runq;
}

static __always_inline void begin_copy(struct thread_state *t, u64 now)
{
    t->copy_at = now;
    t->copy_off = call_off_cpu(t);
}

static __always_inline void end_copy(struct thread_state *t, u64 now)
{
    t->call_copy += now - t->copy_at - (call_off_cpu(t) - t->copy_off);
    t->copied_at = now;
    t->copy_at = 0;
}

TRACEPOINT(skb_copy_datagram_iovec)
{
    struct thread_state *t = current_thread();
    if (t && t->mode == MODE_CALL)
        begin_copy(t, bpf_ktime_get_ns());
    return 0;
}

TRACEPOINT(tcp_rcv_space_adjust)
{
    struct thread_state *t = current_thread();
    if (t && t->mode == MODE_CALL && t->copy_at)
        end_copy(t, bpf_ktime_get_ns());
    return 0;
}
