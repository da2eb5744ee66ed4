/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The smallest power of two that is not below x, as a constant expression, for x up to 2^63. */
#define roundup_pow_of_two(x) ((x) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((x) - 1)))
