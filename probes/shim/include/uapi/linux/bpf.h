/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Empty: BCC includes this name, and brings the contents itself. */
