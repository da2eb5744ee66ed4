// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The moment of `ready`: sock:sk_data_ready fires for every socket whose receive queue got something.
 *
 * It came with v6.3 (40e0b0908142). Before, tcp:tcp_probe fires when TCP looks at a segment for an established
 * connection, which is a little earlier (net/ipv4/tcp_input.c, tcp_rcv_established).
 */

TRACEPOINT(sk_data_ready)
{
    on_data_ready((struct sock *)ctx->args[0]);
    return 0;
}

/* Returns where the payload of a TCP segment begins and ends, in sequence numbers: end - begin is its length. */
static __always_inline void segment(struct sk_buff *skb, u32 *begin, u32 *end)
{
    unsigned char *header = NULL;
    unsigned int length = 0;
    u8 offset = 0;
    READ(*begin, &((struct tcp_skb_cb *)&skb->cb)->seq);
    LOAD(header, skb, data);
    LOAD(length, skb, len);
    READ(offset, header + 12); /* struct tcphdr: doff is the upper half of byte 12, in 32-bit words */
    *end = *begin + length - (offset >> 4) * 4;
}

TRACEPOINT(tcp_probe)
{
    u32 begin = 0, end = 0, next = 0;
    struct sock *sk = (struct sock *)ctx->args[0];
    struct socket_state *s = watched_socket(sk);
    if (!s || !s->stream)
        return 0;
    segment((struct sk_buff *)ctx->args[1], &begin, &end);
    LOAD(next, (struct tcp_sock *)sk, rcv_nxt);
    /* Out of order it is not ready yet; an acknowledgement, or what was there before, is nothing new. */
    if ((s32)(begin - next) > 0 || (s32)(end - s->last_end) <= 0 || end == begin)
        return 0;
    push_arrival(s, bpf_ktime_get_ns(), end);
    return 0;
}
