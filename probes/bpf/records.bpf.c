// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The one ring buffer. Nobody is woken up: user space reads on its own clock, because a wake-up costs
 * sixty times what a record costs. A record that finds no room is counted by its kind.
 */

BPF_RINGBUF_OUTPUT(records, RING_PAGES);

static __always_inline void *reserve(u8 kind)
{
    count(COUNT_EMITTED + kind);
    void *record = records.ringbuf_reserve(RECORD_SIZE);
    if (!record)
        count(COUNT_LOST + kind);
    return record;
}

static __always_inline void submit(void *record)
{
    records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

static __always_inline void emit_name(u64 now, u32 pid, u32 tid, const char *comm)
{
    struct name_record *r = reserve(KIND_NAME);
    if (!r)
        return;
    __builtin_memset(r, 0, sizeof(*r));
    r->ts = now;
    r->pid = pid;
    r->tid = tid;
    r->kind = KIND_NAME;
    bpf_probe_read_kernel_str(r->comm, sizeof(r->comm), comm);
    submit(r);
}
