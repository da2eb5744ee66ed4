// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* The moment of `ready`: sock:sk_data_ready fires for every socket whose receive queue got something. */

TRACEPOINT(sk_data_ready)
{
    on_data_ready((struct sock *)ctx->args[0]);
    return 0;
}
