/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Finding, promoting and ending sessions, and what a packet does to its session.
 *
 * No bpf_spin_lock: it costs 42 ns a packet. Counters are atomic; each end's window is written by
 * packets of both directions, and a lost race there only widens or narrows a window by the packets
 * that raced.
 */
#ifndef LICTOR_SESSION_H
#define LICTOR_SESSION_H

#include "table.h"
#include "sctp.h"

#define SECOND_NS 1000000000ULL

static __always_inline void
session_update(struct session *session, __u8 direction, __u32 bytes, __u64 now)
{
	__sync_fetch_and_add(&session->packets[direction & 1], 1);
	__sync_fetch_and_add(&session->bytes[direction & 1], bytes);
	session->seen = ticks(now);
}

/* Where a session was found, if it was. */
#define FOUND_SESSION 1
#define FOUND_HALF_OPEN 2

struct found {
	struct session *session;
	__u32 where;
};

/* That a key is not among the sessions, and how many had been promoted until then. */
#define TRACE_ABSENT 1ULL
#define TRACE_ABSENT_HALF_OPEN 2ULL /* nor among those without an answer */

static __always_inline __u64 trace_absent(const struct table_info *info)
{
	return (__u64)*(volatile const __u32 *)&info->promotions << 32 | TRACE_ABSENT;
}

static __always_inline struct slot *session_among(struct context *c, const struct table_info *info)
{
	/* Volatile: one load, so that both bits belong together. */
	__u32 current = *(volatile __u32 *)&info->current, table = current & TABLE_CURRENT_MASK;
	struct slot *slot = table_find(c, table, info->buckets[table]);

	if (slot || !(current & TABLE_DRAINING))
		return slot;
	slot = slot_at(c, !table, table_search(c, !table, info->buckets[!table], 0));
	/* It may have been moved meanwhile. */
	return slot ? slot : slot_at(c, table, table_search(c, table, info->buckets[table], 0));
}

static __always_inline struct slot *half_among(struct context *c, const struct table_info *info)
{
	__u32 buckets = info->buckets[TABLE_HALF_OPEN];
	struct bucket *bucket;

	if (c->trace.absent & TRACE_ABSENT_HALF_OPEN)
		return 0;
	bucket = bucket_at(TABLE_HALF_OPEN, buckets, c->trace.hash, 0);
	return bucket ? bucket_find(bucket, &c->key, control_word(c->trace.hash, 0, SLOT_LIVE)) : 0;
}

/* Looks among the sessions, then among those without an answer, then among the sessions again if
 * any was promoted meanwhile: it may have been this one, by its answer on another processor.
 */
static __always_inline struct found session_find(struct context *c, const struct table_info *info)
{
	struct found found = {};
	struct slot *slot = 0;

	if (!c->trace.absent) {
		c->trace.hash = table_hash(info, &c->key);
		c->trace.absent = trace_absent(info);
		slot = session_among(c, info);
	}
	found.where = FOUND_SESSION;
	if (!slot) {
		slot = half_among(c, info);
		if (slot)
			found.where = FOUND_HALF_OPEN;
		else if ((c->trace.absent ^ trace_absent(info)) >> 32)
			slot = session_among(c, info);
	}
	if (slot)
		found.session = &slot->session;
	return found;
}

static __always_inline void half_remove(struct context *c, __u32 buckets)
{
	struct bucket *bucket = bucket_at(TABLE_HALF_OPEN, buckets, c->trace.hash, 0);

	if (bucket)
		bucket_remove(c, bucket, 0);
}

/* Wherever it is. */
__noinline int session_delete(struct context *c, struct table_info *info)
{
	__u32 table, removed;

	if (!c || !info)
		return 0;
	table = info->current & TABLE_CURRENT_MASK;
	removed = table_remove(c, table, info->buckets[table], 0);
	if (info->current & TABLE_DRAINING)
		removed += table_remove(c, !table, info->buckets[!table], 0);
	__sync_fetch_and_add(&info->live, -removed);
	half_remove(c, info->buckets[TABLE_HALF_OPEN]);
	return 0;
}

