// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * From a descriptor to its socket, and which sockets are watched for arrivals.
 *
 * A socket is watched from the moment that a traced thread names it (connect, listen, accept, epoll_ctl, a
 * receive), and from its first arrival if its local port is that of such a socket: a connection that nobody
 * has accepted yet is watched, too.
 */

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define TCP_ESTABLISHED_STATE 1
#define TCP_SYN_SENT_STATE 2
#define TCP_CLOSE_STATE 7
#define TCP_LISTEN_STATE 10
#define DONE_FLAG 1 /* SOCK_DONE of enum sock_flags (include/net/sock.h) */

struct descriptor {
    u64 sock;
    u64 inode;
    u64 file;
    u8 known; /* the socket is watched, and this is its file */
};

/* A pointer that the verifier knows is read by a load, five times as fast as by a helper (since v5.11). */
static __always_inline struct fdtable *current_descriptors(void)
{
#ifdef HAVE_CURRENT_TASK_BTF
    struct task_struct *task = bpf_get_current_task_btf();
    return task->files->fdt;
#else
    struct task_struct *task = (void *)bpf_get_current_task();
    struct files_struct *files = NULL;
    struct fdtable *table = NULL;
    LOAD(files, task, files);
    READ(table, &files->fdt);
    return table;
#endif
}

static __always_inline struct file *file_of_descriptor(int fd)
{
    struct file *file = NULL, **files = NULL;
    struct fdtable *table = current_descriptors();
    u32 size = 0;
    LOAD(size, table, max_fds);
    if ((u32)fd >= size)
        return NULL;
    LOAD(files, table, fd);
    LOAD_POINTER(file, &files[(u32)fd]);
    return file;
}

/* Returns 1 and fills `d` if `fd` of the current task is a socket. */
static __always_inline int socket_of_descriptor(int fd, struct descriptor *d)
{
    struct inode *inode = NULL;
    void *private = NULL;
    struct file *file = file_of_descriptor(fd);
    if (!file)
        return 0;
    d->file = (u64)file;
    LOAD(private, file, private_data);
    if (!private)
        return 0;
    LOAD_ADDRESS(d->sock, &((struct socket *)private)->sk); /* if it is one: whether it is, comes now */
    struct socket_state *s = state_of_socket(d->sock);
    /* Of a TCP socket it is known when it closes: its file cannot be another one's yet. */
    if (s && s->stream && s->file == d->file) {
        d->inode = s->inode;
        d->known = 1;
        return 1;
    }
    LOAD(inode, file, f_inode);
    /* A socket and its inode are allocated together: net/socket.c, SOCK_INODE(). */
    if ((void *)inode != (void *)&((struct socket_alloc *)private)->vfs_inode)
        return 0;
    LOAD(d->inode, inode, i_ino);
    return d->sock != 0;
}

/* The same for a socket that is at hand: its inode is the other part of one allocation. */
static __always_inline int socket_of_sock(struct sock *sk, struct descriptor *d)
{
    struct socket *socket = NULL;
    d->sock = (u64)sk;
    LOAD(socket, sk, sk_socket);
    if (!socket)
        return 0;
    LOAD(d->file, socket, file);
    READ(d->inode, &((struct socket_alloc *)socket)->vfs_inode.i_ino);
    return 1;
}

static __always_inline u16 protocol_of(struct sock *sk)
{
    u16 family = 0, protocol = 0;
    LOAD(family, sk, __sk_common.skc_family);
    if (family != AF_INET && family != AF_INET6)
        return 0;
    LOAD(protocol, sk, sk_protocol);
    return protocol;
}

static __always_inline u8 tcp_state_of(struct sock *sk)
{
    u8 state = 0;
    LOAD(state, sk, __sk_common.skc_state);
    return state;
}

/*
 * The end of what has been received in order, without the FIN, which has a sequence number, too. The state does not
 * say whether there was one: of a socket whose own end was shut down before, it is TCP_CLOSE then (tcp_fin()).
 */
static __always_inline u32 received_end(struct sock *sk)
{
    u32 end = 0;
    u64 flags = 0;
    LOAD(end, (struct tcp_sock *)sk, rcv_nxt);
    LOAD(flags, sk, __sk_common.skc_flags);
    return end - (flags >> DONE_FLAG & 1);
}

static __always_inline u32 queued_messages(struct sock *sk)
{
    u32 length = 0, aside = 0;
    LOAD(length, sk, sk_receive_queue.qlen);
    if (protocol_of(sk) == IPPROTO_UDP) /* a reader sets the whole queue aside for itself */
        LOAD(aside, (struct udp_sock *)sk, reader_queue.qlen);
    return length + aside;
}

/* Does a receive take one message, whole? */
static __always_inline int is_message_based(struct sock *sk)
{
    u16 type = 0;
    LOAD(type, sk, sk_type);
    return type != SOCK_STREAM;
}

/* Before it was connected it had no sequence numbers to count from. */
static __always_inline void begin_sequence(struct socket_state *s, struct sock *sk)
{
    LOAD(s->taken_end, (struct tcp_sock *)sk, copied_seq);
    s->last_end = s->taken_end;
    s->copied_end = s->taken_end;
}

static __always_inline void begin_socket(struct socket_state *s, struct sock *sk)
{
    __builtin_memset(s, 0, offsetof(struct socket_state, arrivals));
    if (protocol_of(sk) != IPPROTO_TCP) {
        s->each = is_message_based(sk);
        return;
    }
    s->stream = 1;
    begin_sequence(s, sk);
}

