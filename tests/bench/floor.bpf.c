// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Programs that do nothing, at the tracepoints that the tool attaches for such a server: what no program there can cost
 * less than.
 */

#define NOTHING(name) int nothing_##name(struct bpf_raw_tracepoint_args *ctx) { return 0; }

NOTHING(sys_enter)
NOTHING(sys_exit)
NOTHING(sched_switch)
NOTHING(sched_waking)
NOTHING(skb_copy_datagram_iovec)
NOTHING(tcp_rcv_space_adjust)
NOTHING(sk_data_ready)

/* How many system calls a process makes. */
BPF_PERCPU_ARRAY(system_calls, u64, 1);

int count_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
    u32 zero = 0;
    u64 *count = system_calls.lookup(&zero);
    if (count && bpf_get_current_pid_tgid() >> 32 == COUNTED_PID)
        *count += 1;
    return 0;
}
