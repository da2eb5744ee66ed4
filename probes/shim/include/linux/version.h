/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* BCC compares with this; capability is found by trying, so one answer serves every kernel from 5.8. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
