// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Which threads are traced: those that user space opens, and everything that they fork.
 *
 * open_thread and close_thread are run by user space (BPF_PROG_TEST_RUN), so that a ledger is begun and
 * ended by the same code wherever it begins or ends.
 */

static __always_inline struct thread_state *new_thread(u32 pid, u32 tid, u64 now, u32 *slot)
{
    if (free_slots.pop(slot)) {
        count(COUNT_THREADS_UNTRACED);
        return NULL;
    }
    struct thread_state *t = threads.lookup(slot);
    if (!t)
        return NULL;
    __builtin_memset(t, 0, sizeof(*t));
    t->pid = pid;
    t->start = now;
    t->mark = now;
    t->fd = -1;
    t->role = pid != tid;
    t->tid = tid;
    return t;
}

static __always_inline void end_thread(struct thread_state *t, u64 now)
{
    u32 tid = t->tid, *found = slots.lookup(&tid);
    if (!found)
        return;
    u32 slot = *found;
    if (t->off_at) {
        if (t->woken_at < t->off_at)
            t->woken_at = now; /* still asleep */
        enter_cpu(t, now);
    }
    if (t->mode == MODE_CALL) {
        t->flags |= FLAG_UNFINISHED;
        if (t->receiving)
            end_taking(t, state_of_socket(t->sock));
        finish_call(t, NULL, now, NO_RESULT, is_submit(t->call) ? t->moved : 0);
    } else if (t->mode == MODE_OTHER_CALL) {
        t->other_calls += now - t->mark;
    } else {
        t->user += now - t->mark;
    }
    struct thread_record *r = reserve(KIND_THREAD);
    if (r) {
        __builtin_memset(r, 0, sizeof(*r));
        r->ts = t->start;
        r->pid = t->pid;
        r->tid = tid;
        r->kind = KIND_THREAD;
        r->role = t->role;
        r->epoll_level = t->epoll_level;
        r->epoll_edge = t->epoll_edge;
        r->epoll_oneshot = t->epoll_oneshot;
        r->sigio_sockets = t->sigio_sockets;
        r->wall = now - t->start;
        r->user = t->user;
        r->sleep = t->sleep;
        r->runq = t->runq;
        r->spin = t->spin;
        r->check = t->check;
        r->copy = t->copy;
        r->overhead = t->overhead;
        r->other_calls = t->other_calls;
        r->off_cpu_elsewhere = t->off_cpu_elsewhere;
        r->calls = t->calls;
        r->bytes = t->bytes;
        r->voluntary_switches = t->voluntary_switches;
        r->involuntary_switches = t->involuntary_switches;
        submit(r);
    }
    t->tid = 0;
    slots.delete(&tid);
    free_slots.push(&slot, 0);
}

/* Not sched_process_fork: io_uring's threads come out of copy_process without it (kernel/fork.c). */
TRACEPOINT(task_newtask)
{
    if (!current_thread())
        return 0;
    struct task_struct *child = (void *)ctx->args[0];
    u32 pid = 0, tid = 0, slot = 0;
    u64 now = bpf_ktime_get_ns();
    LOAD(tid, child, pid);
    LOAD(pid, child, tgid);
    struct thread_state *t = new_thread(pid, tid, now, &slot);
    if (!t)
        return 0;
    t->mode = MODE_OTHER_CALL; /* it will return from clone */
    t->off_at = now;
    t->preempted = 1;
    slots.update(&tid, &slot);
    emit_name(now, pid, tid, child->comm);
    return 0;
}

TRACEPOINT(sched_process_exit)
{
    struct thread_state *t = current_thread();
    if (t)
        end_thread(t, bpf_ktime_get_ns());
    return 0;
}

/* A thread that execs takes the place, and the number, of its process's first thread (fs/exec.c, de_thread). */
TRACEPOINT(sched_process_exec)
{
    struct task_struct *task = (void *)ctx->args[0];
    u32 old = ctx->args[1], tid = 0;
    LOAD(tid, task, pid);
    if (old == tid)
        return 0;
    u32 *found = slots.lookup(&old);
    if (!found)
        return 0;
    u32 slot = *found;
    struct thread_state *t = threads.lookup(&slot);
    if (!t)
        return 0;
    slots.delete(&old);
    t->tid = tid;
    slots.update(&tid, &slot);
    return 0;
}

