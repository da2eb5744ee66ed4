/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The unit in which BCC's helpers size perf and ring buffers. */
#define PAGE_SIZE 4096UL
