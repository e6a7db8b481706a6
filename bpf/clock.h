/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What time it is. The coarse clock advances with the kernel's ticks, so it is asked once a tick; a
 * call costs a packet as much as the search for its session.
 */
#ifndef LICTOR_CLOCK_H
#define LICTOR_CLOCK_H

#include "maps.h"

/* The time is written before the tick that it belongs to, and read after it: whoever sees the tick
 * sees its time or a later one. A machine that reorders loads may be a tick behind.
 */
static __always_inline __u64 clock_coarse(const __u32 *zero)
{
	volatile struct clock *cached = bpf_map_lookup_elem(&clock, zero);
	__u64 tick = bpf_jiffies64(), now;

	if (!cached)
		return bpf_ktime_get_coarse_ns();
	if (cached->jiffies == tick)
		return cached->now_ns;
	/* bpf_ktime_get_coarse_ns: 5.11. */
	now = bpf_ktime_get_coarse_ns();
	cached->now_ns = now;
	cached->jiffies = tick;
	return now;
}

static __always_inline __u64 clock_now(const struct vnic_config *config, const __u32 *zero)
{
	return config->clock_fixed_ns ? config->clock_fixed_ns :
					clock_coarse(zero) + config->clock_offset_ns;
}

#endif
