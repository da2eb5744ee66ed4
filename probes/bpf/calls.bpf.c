// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The calls: where they begin and end, and how a finished call's time is split into phases.
 *
 * Everything of a thread is on one clock: at each event the time since `mark` goes to where the thread was.
 */

static __always_inline int is_receive(u8 call)
{
    return call <= CALL_recvmmsg;
}

static __always_inline int is_wait(u8 call)
{
    return call >= CALL_select && call <= CALL_pause;
}

/* Asks the kernel to receive by itself: it may wait and copy in the call, for any number of sockets. */
static __always_inline int is_submit(u8 call)
{
    return call >= CALL_io_submit;
}

#define EINTR 4
#define EAGAIN 11
/* ERESTARTSYS ... ERESTART_RESTARTBLOCK (include/linux/errno.h): what sys_exit shows of an interrupted call. */
#define RESTARTS(result) ((result) <= -512 && (result) >= -516)
#define NO_RESULT 0

struct phases {
    u64 duration;
    u64 spin;
    u64 check;
    u64 copy;
    u64 overhead;
};

/* Splits the time that the call spent on the CPU. */
static __always_inline void split(struct thread_state *t, u64 now, s64 result, struct phases *p)
{
    p->duration = now - t->call_at;
    p->spin = 0;
    p->check = 0;
    p->copy = t->call_copy;
    p->overhead = 0;
    u64 on_cpu = p->duration - call_off_cpu(t);
    if (t->flags & FLAG_UNFINISHED)
        p->overhead = is_wait(t->call) ? 0 : on_cpu - p->copy;
    else if (result == -EAGAIN && !is_wait(t->call))
        p->spin = on_cpu - p->copy;
    else if (is_wait(t->call) && result == 0 && t->call_sleep == 0)
        p->spin = on_cpu;
    else if (t->call == CALL_io_uring_enter && result == 0 && t->call_sleep == 0 && !t->moved)
        p->spin = on_cpu;
    else if (!is_wait(t->call)) /* hanging on the socket's wait queue is asking, too */
        p->overhead = on_cpu - p->copy - t->waiting.on_cpu;
    else if (t->function.elapsed)
        p->overhead = on_cpu - t->function.on_cpu;
    p->check = on_cpu - p->spin - p->copy - p->overhead;
}

static __always_inline void add_to_ledger(struct thread_state *t, struct phases *p, u64 bytes)
{
    t->sleep += t->call_sleep;
    t->runq += t->call_runq;
    t->spin += p->spin;
    t->check += p->check;
    t->copy += p->copy;
    t->overhead += p->overhead;
    t->bytes += bytes;
    t->calls += 1;
}

/* What io_uring_enter copies after a sleep is done by task work. */
static __always_inline u8 context_of(struct thread_state *t)
{
    int after_sleep = t->call == CALL_io_uring_enter && t->moved && t->call_sleep;
    if (t->context == CONTEXT_PROCESS && (t->call == CALL_io_uring || after_sleep))
        return CONTEXT_TASK_WORK;
    return t->context;
}

static __always_inline void fill_call(struct call_record *r, struct thread_state *t, struct phases *p, s64 result,
                                      u64 bytes)
{
    __builtin_memset(r, 0, sizeof(*r));
    r->ts = t->call_at;
    r->pid = t->pid;
    r->tid = t->tid;
    r->kind = KIND_CALL;
    r->call = t->call;
    r->context = context_of(t);
    r->flags = t->flags;
    r->cpu = bpf_get_smp_processor_id();
    r->duration = p->duration;
    r->socket = t->socket;
    r->sleep = t->call_sleep;
    r->runq = t->call_runq;
    r->spin = p->spin;
    r->check = p->check;
    r->function = t->function.elapsed;
    if (t->scan.elapsed && t->function.elapsed) {
        r->flags |= FLAG_CHECK_SPLIT;
        /* do_select scans, and the copying is around it; ep_send_events is the copying itself */
        r->check_copy = t->call <= CALL_pselect6 ? t->function.on_cpu - t->scan.on_cpu : t->scan.on_cpu;
    }
    r->copy = p->copy;
    r->fd = t->fd;
    r->nfds = t->nfds;
    r->result = result;
    r->bytes = bytes;
}