/* A place among the quota, if need be by taking out what has expired. */
__noinline int
session_reserve(struct context *c, struct table_info *info, __u32 quota)
{
	__u32 table;

	if (!c || !info)
		return 0;
	table = info->current & TABLE_CURRENT_MASK;
	if (__sync_fetch_and_add(&info->live, 1) < quota)
		return 1;
	for (int i = 0; i < SWEEP_WHEN_FULL; i++)
		table_sweep(c, info, table, info->buckets[table]);
	if (*(volatile __u32 *)&info->live <= quota)
		return 1;
	__sync_fetch_and_add(&info->live, -1);
	return 0;
}

/* Makes the session in the context, which was answered, one that no flood can push out. Returns
 * whether there was room. With every few of them a bucket is swept, so that the table needs no
 * agent to stay clean.
 */
__noinline int
session_promote(struct context *c, struct table_info *info, __u32 quota)
{
	__u32 table, buckets, promotions;
	int inserted;

	if (!c || !info)
		return 0;
	table = info->current & TABLE_CURRENT_MASK;
	buckets = info->buckets[table];
	if (!session_reserve(c, info, quota))
		return 0;
	inserted = table_insert(c, table, buckets);
	if (inserted == INSERT_FULL) {
		__sync_fetch_and_add(&info->live, -1);
		return 0;
	}
	if (inserted == INSERT_EXISTS)
		__sync_fetch_and_add(&info->live, -c->removed);
	promotions = __sync_fetch_and_add(&info->promotions, 1);
	half_remove(c, info->buckets[TABLE_HALF_OPEN]);
	if (!(promotions % SWEEP_EVERY))
		table_sweep(c, info, table, buckets);
	return 1;
}

static __always_inline __u32 timeout_place(__u8 protocol, __u8 state)
{
	__u32 replied = state != STATE_UNREPLIED;

	switch (protocol) {
	case IP_TCP:
		return TIMEOUT_TCP + (state & 7);
	case IP_SCTP:
		return TIMEOUT_SCTP + (state & 7);
	case IP_UDP:
	case IP_UDPLITE:
		return TIMEOUT_UDP + replied;
	case IP_ICMP:
	case IP_ICMPV6:
		return TIMEOUT_ICMP;
	}
	return TIMEOUT_OTHER + replied;
}

static __always_inline __u64 session_timeout_ns(__u8 protocol, __u8 state)
{
	__u32 zero = 0, place = timeout_place(protocol, state);
	struct timeouts *host = bpf_map_lookup_elem(&timeouts, &zero);

	return host && place < TIMEOUTS ? host->seconds[place] * SECOND_NS : 0;
}

__noinline int session_track(struct session *s, const struct packet *p, __u8 direction)
{
	if (!s || !p)
		return TRACK_INVALID;
	if (p->protocol == IP_TCP)
		return tcp_track(s, p, direction);
	if (p->protocol == IP_SCTP)
		return sctp_track(s, p, direction);
	if (s->state == STATE_UNREPLIED && direction != s->opened)
		s->state = STATE_ESTABLISHED;
	return TRACK_OK;
}

/* Zero for a packet that passes. */
static __always_inline int track_reason(int track, __u8 protocol)
{
	switch (track) {
	case TRACK_INVALID:
		return protocol == IP_SCTP ? REASON_SCTP_INVALID : REASON_TCP_INVALID;
	case TRACK_WINDOW:
		return REASON_TCP_WINDOW;
	case TRACK_FLAGS:
		return REASON_TCP_FLAGS;
	}
	return 0;
}

/* A packet that changes nothing does not keep its session alive either. A reset in doubt leaves it
 * as it is, but only for a moment, unless another packet shows that it goes on.
 */
static __always_inline void
session_renew(struct session *s, int track, __u8 protocol, __u64 now)
{
	__u8 state = track == TRACK_DOUBT ? STATE_CLOSED : s->state;

	if (track != TRACK_PASS || s->state == STATE_CLOSED)
		s->expires_ns = now + session_timeout_ns(protocol, state);
}

/* The key of a packet: its ends as the vnic sees them. */
static __always_inline void
session_key_of(const struct packet *p, __u32 segment, __u8 direction, struct session_key *key)
{
	int egress = direction == DIRECTION_EGRESS;

	copy16(key->local, egress ? p->source : p->destination);
	copy16(key->remote, egress ? p->destination : p->source);
	key->segment = segment;
	key->protocol = p->protocol;
	if (has_ports(p->protocol)) {
		key->local_port = egress ? p->source_port : p->destination_port;
		key->remote_port = egress ? p->destination_port : p->source_port;
	}
}

#endif
