// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Deliveries: what arrived on a watched socket and when, and which receive took it.
 *
 * Each socket has a small queue of arrivals. Its only producer is whoever holds the socket's lock when the
 * data is queued; its only consumer is the thread whose receive returns.
 */

#define PF_KTHREAD 0x00200000

/*
 * Is the process in a system call? Otherwise it was in user space when an interrupt came, in whose softirq this is.
 * (bpf_task_pt_regs() since v5.15, dd6e10fbd9fb; before, it is taken to be in one.)
 */
static __always_inline int in_system_call(void)
{
#ifdef HAVE_TASK_PT_REGS
    struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
#ifdef __aarch64__
    return regs->syscallno >= 0;
#else
    return (s64)regs->orig_ax >= 0;
#endif
#else
    return 1;
#endif
}

/* In whose context the current code runs. */
static __always_inline u8 current_waker(void)
{
    u32 tid = bpf_get_current_pid_tgid(), flags = 0;
    if (tid == 0)
        return WAKER_SOFTIRQ; /* an idle CPU was interrupted */
    if (current_thread())
        return WAKER_SELF;
    struct task_struct *task = (void *)bpf_get_current_task();
    LOAD(flags, task, flags);
    if (!(flags & PF_KTHREAD))
        return in_system_call() ? WAKER_PROCESS : WAKER_SOFTIRQ;
    char comm[16] = {};
    bpf_get_current_comm(comm, sizeof(comm));
    return comm[0] == 'k' && comm[1] == 's' && comm[2] == 'o' && comm[3] == 'f' ? WAKER_KSOFTIRQD : WAKER_WORKER;
}

static __always_inline void push_arrival(struct socket_state *s, u64 now, u32 end)
{
    if (unlikely(s->tail - s->head >= ARRIVALS)) { /* join the newest one; its data became ready earlier */
        s->arrivals[(s->tail - 1) & (ARRIVALS - 1)].end = end;
        s->last_end = end;
        count(COUNT_MERGED);
        return;
    }
    struct arrival *a = &s->arrivals[s->tail & (ARRIVALS - 1)];
    a->ready = now;
    a->end = end;
    a->notify = 0;
    a->callback = 0;
    a->notifier = NOTIFIER_NONE;
    a->flags = 0;
    a->waker = current_waker();
    s->last_end = end;
    s->tail += 1;
}

/* The watched state of a socket on which something arrived, or NULL. */
static __always_inline struct socket_state *watched_socket(struct sock *sk)
{
    u16 number = 0;
    u64 key = (u64)sk;
    LOAD(number, sk, __sk_common.skc_num);
    u32 port = number;
    u8 *watched = ports.lookup(&port);
    if (!watched || !*watched || stage() == STAGE_STOPPED)
        return NULL;
    struct socket_state *s = state_of_socket(key);
    if (s)
        return s;
    if (protocol_of(sk) != IPPROTO_TCP)
        return NULL;
    u8 state = tcp_state_of(sk);
    /* A listener has no data; of one that is closed only its FIN is told, afterwards (tcp_input.c, tcp_data_queue). */
    if (state == TCP_LISTEN_STATE || state == TCP_CLOSE_STATE)
        return NULL;
    return watch_socket(sk, 0);
}

/* Bytes up to `taken` have left the socket: if nobody told of their arrival, their age is unknown. */
static __always_inline void note_untold(struct thread_state *t, struct socket_state *s, u32 taken)
{
    if ((s32)(taken - s->last_end) <= 0)
        return;
    u32 end = received_end((void *)t->sock);
    if ((s32)(taken - end) < 0) /* beyond it there is only a FIN */
        end = taken;
    if ((s32)(end - s->last_end) > 0)
        push_unknown_arrival(s, end);
}

/* Returns the state of the socket if data has arrived on it, and NULL if nothing that is watched has. */
static __always_inline struct socket_state *on_data_ready(struct sock *sk)
{
    struct socket_state *s = watched_socket(sk);
    if (!s)
        return NULL;
    u32 end = s->stream ? received_end(sk) : s->last_end + 1;
    if ((s32)(end - s->last_end) <= 0) /* a bare FIN, or a listener's new connection */
        return NULL;
    if (!s->stream && (s32)(end - s->taken_end) <= 0) { /* it has been taken already */
        s->last_end = end;
        return NULL;
    }
    push_arrival(s, bpf_ktime_get_ns(), end);
    return s;
}

/* When did the thread learn of the data that its call has just taken? */
static __always_inline u64 noticed_at(struct thread_state *t, u64 ready)
{
    if (ready >= t->call_at) /* it came during the call: a sleeper was woken, or a runner met it */
        return t->woken_at >= ready ? t->woken_at : ready;
    return t->noticed_at >= ready ? t->noticed_at : t->call_at;
}

