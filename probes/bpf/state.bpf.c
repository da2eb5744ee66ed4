// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * What the programs remember: one slot per traced thread, one entry per socket, and the counters.
 *
 * A thread's slot is found without hashing: sched_switch leaves it in a per-CPU cell, so that every other
 * process pays two array look-ups per event and nothing more. Some hosts hide the switches of processes of
 * their own, and a program that interrupts itself is skipped: a cell that names another thread than the one
 * that runs is put right.
 */

/* What happens seldom is compiled to where it is not in the way of the rest. */
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define READ(destination, pointer) bpf_probe_read_kernel(&(destination), sizeof(destination), (pointer))

/*
 * LOAD(destination, object, member) is READ for what is read at every event. What bpf_rdonly_cast() returns is read by
 * a load, which a fault makes 0, five times as fast as by a helper (since v6.2, a35b9af4ec2c: see
 * probes/kernel_calls.py).
 */
#ifdef HAVE_RDONLY_CAST
static void *(*rdonly_cast)(const void *object, u32 type) = (void *)KERNEL_CALL_RDONLY_CAST;
#define TYPE_ID(object)                                                                                    \
    _Generic((object), struct sock *: TYPE_sock, struct tcp_sock *: TYPE_tcp_sock,                         \
             struct udp_sock *: TYPE_udp_sock,                                                             \
             struct sk_buff *: TYPE_sk_buff, struct socket *: TYPE_socket, struct file *: TYPE_file,       \
             struct inode *: TYPE_inode, struct task_struct *: TYPE_task_struct,                           \
             struct fdtable *: TYPE_fdtable, struct pt_regs *: TYPE_pt_regs,                               \
             struct list_head *: TYPE_list_head, struct rb_node *: TYPE_rb_node)
#define KERNEL(object) ((typeof(object))rdonly_cast(object, TYPE_ID(object)))
#define LOAD(destination, object, member) (destination) = (typeof(destination))KERNEL(object)->member
#define LOAD_ARGUMENT(destination, parameter, regs) (destination) = PT_REGS_##parameter(KERNEL(regs))
/* A pointer that stands alone is read as what is one, too: a list's first member. */
#define LOAD_POINTER(destination, pointer) \
    (destination) = (typeof(destination))KERNEL((struct list_head *)(pointer))->next
/* A pointer that is to be reckoned with is read as what is none, too: a tree node's first member. */
#define LOAD_ADDRESS(destination, pointer) (destination) = KERNEL((struct rb_node *)(pointer))->__rb_parent_color
#else
#define LOAD(destination, object, member) READ(destination, &(object)->member)
#define LOAD_ARGUMENT(destination, parameter, regs) READ(destination, &PT_REGS_##parameter(regs))
#define LOAD_POINTER(destination, pointer) READ(destination, pointer)
#define LOAD_ADDRESS(destination, pointer) READ(destination, pointer)
#endif

/* By its BCC name the helper would make BCC read all of /proc/kallsyms at each use: 0.1 s apiece. */
static int (*read_user)(void *destination, u32 size, const void *pointer) = (void *)BPF_FUNC_probe_read_user;

/* WHERE(tried, kind, name, call) is kind(name, call) where `tried` is 1, and nothing where it is 0: what is compiled. */
#define WHERE(tried, kind, name, call) WHERE_(tried, kind, name, call)
#define WHERE_(tried, kind, name, call) WHERE_##tried(kind, name, call)
#define WHERE_0(kind, name, call)
#define WHERE_1(kind, name, call) kind(name, call)

