/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What BCC asks of a kernel's configuration; its presence makes BCC accept this tree. */
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_ARCH_HAS_SYSCALL_WRAPPER 1