/* Data that is known to be there, or to have been there, but not since when. */
static __always_inline void push_unknown_arrival(struct socket_state *s, u32 end)
{
    u32 at = s->tail;
    if (s->tail - s->head >= ARRIVALS) /* join the newest one */
        at -= 1;
    else
        s->tail += 1;
    struct arrival *a = &s->arrivals[at & (ARRIVALS - 1)];
    a->ready = 0;
    a->end = end;
    a->flags = FLAG_READY_UNKNOWN;
    s->last_end = end;
}

/* What was received before the socket was watched: one arrival of unknown age. */
static __always_inline void note_earlier_data(struct sock *sk, struct socket_state *s)
{
    u32 end = s->stream ? received_end(sk) : queued_messages(sk);
    if ((s32)(end - s->last_end) > 0)
        push_unknown_arrival(s, end);
}

/*
 * Of a message that came between the look at the queue and now, nobody may ever tell: it joins those of unknown age. If
 * somebody does, there is one too many in the books, which is found before the next receive (settle_messages()).
 */
static __always_inline void note_missed_messages(struct sock *sk, struct socket_state *s)
{
    u32 outstanding = s->last_end - s->taken_end;
    asm volatile("" ::: "memory");
    s32 missed = queued_messages(sk) - outstanding;
    if (missed > 0)
        s->taken_end -= missed;
}

/*
 * Another CPU may be at the same socket: the state is made with all that is known before anybody can find it. Who comes
 * second takes what is there.
 */
static __always_inline struct socket_state *watch_socket(struct sock *sk, int named)
{
    u64 key = (u64)sk;
    u32 slot = 0;
    if (free_socket_slots.pop(&slot)) {
        count(COUNT_SOCKETS_UNTRACED);
        return NULL;
    }
    struct socket_state *s = socket_states.lookup(&slot);
    if (!s)
        return NULL;
    begin_socket(s, sk);
    if (named && !(s->stream && tcp_state_of(sk) == TCP_LISTEN_STATE))
        note_earlier_data(sk, s);
    s->sock = key;
    if (sockets.insert(&key, &slot)) {
        s->sock = 0;
        free_socket_slots.push(&slot, 0);
        s = state_of_socket(key);
        if (!s)
            return NULL;
    }
    if (named && !s->stream)
        note_missed_messages(sk, s);
    return s;
}

static __always_inline void emit_socket(u64 now, u32 pid, u32 tid, u64 inode, struct sock *sk)
{
    u16 family = 0, remote_port = 0, local_port = 0;
    struct socket_record *r = reserve(KIND_SOCKET);
    if (!r)
        return;
    __builtin_memset(r, 0, sizeof(*r));
    r->ts = now;
    r->pid = pid;
    r->tid = tid;
    r->kind = KIND_SOCKET;
    r->socket = inode;
    LOAD(family, sk, __sk_common.skc_family);
    r->family = family;
    if (family == AF_INET || family == AF_INET6) {
        LOAD(local_port, sk, __sk_common.skc_num);
        LOAD(remote_port, sk, __sk_common.skc_dport);
        r->local_port = local_port;
        r->remote_port = bpf_ntohs(remote_port);
        r->protocol = protocol_of(sk);
    }
    if (family == AF_INET) {
        bpf_probe_read_kernel(r->local_address, 4, &sk->__sk_common.skc_rcv_saddr);
        bpf_probe_read_kernel(r->remote_address, 4, &sk->__sk_common.skc_daddr);
    } else if (family == AF_INET6) {
        bpf_probe_read_kernel(r->local_address, 16, &sk->__sk_common.skc_v6_rcv_saddr);
        bpf_probe_read_kernel(r->remote_address, 16, &sk->__sk_common.skc_v6_daddr);
    }
    submit(r);
}

/* From now on arrivals at the socket's local port are looked at. The port is known only after bind or connect. */
static __always_inline void watch_port(struct descriptor *d)
{
    u16 port = 0;
    struct sock *sk = (void *)d->sock;
    LOAD(port, sk, __sk_common.skc_num);
    u32 key = port;
    u8 *watched = ports.lookup(&key);
    if (watched && !*watched)
        *watched = 1;
}

static __always_inline int is_unconnected(struct sock *sk)
{
    u8 state = tcp_state_of(sk);
    return state == TCP_CLOSE_STATE || state == TCP_SYN_SENT_STATE;
}

/* A traced thread names the socket. */
static __always_inline void touch_socket(u64 now, struct thread_state *t, struct descriptor *d)
{
    if (__builtin_expect(d->known, 1))
        return;
    struct sock *sk = (void *)d->sock;
    struct socket_state *s = state_of_socket(d->sock);
    if (__builtin_expect(s && s->inode == d->inode, 1))
        return;
    if (s && s->inode) { /* a new one at the address of an old one */
        forget_socket(d->sock);
        s = NULL;
    }
    watch_port(d);
    if (!s)
        s = watch_socket(sk, 1);
    if (!s)
        return;
    if (s->stream && is_unconnected(sk))
        return; /* no addresses yet: the next touch names it */
    s->inode = d->inode;
    s->file = d->file;
    emit_socket(now, t->pid, t->tid, d->inode, sk);
}

TRACEPOINT(inet_sock_set_state)
{
    u64 key = ctx->args[0];
    if (ctx->args[2] != TCP_ESTABLISHED_STATE)
        return 0;
    struct socket_state *s = state_of_socket(key);
    if (s && s->stream)
        begin_sequence(s, (struct sock *)key);
    return 0;
}

/* Its state says less: what a closed socket has received can still be read. */
TRACEPOINT(tcp_destroy_sock)
{
    forget_socket(ctx->args[0]);
    return 0;
}
