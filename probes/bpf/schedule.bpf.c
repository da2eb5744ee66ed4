// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Off the CPU: asleep until something wakes the thread, or awake and waiting for a CPU.
 *
 * sched_waking may fire before the sched_switch of the same sleep, when the waker on another CPU meets the
 * thread between set_current_state() and the switch (kernel/sched/core.c, try_to_wake_up): a thread that
 * left the CPU blocked and was woken "before" it left has been runnable all the time.
 */

static __always_inline void leave_cpu(struct thread_state *t, u64 now, int preempted)
{
    if (t->mode == MODE_USER)
        t->user += now - t->mark;
    else if (t->mode == MODE_OTHER_CALL)
        t->other_calls += now - t->mark;
    t->mark = now;
    t->off_at = now;
    t->preempted = preempted;
    if (preempted)
        t->involuntary_switches += 1;
    else
        t->voluntary_switches += 1;
}

/* Of the time since the thread left the CPU, the part before it was woken; all of it if nobody saw that. */
static __always_inline u64 asleep(struct thread_state *t, u64 off_at, u64 now)
{
    if (t->preempted || (t->woken_at < off_at && t->woken_at && t->woken_at >= t->on_at))
        return 0;
    return (t->woken_at >= off_at && t->woken_at < now ? t->woken_at : now) - off_at;
}

static __always_inline void enter_cpu(struct thread_state *t, u64 now)
{
    u64 off_at = t->off_at ? t->off_at : t->mark;
    if (t->mode == MODE_CALL) {
        u64 sleep = asleep(t, off_at, now);
        t->call_sleep += sleep;
        t->call_runq += now - off_at - sleep;
    } else {
        t->off_cpu_elsewhere += now - off_at;
    }
    t->mark = now;
    t->on_at = now;
    t->off_at = 0;
}

/* task_struct.state became __state in v5.14 (2f064a59a11f): only its being zero matters here. */
static __always_inline int is_runnable(struct task_struct *task)
{
    u32 state = 0;
    LOAD(state, task, TASK_STATE_FIELD);
    return state == 0;
}

TRACEPOINT(sched_switch)
{
    u32 zero = 0, pid = 0;
    struct cpu_cell *cell = running.lookup(&zero);
    u32 now_at = stage();
    if (!cell || now_at == STAGE_STOPPED)
        return 0;
    struct task_struct *prev = (void *)ctx->args[1], *next = (void *)ctx->args[2];
    struct thread_state *t = thread_on(cell, bpf_get_current_pid_tgid(), now_at);
    u64 now = 0;
    if (t) {
        now = bpf_ktime_get_ns();
        leave_cpu(t, now, ctx->args[0] || is_runnable(prev));
    }
    LOAD(pid, next, pid);
    u32 *slot = pid ? slots.lookup(&pid) : NULL;
    cell->tid = pid;
    cell->slot = slot ? *slot : 0;
    cell->regs = 0;
    if (!slot)
        return 0;
    t = threads.lookup(slot);
    if (t && t->tid == pid)
        enter_cpu(t, now ? now : bpf_ktime_get_ns());
    return 0;
}

TRACEPOINT(sched_waking)
{
    u32 pid = 0;
    LOAD(pid, (struct task_struct *)ctx->args[0], pid);
    struct thread_state *t = thread_by_tid(pid);
    if (t)
        t->woken_at = bpf_ktime_get_ns();
    return 0;
}