/* io_uring's threads name themselves when they begin: io_wq_worker(), io_sq_thread(). */
static __always_inline u8 context_by_name(const char *name, u8 otherwise)
{
    char head[8] = {};
    bpf_probe_read_kernel_str(head, sizeof(head), name);
    if (head[0] != 'i' || head[1] != 'o' || head[2] != 'u' || head[3] != '-')
        return otherwise;
    return head[4] == 's' ? CONTEXT_IOU_SQP : CONTEXT_IOU_WRK;
}

TRACEPOINT(task_rename)
{
    u32 tid = 0;
    LOAD(tid, (struct task_struct *)ctx->args[0], pid);
    struct thread_state *t = thread_by_tid(tid);
    if (!t)
        return 0;
    t->context = context_by_name((const char *)ctx->args[1], t->context);
    emit_name(bpf_ktime_get_ns(), t->pid, tid, (const char *)ctx->args[1]);
    return 0;
}

/* Frees some slots of threads and of sockets: those of sockets from args[0] on; of threads, slot 0 means none. */
int free_some_slots(struct bpf_raw_tracepoint_args *ctx)
{
    u32 first = ctx->args[0];
    for (u32 i = 0; i < SLOTS_AT_ONCE; i++) {
        u32 slot = first + i, thread_slot = slot + 1;
        free_socket_slots.push(&slot, 0);
        free_slots.push(&thread_slot, 0);
    }
    return 0;
}

/* Forgets the sockets in some slots, from args[0] on. */
int forget_some_sockets(struct bpf_raw_tracepoint_args *ctx)
{
    u32 first = ctx->args[0];
    for (u32 i = 0; i < SLOTS_AT_ONCE; i++) {
        u32 slot = first + i;
        struct socket_state *s = socket_states.lookup(&slot);
        if (s && s->sock)
            forget_socket(s->sock);
    }
    return 0;
}

/* What user space knows of a thread when it opens it; as eight-byte words for the test run's context. */
#define OPEN_PID ctx->args[0]
#define OPEN_TID ctx->args[1]
#define OPEN_MODE ctx->args[2]
#define OPEN_CALL ctx->args[3]
#define OPEN_FD ctx->args[4]
#define OPEN_NFDS ctx->args[5]
#define OPEN_SOCKET ctx->args[6]
#define OPEN_ASLEEP ctx->args[7]
#define OPEN_COMM_LOW ctx->args[8]
#define OPEN_COMM_HIGH ctx->args[9]

/* Returns 0, or 1 if there is no room, or 2 if the thread is traced already. */
int open_thread(struct bpf_raw_tracepoint_args *ctx)
{
    u32 pid = OPEN_PID, tid = OPEN_TID, slot = 0;
    u64 now = bpf_ktime_get_ns();
    if (slots.lookup(&tid))
        return 2;
    struct thread_state *t = new_thread(pid, tid, now, &slot);
    if (!t)
        return 1;
    if (OPEN_MODE == MODE_CALL) {
        begin_call(t, OPEN_CALL, now);
        t->fd = OPEN_FD;
        t->nfds = OPEN_NFDS;
        t->socket = OPEN_SOCKET;
        t->flags = FLAG_BEGUN_BEFORE;
    }
    t->mode = OPEN_MODE;
    if (OPEN_ASLEEP)
        t->off_at = now;
    slots.update(&tid, &slot);
    u64 comm[2] = {OPEN_COMM_LOW, OPEN_COMM_HIGH};
    t->context = context_by_name((const char *)comm, CONTEXT_PROCESS);
    emit_name(now, pid, tid, (const char *)comm);
    return 0;
}

/* Ends the ledger of thread args[0] at time args[1], or at its last event if that was later. */
int close_thread(struct bpf_raw_tracepoint_args *ctx)
{
    u32 tid = ctx->args[0];
    u64 now = ctx->args[1];
    struct thread_state *t = thread_by_tid(tid);
    if (!t)
        return 1;
    if (t->mark > now)
        now = t->mark;
    if (t->off_at && !t->preempted && t->woken_at > now)
        now = t->woken_at;
    end_thread(t, now);
    return 0;
}
