// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Kernel functions, entry and return: what they add to the tracepoints.
 *
 * ENTRY(function, argument) { body } is declared once and becomes an fentry and a kprobe program; which of
 * them is loaded, if any, the plan decides. The body returns whether it met something that is traced, which
 * is counted by function. A function that this kernel lacks is never loaded.
 */

#define ENTRY(function, argument) ENTRY_OF(function, argument)
#define RETURN(function, value) RETURN_OF(function, value)

/* TRY_FENTRY_function and TRY_KPROBE_function are 0 or 1. */
#define ENTRY_OF(function, argument)                                                                       \
    static __always_inline int enter_##function(u64 argument);                                             \
    WHERE(TRY_FENTRY_##function, FENTRY, function, enter_##function(ctx[0]))                               \
    WHERE(TRY_KPROBE_##function, KPROBE, function, enter_##function(PT_REGS_PARM1(ctx)))                   \
    static __always_inline int enter_##function(u64 argument)

#define RETURN_OF(function, value)                                                                         \
    static __always_inline int leave_##function(u64 value);                                                \
    WHERE(TRY_FENTRY_##function, FEXIT, function, leave_##function(ctx[PARAMETERS_##function]))            \
    WHERE(TRY_KPROBE_##function, KRETPROBE, function, leave_##function(PT_REGS_RC(ctx)))                   \
    static __always_inline int leave_##function(u64 value)

#define FENTRY(function, call)                                                                             \
    int kfunc__##function(u64 *ctx) { if (UNPREEMPTED(call)) count(COUNT_HITS + HITS_##function); return 0; }
#define FEXIT(function, call)                                                                              \
    int kretfunc__##function(u64 *ctx) { UNPREEMPTED(call); return 0; }
#define KPROBE(function, call)                                                                             \
    int kprobe__##function(struct pt_regs *ctx) { if (call) count(COUNT_HITS + HITS_##function); return 0; }
#define KRETPROBE(function, call)                                                                          \
    int kretprobe__##function(struct pt_regs *ctx) { call; return 0; }

/* The thread, if it is in a call that is traced. */
static __always_inline struct thread_state *thread_in_call(void)
{
    struct thread_state *t = current_thread();
    return t && t->mode == MODE_CALL ? t : NULL;
}

static __always_inline void begin_span(struct thread_state *t, struct span *s)
{
    s->at = bpf_ktime_get_ns();
    s->off = call_off_cpu(t);
}

static __always_inline void end_span(struct thread_state *t, struct span *s)
{
    if (!s->at)
        return;
    u64 elapsed = bpf_ktime_get_ns() - s->at;
    s->elapsed += elapsed;
    s->on_cpu += elapsed - (call_off_cpu(t) - s->off);
    s->at = 0;
}

#define SPAN(name, member)                                                                                 \
    ENTRY(name, unused)                                                                                    \
    {                                                                                                      \
        struct thread_state *t = thread_in_call();                                                         \
        if (t)                                                                                             \
            begin_span(t, &t->member);                                                                     \
        return t != NULL;                                                                                  \
    }                                                                                                      \
    RETURN(name, unused)                                                                                   \
    {                                                                                                      \
        struct thread_state *t = thread_in_call();                                                         \
        if (t)                                                                                             \
            end_span(t, &t->member);                                                                       \
        return 0;                                                                                          \
    }

/* glibc's select() is pselect6: which of the two was called is seen here, both end in core_sys_select. */
ENTRY(SYS_SELECT, unused)
{
    return current_thread() != NULL;
}

ENTRY(SYS_PSELECT6, unused)
{
    return current_thread() != NULL;
}

SPAN(core_sys_select, function)
SPAN(do_sys_poll, function)
SPAN(do_epoll_wait, function)
SPAN(read_events, function)
SPAN(tcp_recvmsg, function)
SPAN(udp_recvmsg, function)
SPAN(udpv6_recvmsg, function)
SPAN(unix_stream_recvmsg, function)
SPAN(unix_dgram_recvmsg, function)

SPAN(do_select, scan)
SPAN(ep_send_events, scan)
SPAN(sk_wait_data, waiting)

ENTRY(skb_copy_datagram_iter, skb)
{
    return on_copy_begins((struct sk_buff *)skb);
}

RETURN(skb_copy_datagram_iter, unused)
{
    struct thread_state *t = thread_in_call();
    if (t && t->copy_at)
        end_copy(t, bpf_ktime_get_ns());
    return 0;
}

/*
 * A small datagram is copied inline by udp_recvmsg (copy_linear_skb), between finding it and letting it go:
 * these two are the nearest that can be had.
 */
RETURN(__skb_recv_udp, buffer)
{
    struct thread_state *t = thread_in_call();
    if (t && buffer)
        t->datagram_at = bpf_ktime_get_ns();
    return 0;
}

ENTRY(skb_consume_udp, unused)
{
    struct thread_state *t = thread_in_call();
    if (!t)
        return 0;
    if (t->datagram_at && t->copied_at < t->datagram_at) {
        t->copy_at = t->datagram_at;
        t->copy_off = call_off_cpu(t); /* it does not sleep here */
        end_copy(t, bpf_ktime_get_ns());
    }
    t->datagram_at = 0;
    return 1;
}

/*
 * Telling the receiver: what is going on on this CPU. An interrupt may nest another one, which is not timed. A
 * task may be preempted while it tells (unix sockets), and a return may be missed (see settle_spans): then
 * another task, or a later moment, takes the place over, and only the figure that was left there is lost.
 */
struct telling {
    u64 sock; /* 0: nobody is being told */
    u64 at;
    u64 callback_at;
    u32 tid;
    u32 depth; /* how many are nested in it */
    u32 callback;
    u32 end; /* of the arrival that it is about */
    u8 notifier;
};

/* Telling takes some microseconds: what has not come back after this time has been missed. */
#define STALE_NS 10000000

BPF_PERCPU_ARRAY(tellings, struct telling, 1);

static __always_inline struct telling *telling_now(void)
{
    u32 zero = 0;
    return tellings.lookup(&zero);
}

/* The telling that this task is at, if any, unless something is nested in it. */
static __always_inline struct telling *own_telling(void)
{
    struct telling *now = telling_now();
    return now && now->sock && !now->depth && now->tid == (u32)bpf_get_current_pid_tgid() ? now : NULL;
}

static __always_inline void begin_telling(struct telling *now, struct socket_state *s, u64 sock, u64 at)
{
    now->sock = sock;
    now->at = at;
    now->callback_at = 0;
    now->tid = bpf_get_current_pid_tgid();
    now->depth = 0;
    now->callback = 0;
    now->end = s->last_end;
    now->notifier = NOTIFIER_NONE;
}

/* Of a pointer that fentry gives the verifier knows that it is one, and lets nobody reckon with it. */
static __always_inline u64 address_of(u64 pointer)
{
    u64 address = 0;
    READ(address, &pointer);
    return address;
}

ENTRY(sock_def_readable, argument)
{
    u64 sock = address_of(argument);
    struct socket_state *s = on_data_ready((struct sock *)sock);
    struct telling *now = telling_now();
    if (!now || (!s && !now->sock))
        return 0;
    u64 at = bpf_ktime_get_ns();
    if (now->sock && now->tid == (u32)bpf_get_current_pid_tgid() && at - now->at < STALE_NS)
        now->depth += 1;
    else if (s)
        begin_telling(now, s, sock, at);
    else
        now->sock = 0;
    return s != NULL;
}

/* The arrival may be gone already, taken by a receiver on another CPU: its notify stays unknown then. */
static __always_inline void note_telling(struct socket_state *s, struct telling *now, u64 elapsed)
{
    struct arrival *a = &s->arrivals[(s->tail - 1) & (ARRIVALS - 1)];
    if (s->head == s->tail || a->end != now->end)
        return;
    a->notify = elapsed;
    a->callback = now->callback;
    a->notifier = now->notifier;
    a->flags |= FLAG_NOTIFY_KNOWN;
}

RETURN(sock_def_readable, unused)
{
    struct telling *now = telling_now();
    if (!now || !now->sock || now->tid != (u32)bpf_get_current_pid_tgid())
        return 0;
    if (now->depth) {
        now->depth -= 1;
        return 0;
    }
    struct socket_state *s = state_of_socket(now->sock);
    if (s)
        note_telling(s, now, bpf_ktime_get_ns() - now->at);
    now->sock = 0;
    return 0;
}

static __always_inline int begin_callback(u8 notifier)
{
    struct telling *now = own_telling();
    if (!now)
        return 0;
    now->notifier = notifier;
    now->callback_at = bpf_ktime_get_ns();
    return 1;
}

static __always_inline int end_callback(void)
{
    struct telling *now = own_telling();
    if (now && now->callback_at) {
        now->callback += bpf_ktime_get_ns() - now->callback_at;
        now->callback_at = 0;
    }
    return 0;
}

#define CALLBACK(name, notifier)                                                                           \
    ENTRY(name, unused)                                                                                    \
    {                                                                                                      \
        return begin_callback(notifier);                                                                   \
    }                                                                                                      \
    RETURN(name, unused)                                                                                   \
    {                                                                                                      \
        return end_callback();                                                                             \
    }

CALLBACK(ep_poll_callback, NOTIFIER_EP_POLL_CALLBACK)
CALLBACK(pollwake, NOTIFIER_POLLWAKE)
CALLBACK(io_poll_wake, NOTIFIER_IO_POLL_WAKE)
CALLBACK(aio_poll_wake, NOTIFIER_AIO_POLL_WAKE)
CALLBACK(send_sigio, NOTIFIER_SEND_SIGIO)