#define MESSAGES 64

static __always_inline u64 payload_of_messages(struct thread_state *t, s64 messages)
{
    u64 bytes = 0;
    if (messages > MESSAGES)
        t->flags |= FLAG_BYTES_UNKNOWN;
    for (int i = 0; i < MESSAGES; i++)
        bytes += message_length(t, i) * is_negative(i - messages); /* no branch: the verifier would follow each one */
    return bytes;
}

/* The payload that a receive brought. */
static __always_inline u64 payload(struct thread_state *t, s64 result)
{
    if (is_submit(t->call))
        return t->moved;
    if (!is_receive(t->call) || result <= 0 || t->peeks)
        return 0;
    return unlikely(t->call == CALL_recvmmsg) ? payload_of_messages(t, result) : result;
}

/*
 * A function whose return was missed says nothing about its time: a kretprobe has room for a few sleepers only
 * (kernel/kprobes.c, register_kretprobe: maxactive), and no program runs inside another one. Returns 1 if so.
 */
static __always_inline int settle_span(struct span *s)
{
    if (!s->at)
        return 0;
    __builtin_memset(s, 0, sizeof(*s));
    return 1;
}

static __always_inline void settle_spans(struct thread_state *t)
{
    if (settle_span(&t->function) | settle_span(&t->waiting) | settle_span(&t->scan))
        count(COUNT_RETURNS_MISSED);
    if (t->copy_at) { /* its end was missed: how long copying took is not known */
        t->call_copy = 0;
        t->copied_at = 0;
    }
}

/* The size of the message that a receive completes: a unix stream hands one out in parts, too. */
static __always_inline u64 whole_message(struct thread_state *t, struct socket_state *s, u32 taken, u64 bytes)
{
    if (delivers_each(t, s) || t->peeks)
        return bytes;
    s->part += bytes;
    if (!arrival_taken(s, taken))
        return 0;
    bytes = s->part;
    s->part = 0;
    return bytes;
}

/* `s` is the socket on which it took what is noted in `t->taken`; NULL where that is delivered already, or unknown. */
static __always_inline void finish_call(struct thread_state *t, struct socket_state *s, u64 now, s64 result, u64 bytes)
{
    struct phases p;

#if defined(TRY_FENTRY) || defined(TRY_KPROBE)
    if (!(t->flags & FLAG_UNFINISHED))
        settle_spans(t);
#endif
    if (bytes && !t->copied_at)
        t->flags |= FLAG_COPY_UNKNOWN;
    split(t, now, result, &p);
    add_to_ledger(t, &p, bytes);
    if (is_wait(t->call) && (result > 0 || result == -EINTR))
        t->noticed_at = now;
    struct call_record *r = reserve(KIND_CALL);
    if (r) {
        fill_call(r, t, &p, result, bytes);
        if (s && arrival_taken(s, t->taken.end)) {
            take_arrival(t, s, r, now, t->call == CALL_recvmmsg ? message_length(t, 0) : t->taken.bytes);
            count(COUNT_EMBEDDED);
        }
        submit(r);
    }
    if (s && (delivers_each(t, s) || unlikely(!r)))
        deliver_further(t, s, now);
    if (s && !s->stream)
        forget_messages(s, t->taken.end);
    if (s)
        note_partial(t, s, t->taken.end);
    if (s && s->stream) {
        s->copied_end = t->taken.end;
        if (s->head == s->tail)
            s->taken_end = t->taken.end;
    }
    t->mark = now;
    t->mode = MODE_USER;
}

