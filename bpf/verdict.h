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

/* Whether the policy decided: its rule, and what would have been, belong to the packet. */
static __always_inline int judged(__u8 reason)
{
	switch (reason) {
	case REASON_POLICY_ALLOW:
	case REASON_POLICY_DENY:
	case REASON_DEFAULT_DENY:
	case REASON_REJECTED:
	case REASON_LIMITED:
	case REASON_UNPROVEN:
	case REASON_STALE:
	case REASON_OBSERVED:
	case REASON_DHCP:
	case REASON_ADOPTED:
		return 1;
	}
	return 0;
}

/* What the policy decided is counted under its rule, and under the rule that would have decided. */
static __always_inline void count_judged(struct context *c, __u8 reason, __u32 bytes)
{
	if (reason != REASON_OBSERVED)
		rule_count(c, bytes);
	if (c->judgement.has_would)
		rule_count_observed(c);
}

/* New sessions and denials by a rule are reported if the rule says so; what passes in observe mode,
 * what is taken up in its midst, and other denials always, but not those of a vnic that does not
 * forward at all: its counters tell as much.
 */
static __always_inline int worth_an_event(const struct context *c, __u8 reason)
{
	switch (reason) {
	case REASON_OBSERVED:
	case REASON_ADOPTED:
		return 1;
	case REASON_POLICY_ALLOW:
	case REASON_POLICY_DENY:
	case REASON_REJECTED:
	case REASON_LIMITED:
	case REASON_UNPROVEN:
	case REASON_STALE:
	case REASON_DHCP:
		return c->judgement.log;
	case REASON_HOLD:
	case REASON_HANDED_OVER:
	case REASON_CUT:
		return 0;
	}
	return reason >= REASON_DENY_FIRST;
}

static __always_inline void report(struct context *c, __u8 reason, __u32 bytes)
{
	struct event *event;

	if (judged(reason) && reason != REASON_OBSERVED &&
	    !rule_may_report(c)) {
		host_count(HOST_EVENTS_LIMITED);
		return;
	}
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
	/* What is denied before anybody asks the tables is denied under a release all the same. */
	if (!c->tables.version)
		tables_read(&c->tables);
	event->time_ns = c->now;
	event->generation = tables_generation(&c->tables);
	event->key = c->key;
	event->vnic = c->vnic;
	event->rule = c->judgement.rule;
	event->length = bytes;
	event->ether_type = c->packet.ether_type;
	event->direction = c->direction;
	event->verdict = reason < REASON_DENY_FIRST ? VERDICT_ALLOW : VERDICT_DENY;
	event->reason = reason;
	event->would = c->judgement.has_would ? c->judgement.would : VERDICT_NONE;
	event->would_rule = c->judgement.has_would ? c->judgement.would_rule : 0;
	bpf_ringbuf_submit(event, 0);
}

/* To whoever runs the program on a packet. */
static __always_inline void tell(struct __sk_buff *skb, const struct context *c, __u8 reason)
{
	skb->cb[CB_REASON] = reason;
	skb->cb[CB_RULE] = c->judgement.rule;
	skb->cb[CB_WOULD_RULE] = c->judgement.has_would ? c->judgement.would_rule : 0;
	skb->cb[CB_WOULD] = c->judgement.has_would ? c->judgement.would : VERDICT_NONE;
}

/* What nobody sent is not counted, reported or forwarded. */
static __always_inline int proven(struct __sk_buff *skb, struct context *c, __u8 reason)
{
	if (!judged(reason))
		c->judgement.has_would = 0;
	tell(skb, c, reason);
	return RETURN_DENY;
}

static __always_inline int finish(struct __sk_buff *skb, struct context *c, __u8 reason)
{
	__u32 bytes = skb->len;

	count(c->direction, reason, bytes);
	if (judged(reason))
		count_judged(c, reason, bytes);
	else
		c->judgement.has_would = 0;
	if (worth_an_event(c, reason))
		report(c, reason, bytes);
	tell(skb, c, reason);
	return reason < REASON_DENY_FIRST || c->passes ? RETURN_ALLOW : RETURN_DENY;
}

#endif