/* Has a part of the oldest queued message been taken? */
static __always_inline int is_begun(struct sock *sk)
{
    struct sk_buff *oldest = NULL;
    u32 consumed = 0;
    LOAD_POINTER(oldest, &sk->sk_receive_queue);
    READ(consumed, &((struct unix_skb_parms *)&oldest->cb)->consumed);
    return consumed != 0;
}

/*
 * A unix stream hands a message out in parts, and several at once: how many it has handed out, the length of its queue
 * says, if everybody has told of what is there, and what has become of the oldest one.
 */
static __always_inline u32 unix_stream_end(struct socket_state *s, struct sock *sk, u64 bytes)
{
    u32 queued = queued_messages(sk), end = s->last_end - queued;
    if ((s32)(end - s->taken_end) > 0)
        return end;
    return s->taken_end + (bytes && !(queued && is_begun(sk)));
}

/* The `end` up to which data has been taken when a receive is over that returned `result` and brought `bytes`. */
static __always_inline u32 taken_end(struct thread_state *t, struct socket_state *s, s64 result, u64 bytes)
{
    struct sock *sk = (void *)t->sock;
    if (s->stream) {
        u32 copied = 0;
        LOAD(copied, (struct tcp_sock *)sk, copied_seq);
        return copied;
    }
    if (t->peeks || (!result && s->head == s->tail)) /* the end of what its other side has to say */
        return s->taken_end;
    if (s->each)
        return s->taken_end + (t->call == CALL_recvmmsg ? result : 1);
    return unix_stream_end(s, sk, bytes);
}

/* Has the oldest arrival been taken: of a stream all of it, else one message, of which nobody may have told? */
static __always_inline int arrival_taken(struct socket_state *s, u32 taken)
{
    if (!s->stream)
        return (s32)(taken - s->taken_end) > 0;
    if (s->head == s->tail)
        return 0;
    return (s32)(taken - s->arrivals[s->head & (ARRIVALS - 1)].end) >= 0;
}

/*
 * How many arrivals are gone completely: they are in order, so a binary search tells. No branch in it: the verifier
 * would follow each one.
 */
static __always_inline u32 arrivals_gone(struct socket_state *s)
{
    u32 gone = 0, waiting = s->tail - s->head;
    for (u32 step = ARRIVALS; step; step >>= 1) {
        u32 next = gone + step;
        struct arrival *a = &s->arrivals[(s->head + next - 1) & (ARRIVALS - 1)];
        s32 missing = (waiting - next) | (s->taken_end - a->end); /* negative: there is none, or it is not gone */
        gone += step * (1 - is_negative(missing));
    }
    return gone;
}

/* Removes the arrivals that are gone completely; returns how many. */
static __always_inline u32 forget_arrivals(struct socket_state *s)
{
    u32 gone = arrivals_gone(s);
    if (gone) {
        s->head += gone;
        s->head_noticed = 0;
    }
    return gone;
}

/*
 * A message is queued first and told of afterwards (net/ipv4/udp.c, __udp_enqueue_schedule_skb; net/unix/af_unix.c).
 * It is told of too late to be new if it was counted when its socket was first named, and not at all if that was so
 * before anybody looked, or if the kernel throws it away. So the books are compared with the queue, whenever nobody is
 * about to take from it. `taken` messages have left the queue and are still in the books.
 *
 * What is in the books and not in the queue does not exist. The reverse may be about to be told, but not for so long.
 */
#define LATE_NS 100000000

static __always_inline void settle_messages(struct socket_state *s, struct sock *sk, u32 taken, u64 now)
{
    u32 outstanding = s->last_end - s->taken_end; /* before the queue: the books may lag behind, not lead */
    asm volatile("" ::: "memory");
    s32 missing = queued_messages(sk) + taken - outstanding;
    if (!missing) {
        s->missing_since = 0;
    } else if (missing > 0 && !s->missing_since) {
        s->missing_since = now;
    } else if (missing < 0 || now - s->missing_since > LATE_NS) {
        s->taken_end -= missing;
        s->missing_since = 0;
        forget_arrivals(s);
    }
}

/* A call is about to take messages: other calls in flight may have taken what is in the books. */
static __always_inline void begin_taking(struct thread_state *t, struct socket_state *s, u64 now)
{
    if (!s->receiving)
        settle_messages(s, (void *)t->sock, 0, now);
    __sync_fetch_and_add(&s->receiving, 1);
    t->receiving = 1;
}

static __always_inline void end_taking(struct thread_state *t, struct socket_state *s)
{
    if (t->receiving && s)
        __sync_fetch_and_add(&s->receiving, -1);
    t->receiving = 0;
}