static __always_inline void end_call(struct thread_state *t, u64 now, s64 result)
{
    u64 bytes = payload(t, result);
    struct socket_state *s = NULL;

    if (is_receive(t->call) && t->sock && (result >= 0 || t->receiving)) {
        s = state_of_socket(t->sock);
        if (result < 0) {
            end_taking(t, s);
            s = NULL;
        }
        if (s) {
            u32 end = taken_end(t, s, result, bytes);
            if (s->stream && !(t->flags & FLAG_BYTES_UNKNOWN))
                forget_taken_unseen(s, (void *)t->sock, end, bytes);
            if (s->stream)
                note_untold(t, s, end);
            else
                forget_arrivals(s); /* of what was taken before anybody had told of it */
            t->taken.end = end;
            t->taken.bytes = whole_message(t, s, end, bytes);
        }
    }
    finish_call(t, s, now, result, bytes);
    if (t->receiving)
        end_taking(t, s);
}

/* Ends a receive outside any call of the thread; what it took is delivered already. */
static __always_inline void end_receive_outside(struct thread_state *t, u64 now)
{
    u8 outer = t->outer_mode;
    finish_call(t, NULL, now, t->moved, t->moved);
    t->mode = outer;
}

static __always_inline void begin_call(struct thread_state *t, u8 call, u64 now)
{
    t->mode = MODE_CALL;
    t->call = call;
    t->call_at = now;
    t->call_sleep = 0;
    t->call_runq = 0;
    t->call_copy = 0;
    t->copy_at = 0;
    t->copied_at = 0;
#if defined(TRY_FENTRY) || defined(TRY_KPROBE) /* nobody else writes them */
    __builtin_memset(&t->function, 0, sizeof(t->function));
    __builtin_memset(&t->waiting, 0, sizeof(t->waiting));
    __builtin_memset(&t->scan, 0, sizeof(t->scan));
    t->datagram_at = 0;
#endif
    t->sock = 0;
    t->socket = 0;
    t->fd = -1;
    t->nfds = 0;
    t->flags = 0;
    t->peeks = 0;
    t->moved = 0;
}

/* What a system call is to us: the index of a traced call, a touch, or nothing. */
#define NOT_TRACED 0xff
#define TOUCHES_FIRST 0xfe
#define TOUCHES_THIRD 0xfd
#define TOUCHES_LIKE_AIO 0xfc
#define TOUCHES_IF_SIGIO 0xfb

static __always_inline u8 classify(u32 number)
{
    switch (number) {
    case NR_read: return CALL_read;
    case NR_readv: return CALL_readv;
    case NR_recvfrom: return CALL_recvfrom;
    case NR_recvmsg: return CALL_recvmsg;
    case NR_recvmmsg: return CALL_recvmmsg;
    case NR_select: return CALL_select;
    case NR_pselect6: return CALL_pselect6;
    case NR_poll: return CALL_poll;
    case NR_ppoll: return CALL_ppoll;
    case NR_epoll_wait: return CALL_epoll_wait;
    case NR_epoll_pwait: return CALL_epoll_pwait;
    case NR_epoll_pwait2: return CALL_epoll_pwait2;
    case NR_io_getevents: return CALL_io_getevents;
    case NR_io_pgetevents: return CALL_io_pgetevents;
    case NR_rt_sigtimedwait: return CALL_rt_sigtimedwait;
    case NR_rt_sigsuspend: return CALL_rt_sigsuspend;
    case NR_pause: return CALL_pause;
    case NR_io_submit: return CALL_io_submit;
    case NR_io_uring_enter: return CALL_io_uring_enter;
    case NR_accept: return CALL_accept;
    case NR_accept4: return CALL_accept4;
    case NR_connect:
    case NR_listen: return TOUCHES_FIRST;
    case NR_epoll_ctl: return TOUCHES_THIRD;
    case NR_pread64: return TOUCHES_LIKE_AIO;
    case NR_fcntl:
    case NR_ioctl: return TOUCHES_IF_SIGIO;
    }
    return NOT_TRACED;
}

static __always_inline int is_touch(u8 call)
{
    return call >= TOUCHES_IF_SIGIO;
}

#define MSG_PEEK 2

