/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of every packet: count, report, return. */
#ifndef LICTOR_VERDICT_H
#define LICTOR_VERDICT_H

#include "context.h"
#include "event.h"

/* TCX_NEXT (6.6) and TC_ACT_UNSPEC are the same number: the next program or filter goes on. */
#define RETURN_ALLOW (-1)
/* TCX_DROP and TC_ACT_SHOT, likewise. */
#define RETURN_DENY 2

static __always_inline void count(__u8 direction, __u32 reason, __u32 bytes)
{
	__u32 index = (direction & 1) * COUNTERS_PER_DIRECTION + (reason & 127);
	struct counter *counter = bpf_map_lookup_elem(&counters, &index);

	/* Per CPU, and tc programs do not nest on one CPU within a vnic and direction. */
	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
}

static __always_inline void count_rule(const struct context *c, __u32 bytes)
{
	__u32 rule = c->judgement.rule;
	struct rule_counter fresh = {}, *counter = bpf_map_lookup_elem(&rule_counters, &rule);

	if (!counter) {
		bpf_map_update_elem(&rule_counters, &rule, &fresh, BPF_NOEXIST);
		counter = bpf_map_lookup_elem(&rule_counters, &rule);
	}
	if (!counter) {
		host_count(HOST_RULES_UNCOUNTED);
		return;
	}
	__sync_fetch_and_add(&counter->packets, 1);
	__sync_fetch_and_add(&counter->bytes, bytes);
	if (c->new_session)
		__sync_fetch_and_add(&counter->sessions, 1);
}

/* New sessions and denials by a rule are reported if the rule says so; other denials always, but
 * not those of a vnic that does not forward at all: its counters tell as much.
 */
static __always_inline int worth_an_event(const struct context *c, __u8 reason)
{
	switch (reason) {
	case REASON_POLICY_ALLOW:
	case REASON_POLICY_DENY:
		return c->judgement.log;
	case REASON_HOLD:
	case REASON_HANDED_OVER:
	case REASON_CUT:
		return 0;
	}
	return reason >= REASON_DENY_FIRST;
}

static __always_inline void report(const struct context *c, __u8 reason, __u32 bytes)
{
	struct event *event;

	if (!event_afford(c->now)) {
		host_count(HOST_EVENTS_LOST);
		return;
	}
	/* bpf_ringbuf_reserve: 5.8. */
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		host_count(HOST_EVENTS_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = c->now;
	event->generation = c->tables.generation;
	event->key = c->key;
	event->vnic = c->vnic;
	event->rule = c->judgement.rule;
	event->length = bytes;
	event->ether_type = c->packet.ether_type;
	event->direction = c->direction;
	event->verdict = reason < REASON_DENY_FIRST ? VERDICT_ALLOW : VERDICT_DENY;
	event->reason = reason;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline int finish(struct __sk_buff *skb, const struct context *c, __u8 reason)
{
	__u32 bytes = skb->len;

	count(c->direction, reason, bytes);
	if (reason == REASON_POLICY_ALLOW || reason == REASON_POLICY_DENY ||
	    reason == REASON_DEFAULT_DENY)
		count_rule(c, bytes);
	if (worth_an_event(c, reason))
		report(c, reason, bytes);
	skb->cb[CB_REASON] = reason;
	skb->cb[CB_RULE] = c->judgement.rule;
	return reason < REASON_DENY_FIRST ? RETURN_ALLOW : RETURN_DENY;
}

#endif
