// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Copying the payload to the process: how long it took, without what was spent off the CPU in between. */

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