/*
 * What a call took from a stream begins where the call before it ended. If it begins later, another thread that is not
 * traced, or not yet, has taken what lies between: no call of ours delivers that.
 */
static __always_inline void forget_taken_unseen(struct socket_state *s, struct sock *sk, u32 taken, u32 bytes)
{
    u32 begin = taken - bytes;
    if ((s32)(begin - s->copied_end) <= 0)
        return;
    if ((s32)(taken - received_end(sk)) > 0) /* the FIN went with it */
        begin -= 1;
    if ((s32)(begin - s->taken_end) > 0)
        s->taken_end = begin;
    forget_arrivals(s);
}

/* Of the oldest arrival a part has been taken: the rest is for a later call, but it has been noticed. */
static __always_inline void note_partial(struct thread_state *t, struct socket_state *s, u32 taken)
{
    if (s->head != s->tail && !s->head_noticed && (s32)(taken - s->taken_end) > 0)
        s->head_noticed = noticed_at(t, s->arrivals[s->head & (ARRIVALS - 1)].ready);
}

/*
 * Fills the delivery of `r` with the oldest arrival, and removes it; of an arrival that joins several messages, one
 * message.
 */
static __always_inline void take_arrival(struct thread_state *t, struct socket_state *s, struct call_record *r,
                                         u64 now, u32 received)
{
    struct arrival *a = &s->arrivals[s->head & (ARRIVALS - 1)];
    if (s->head == s->tail) { /* a message that nobody has told of */
        if (r) {
            r->flags |= FLAG_DELIVERED | FLAG_READY_UNKNOWN;
            r->copied = t->copied_at ? t->copied_at : now;
            r->delivered = received;
        }
        s->taken_end += 1;
        return;
    }
    if (r) {
        r->flags |= FLAG_DELIVERED | a->flags;
        r->ready = a->ready;
        r->noticed = s->head_noticed ? s->head_noticed : noticed_at(t, a->ready);
        r->copied = t->copied_at ? t->copied_at : now;
        r->delivered = s->stream ? a->end - s->taken_end : received;
        r->notify = a->notify;
        r->callback = a->callback;
        r->notifier = a->notifier;
        r->waker = a->waker;
    }
    s->taken_end = s->stream ? a->end : s->taken_end + 1;
    if ((s32)(s->taken_end - a->end) < 0)
        return;
    s->head_noticed = 0;
    s->head += 1;
}

/*
 * Messages that a receive took beyond those it has delivered are gone, too: from a unix stream it takes several at
 * once, and their sizes are not known. So is what has been delivered, and told of only then.
 */
static __always_inline void forget_messages(struct socket_state *s, u32 taken)
{
    u32 further = taken - s->taken_end;
    if ((s32)further > 0)
        s->taken_end = taken;
    u32 gone = forget_arrivals(s);
    if ((s32)further > 0)
        count_more(COUNT_MERGED, gone);
}

/* Does one receive deliver several arrivals, each with its own size? */
static __always_inline int delivers_each(struct thread_state *t, struct socket_state *s)
{
    return s->stream || t->call == CALL_recvmmsg;
}

/* recvmmsg returns messages: the length of each is in its header, which is all that is read. */
#define HEADER_SIZE 64 /* sizeof(struct mmsghdr) and the offset of msg_len: include/linux/socket.h */
#define LENGTH_OFFSET 56

static __always_inline u32 message_length(struct thread_state *t, int index)
{
    u32 length = 0;
    read_user(&length, sizeof(length), (void *)(t->vector + index * HEADER_SIZE + LENGTH_OFFSET));
    return length;
}

/* A call that took more than one arrival: the further ones get records of their own. */
static __always_inline void deliver_apart(struct thread_state *t, struct socket_state *s, u64 now, u32 received)
{
    struct call_record *r = reserve(KIND_DELIVERY);
    if (r) {
        __builtin_memset(r, 0, sizeof(*r));
        r->ts = t->call_at;
        r->pid = t->pid;
        r->tid = t->tid;
        r->kind = KIND_DELIVERY;
        r->call = t->call;
        r->fd = t->fd;
        r->socket = t->socket;
    }
    take_arrival(t, s, r, now, received);
    if (r)
        submit(r);
}

/* The arrivals that a call took beyond its first. */
static __always_inline void deliver_further(struct thread_state *t, struct socket_state *s, u64 now)
{
#ifdef VERIFIER_FORGETS
#pragma unroll 16
#endif
    for (u32 i = 0; i < ARRIVALS; i++) {
        asm volatile("" ::: "memory"); /* or the compiler reads `taken` once: see there */
        if (!arrival_taken(s, t->taken.end))
            break;
        deliver_apart(t, s, now, t->call == CALL_recvmmsg ? message_length(t, i + 1) : t->taken.bytes);
    }
}