/* recvfrom(fd, buf, len, flags), recvmsg(fd, msg, flags), recvmmsg(fd, vec, vlen, flags) */
static __always_inline u8 peeks(u8 call, struct pt_regs *regs)
{
    u64 flags = 0;
    if (call == CALL_recvfrom || call == CALL_recvmmsg)
        LOAD_ARGUMENT(flags, PARM4_SYSCALL, regs);
    else if (call == CALL_recvmsg)
        LOAD_ARGUMENT(flags, PARM3, regs);
    return (flags & MSG_PEEK) != 0;
}

static __always_inline void remember_socket(struct thread_state *t, struct descriptor *d)
{
    t->sock = d->sock;
    t->socket = d->inode;
}

static __always_inline void count_up(u16 *counter)
{
    if (*counter != 0xffff)
        *counter += 1;
}

#define EPOLL_CTL_DEL 2
#define EPOLLONESHOT (1u << 30)
#define EPOLLET (1u << 31)

/* epoll_ctl(epfd, op, fd, event): of the event only the mask is read, which is its first member. */
static __always_inline void note_interest(struct thread_state *t, struct pt_regs *regs)
{
    u64 operation = 0, event = 0;
    u32 mask = 0;
    LOAD_ARGUMENT(operation, PARM2, regs);
    LOAD_ARGUMENT(event, PARM4_SYSCALL, regs);
    if (operation == EPOLL_CTL_DEL || read_user(&mask, sizeof(mask), (void *)event))
        return;
    count_up(mask & EPOLLET ? &t->epoll_edge : &t->epoll_level);
    if (mask & EPOLLONESHOT)
        count_up(&t->epoll_oneshot);
}

#define F_SETFL 4
#define O_ASYNC 020000
#define FIOASYNC 0x5452 /* include/uapi/asm-generic/ioctls.h */

/* fcntl(fd, F_SETFL, O_ASYNC) or ioctl(fd, FIOASYNC, &on): SIGIO when something arrives. */
static __always_inline int asks_for_sigio(u64 number, struct pt_regs *regs)
{
    u64 command = 0, argument = 0;
    u32 on = 0;
    LOAD_ARGUMENT(command, PARM2, regs);
    if (number == NR_fcntl && (u32)command == F_SETFL) {
        LOAD_ARGUMENT(argument, PARM3, regs);
        return (argument & O_ASYNC) != 0;
    }
    if (number == NR_ioctl && (u32)command == FIOASYNC) {
        LOAD_ARGUMENT(argument, PARM3, regs);
        read_user(&on, sizeof(on), (void *)argument);
    }
    return on != 0;
}

static __always_inline void note_touch(struct thread_state *t, u8 call, struct pt_regs *regs)
{
    /* A socket cannot be read at an offset: only glibc's helper thread tries (sysdeps/pthread/aio_misc.c). */
    if (call == TOUCHES_LIKE_AIO)
        t->context = CONTEXT_AIO;
    else if (call == TOUCHES_IF_SIGIO)
        count_up(&t->sigio_sockets);
    else if (call == TOUCHES_THIRD)
        note_interest(t, regs);
}

/*
 * The return of a call was missed: its program was skipped (see sys_exit_again). Nobody knows when it ended, nor with what; its time stays in the ledger, and it is counted as lost.
 */
static __always_inline void lose_call(struct thread_state *t, u64 now)
{
    u64 off_cpu = call_off_cpu(t);
    if (t->receiving)
        end_taking(t, state_of_socket(t->sock));
    t->other_calls += now - t->call_at - off_cpu;
    t->off_cpu_elsewhere += off_cpu;
    t->mark = now;
    count(COUNT_EMITTED + KIND_CALL);
    count(COUNT_LOST + KIND_CALL);
}

