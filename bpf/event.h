/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events for the agent. The ring is bounded, each vnic's share of it is bounded per second, and
 * what does not fit is counted.
 */
#ifndef LICTOR_EVENT_H
#define LICTOR_EVENT_H

#include "rules.h"

static __always_inline int event_afford(__u64 now)
{
	__u32 zero = 0;
	struct event_budget *budget = bpf_map_lookup_elem(&event_budget, &zero);
	__u64 second = now / 1000000000ULL;

	if (!budget)
		return 0;
	/* Two processors may both begin a second: a few events more, never an unbounded number. */
	if (budget->second != second) {
		budget->second = second;
		budget->used = 0;
	}
	if (budget->used >= EVENTS_PER_VNIC_PER_SECOND)
		return 0;
	__sync_fetch_and_add(&budget->used, 1);
	return 1;
}

#endif