/* BCC attaches what is called raw_tracepoint__*, and at once: the catalogue decides here, and TRY_TRACEPOINT_name. */
#define TRACEPOINT(name)                                                                                   \
    static __always_inline int do_##name(struct bpf_raw_tracepoint_args *ctx);                             \
    WHERE(TRY_TRACEPOINT_##name, RAW_TRACEPOINT, name, do_##name(ctx))                                     \
    static __always_inline int do_##name(struct bpf_raw_tracepoint_args *ctx)
#define RAW_TRACEPOINT(name, call) int on_##name(struct bpf_raw_tracepoint_args *ctx) { return WHOLE(call); }

/*
 * From 7.0 on a program of a tracepoint can be preempted, as one of fentry always could: the time in which its
 * thread is off the CPU would fall between two looks at the clock. The calls become bpf_preempt_disable() and
 * bpf_preempt_enable() (since v6.10, fc7566ad0a82) before the program is loaded: see probes/kernel_calls.py.
 */
#ifdef HAVE_PREEMPT_DISABLE
static void (*preempt_disable)(void) = (void *)KERNEL_CALL_PREEMPT_DISABLE;
static void (*preempt_enable)(void) = (void *)KERNEL_CALL_PREEMPT_ENABLE;
#define UNPREEMPTED(call) ({ preempt_disable(); int result_ = call; preempt_enable(); result_; })
#else
#define UNPREEMPTED(call) (call)
#endif
#ifdef PREEMPTIBLE_TRACEPOINTS
#define WHOLE(call) UNPREEMPTED(call)
#else
#define WHOLE(call) (call)
#endif

/* 1 if `value` is negative, else 0, by arithmetic alone: the compiler, if it understood, would make branches of it. */
static __always_inline u64 is_negative(s64 value)
{
    asm volatile("" : "+r"(value));
    u64 sign = (u64)value >> 63;
    asm volatile("" : "+r"(sign));
    return sign;
}

enum mode { MODE_USER, MODE_OTHER_CALL, MODE_CALL };

/* A part of a call, seen by function probes; it may come several times in a call. */
struct span {
    u64 at;      /* when it began; 0: it is over */
    u64 off;     /* off-CPU time of the call when it began */
    u64 elapsed; /* so far */
    u64 on_cpu;  /* of that */
};

/*
 * What a receive took, up to which `end`. It is kept in memory because the verifier knows nothing of what it finds
 * there: it follows one way through a loop instead of one for each way that leads to it.
 */
struct taken {
    u64 bytes;
    u32 end;
};

struct thread_state {
    u32 pid;
    u32 tid; /* 0: the slot is free */
    u64 start;
    u64 mark; /* time up to here is in the ledger */

    u64 user;
    u64 sleep;
    u64 runq;
    u64 spin;
    u64 check;
    u64 copy;
    u64 overhead;
    u64 other_calls;
    u64 off_cpu_elsewhere;
    u64 calls;
    u64 bytes;
    u64 voluntary_switches;
    u32 involuntary_switches;

    /* sockets that it has asked to be told of, and how; a count stays at its greatest value */
    u16 epoll_level;
    u16 epoll_edge;
    u16 epoll_oneshot;
    u16 sigio_sockets;

    u64 off_at; /* when it left the CPU; 0: on the CPU */
    u64 on_at;  /* when it last got the CPU */
    u64 woken_at;
    u64 noticed_at; /* when a waiting call last reported something */

    /* the call in flight */
    u64 call_at;
    u64 call_sleep;
    u64 call_runq;
    u64 call_copy;
    u64 copy_at;     /* when the copy in progress began; 0: none */
    u64 copy_off;    /* off-CPU time of the call when it began */
    u64 copied_at;   /* end of the last copy */
    struct span function; /* the kernel function that does the work of the call */
    struct span waiting;  /* sk_wait_data */
    struct span scan;     /* of a select: do_select; of an epoll_wait: ep_send_events */
    u64 datagram_at;      /* when UDP found a datagram */
    u64 sock;        /* struct sock * */
    u64 socket;      /* inode number */
    u64 moved;       /* bytes that a submitting call has copied */
    u64 vector;      /* recvmmsg: the struct mmsghdr array in user space */
    struct taken taken;
    s32 fd;
    u32 nfds;
    u8 preempted;
    u8 mode;
    u8 outer_mode; /* of a receive outside any call: what it interrupts */
    u8 context;    /* what kind of thread it is: process, iou-wrk, iou-sqp, aio */
    u8 call;
    u8 flags;
    u8 role;
    u8 peeks; /* MSG_PEEK: the data stays where it is */
    u8 receiving; /* counted in its socket's `receiving` */
    u8 touches; /* MODE_OTHER_CALL that names a socket: on return it is looked at once more */
};

/* Data that has arrived and has not been copied yet. `end` counts bytes (TCP: sequence number) or messages. */
struct arrival {
    u64 ready;
    u32 end;
    u32 notify;   /* ns that telling the receiver took; valid with FLAG_NOTIFY_KNOWN */
    u32 callback; /* of that, in the wake-up callback */
    u8 notifier;  /* which callback that was */
    u8 waker;
    u8 flags;
};

/* A power of two. 64 KiB segments: 2 MiB pending before neighbours are merged. */
#define ARRIVALS 32

struct socket_state {
    u64 sock;         /* struct sock *; 0: the slot is free */
    u64 file;         /* struct file *, once a descriptor has led here */
    u64 inode;
    u64 head_noticed; /* when the oldest arrival was first noticed; 0: not yet */
    u32 head;
    u32 tail;
    u32 last_end;  /* `end` of the newest arrival */
    u32 taken_end; /* `end` of the newest arrival that was copied completely */
    u32 copied_end; /* TCP: copied_seq when it was last looked at */
    u32 receiving;  /* calls in flight that may take a message */
    u64 missing_since; /* more messages are queued than anybody has told of; 0: no */
    u64 part;       /* bytes of the oldest message that have been taken, of a unix stream */
    u8 stream; /* TCP */
    u8 each;   /* a receive takes one message, whole: UDP, unix datagrams */
    struct arrival arrivals[ARRIVALS];
};

enum counter {
    COUNT_EMITTED, /* + kind */
    COUNT_LOST = 8, /* + kind */
    COUNT_EMBEDDED = 16, /* deliveries that travel in the record of their call */
    COUNT_MERGED,
    COUNT_THREADS_UNTRACED,
    COUNT_SOCKETS_UNTRACED,
    COUNT_RETURNS_MISSED, /* calls in which a function was entered and not seen to return */
    COUNT_HITS, /* + index of the function probe: how often it saw a traced thread or socket */
    COUNTERS = COUNT_HITS + FUNCTION_PROBES,
};

/* Who runs on a CPU. */
struct cpu_cell {
    u32 tid;
    u32 slot; /* 0: not traced */
    u64 regs; /* struct pt_regs * of its system calls: at the top of its kernel stack, nobody else's; 0: not seen */
};

#define RECENT_BITS 12

enum stage { STAGE_OPENING, STAGE_RUNNING, STAGE_STOPPED };

BPF_ARRAY(threads, struct thread_state, THREAD_SLOTS);
BPF_STACK(free_slots, u32, THREAD_SLOTS);
BPF_HASH(slots, u32, u32, THREAD_SLOTS);          /* tid -> slot */
BPF_PERCPU_ARRAY(running, struct cpu_cell, 1);
BPF_ARRAY(socket_states, struct socket_state, SOCKET_SLOTS);
BPF_STACK(free_socket_slots, u32, SOCKET_SLOTS);
BPF_HASH(sockets, u64, u32, SOCKET_SLOTS);        /* struct sock * -> slot */
BPF_ARRAY(recent_sockets, u32, 1 << RECENT_BITS); /* slot, by some bits of the address: no hashing */
BPF_F_TABLE("array", u32, u8, ports, 65536, BPF_F_MMAPABLE); /* local ports of traced sockets */
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
BPF_ARRAY(stages, u32, 1);

static __always_inline u32 stage(void)
{
    u32 zero = 0;
    u32 *value = stages.lookup(&zero);
    return value ? *value : STAGE_STOPPED;
}

static __always_inline void count_more(u32 counter, u32 more)
{
    u64 *value = counters.lookup(&counter);
    if (value)
        *value += more;
}

static __always_inline void count(u32 counter)
{
    count_more(counter, 1);
}

static __always_inline struct thread_state *thread_by_tid(u32 tid)
{
    u32 *slot = slots.lookup(&tid);
    if (!slot)
        return NULL;
    struct thread_state *t = threads.lookup(slot);
    if (!t || t->tid != tid)
        return NULL;
    return t;
}

/* The state of a watched socket, or NULL. The sockets of a server are looked up again and again. */
static __always_inline struct socket_state *state_of_socket(u64 sock)
{
    u32 at = (u32)(sock >> 6) * 0x9e3779b1u >> (32 - RECENT_BITS); /* 2^32 / golden ratio: Knuth, TAOCP 3, 6.4 */
    u32 *recent = recent_sockets.lookup(&at);
    if (!recent)
        return NULL;
    u32 slot = *recent;
    struct socket_state *s = socket_states.lookup(&slot);
    if (__builtin_expect(s && s->sock == sock, 1))
        return s;
    u32 *found = sockets.lookup(&sock);
    if (!found)
        return NULL;
    slot = *found;
    *recent = slot;
    return socket_states.lookup(&slot);
}

/* The memory will be another socket soon. */
static __always_inline void forget_socket(u64 sock)
{
    u32 *found = sockets.lookup(&sock);
    if (!found)
        return;
    u32 slot = *found;
    struct socket_state *s = socket_states.lookup(&slot);
    if (!s || sockets.delete(&sock)) /* by somebody else */
        return;
    s->sock = 0;
    free_socket_slots.push(&slot, 0);
}

static __always_inline void enter_cpu(struct thread_state *t, u64 now);

/* Looks up who runs on this CPU: the switch to it was not seen, or it has only now begun to be traced. */
static __always_inline void meet_thread(struct cpu_cell *cell, u32 tid)
{
    u32 *slot = slots.lookup(&tid);
    cell->tid = tid;
    cell->slot = slot ? *slot : 0;
    cell->regs = 0;
    if (!slot)
        return;
    struct thread_state *t = threads.lookup(slot);
    if (t && t->tid == tid && t->off_at)
        enter_cpu(t, bpf_ktime_get_ns());
}

/* The state of thread `tid`, which runs on the CPU of `cell`, or NULL if it is not traced. */
static __always_inline struct thread_state *thread_on(struct cpu_cell *cell, u32 tid, u32 stage)
{
    if (unlikely(cell->tid != tid || (stage == STAGE_OPENING && !cell->slot)))
        meet_thread(cell, tid);
    if (!cell->slot)
        return NULL;
    u32 slot = cell->slot;
    struct thread_state *t = threads.lookup(&slot);
    return t && t->tid == tid ? t : NULL;
}

/* The state of the current thread, or NULL if it is not traced. */
static __always_inline struct thread_state *current_thread(void)
{
    u32 zero = 0, now = stage();
    struct cpu_cell *cell = running.lookup(&zero);
    if (!cell || now == STAGE_STOPPED)
        return NULL;
    return thread_on(cell, bpf_get_current_pid_tgid(), now);
}

/* The same at the entry or exit of a system call, where the thread is known by `regs` without asking who it is. */
static __always_inline struct thread_state *calling_thread(u64 regs)
{
    u32 zero = 0, now = stage();
    struct cpu_cell *cell = running.lookup(&zero);
    if (!cell || now == STAGE_STOPPED)
        return NULL;
    if (cell->regs == regs) {
        u32 slot = cell->slot;
        struct thread_state *t = threads.lookup(&slot);
        if (t && t->tid == cell->tid)
            return t;
    }
    struct thread_state *t = thread_on(cell, bpf_get_current_pid_tgid(), now);
    if (t)
        cell->regs = regs;
    return t;
}