TRACEPOINT(sys_enter)
{
    struct thread_state *t = calling_thread(ctx->args[0]);
    if (!t)
        return 0;
    u64 now = bpf_ktime_get_ns(), first = 0;
    struct pt_regs *regs = (void *)ctx->args[0];
    u8 call = classify(ctx->args[1]);

    if (unlikely(t->mode == MODE_CALL))
        lose_call(t, now);
    t->user += now - t->mark;
    t->mark = now;
    t->mode = MODE_OTHER_CALL;
    if (call == NOT_TRACED)
        return 0;
    if (call == TOUCHES_IF_SIGIO && !asks_for_sigio(ctx->args[1], regs))
        return 0;
    LOAD_ARGUMENT(first, PARM1, regs);
    if (is_wait(call)) {
        begin_call(t, call, now);
        if (call == CALL_select || call == CALL_pselect6)
            t->nfds = first;
        else if (call == CALL_poll || call == CALL_ppoll)
            LOAD_ARGUMENT(t->nfds, PARM2, regs);
        else if (call <= CALL_epoll_pwait2)
            t->fd = first;
        return 0;
    }
    if (is_submit(call) && !is_touch(call)) {
        begin_call(t, call, now);
        if (call == CALL_io_uring_enter)
            t->fd = first;
        return 0;
    }
    if (unlikely(call == TOUCHES_THIRD))
        LOAD_ARGUMENT(first, PARM3, regs);
    if (unlikely(is_touch(call))) {
        t->touches = call == TOUCHES_FIRST;
        t->fd = first;
    }
    struct descriptor d = {};
    if (!socket_of_descriptor(first, &d))
        return 0; /* a file, a pipe: one of the other calls */
    touch_socket(now, t, &d);
    if (unlikely(is_touch(call))) {
        note_touch(t, call, regs);
        return 0;
    }
    begin_call(t, call, now);
    t->fd = first;
    remember_socket(t, &d);
    if (is_receive(call)) {
        t->peeks = peeks(call, regs);
        struct socket_state *s = d.known ? NULL : state_of_socket(d.sock);
        if (s && !s->stream)
            begin_taking(t, s, now);
    }
    if (unlikely(call == CALL_recvmmsg))
        LOAD_ARGUMENT(t->vector, PARM2, regs);
    return 0;
}

/* The descriptor whose socket is known only now that the call returns, or -1. */
static __always_inline int descriptor_on_return(struct thread_state *t, s64 result)
{
    if (t->mode != MODE_CALL) {
        if (!t->touches)
            return -1;
        t->touches = 0;
        return t->fd;
    }
    if (t->call == CALL_accept || t->call == CALL_accept4)
        return result;
    return t->flags & FLAG_BEGUN_BEFORE && is_receive(t->call) ? t->fd : -1;
}

TRACEPOINT(sys_exit)
{
    struct thread_state *t = calling_thread(ctx->args[0]);
    if (!t)
        return 0;
    u64 now = bpf_ktime_get_ns();
    s64 result = ctx->args[1];
    if (RESTARTS(result))
        result = -EINTR;

    struct descriptor d = {};
    int fd = descriptor_on_return(t, result);
    if (unlikely(fd >= 0) && socket_of_descriptor(fd, &d)) {
        touch_socket(now, t, &d);
        if (t->mode != MODE_CALL)
            watch_port(&d);
        else if (is_receive(t->call))
            remember_socket(t, &d);
    }
    if (t->mode == MODE_CALL) {
        end_call(t, now, result);
        return 0;
    }
    t->other_calls += now - t->mark;
    t->mark = now;
    t->mode = MODE_USER;
    return 0;
}

#ifdef PREEMPTIBLE_TRACEPOINTS
/*
 * A program runs on a CPU once at a time. While a thread is preempted at the end of one, which is when preemption
 * is allowed again, the same program is skipped for all others there: a second one looks whether the first has run.
 */
#define TRY_TRACEPOINT_sys_enter_again 1
TRACEPOINT(sys_enter_again)
{
    struct thread_state *t = current_thread();
    return t && t->mode == MODE_USER ? do_sys_enter(ctx) : 0;
}

#define TRY_TRACEPOINT_sys_exit_again 1
TRACEPOINT(sys_exit_again)
{
    struct thread_state *t = current_thread();
    return t && t->mode != MODE_USER ? do_sys_exit(ctx) : 0;
}
#endif
