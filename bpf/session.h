/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The session table behind four functions, and what a packet does to its session.
 *
 * No bpf_spin_lock: it costs 42 ns a packet. Counters are atomic; each end's window is written by
 * packets of both directions, and a lost race there only widens or narrows a window by the packets
 * that raced.
 */
#ifndef LICTOR_SESSION_H
#define LICTOR_SESSION_H

#include "maps.h"
#include "tcp.h"

#define SECOND_NS 1000000000ULL

static __always_inline struct session *session_lookup(const struct session_key *key)
{
	return bpf_map_lookup_elem(&sessions, key);
}

static __always_inline long session_insert(const struct session_key *key, const struct session *new)
{
	return bpf_map_update_elem(&sessions, key, new, BPF_NOEXIST);
}

static __always_inline void
session_update(struct session *session, __u8 direction, __u32 bytes, __u64 now)
{
	__sync_fetch_and_add(&session->packets[direction & 1], 1);
	__sync_fetch_and_add(&session->bytes[direction & 1], bytes);
	session->last_seen_ns = now;
}

static __always_inline void session_delete(const struct session_key *key)
{
	bpf_map_delete_elem(&sessions, key);
}

static __always_inline __u64 session_timeout_ns(__u8 protocol, __u8 state)
{
	__u64 seconds;

	if (protocol == IP_TCP) {
		switch (state) {
		case STATE_UNREPLIED:
			seconds = TIMEOUT_TCP_UNREPLIED_S;
			break;
		case STATE_SYN_RECEIVED:
			seconds = TIMEOUT_TCP_SYN_RECEIVED_S;
			break;
		case STATE_ESTABLISHED:
			seconds = TIMEOUT_TCP_ESTABLISHED_S;
			break;
		case STATE_FIN_WAIT:
			seconds = TIMEOUT_TCP_FIN_WAIT_S;
			break;
		case STATE_TIME_WAIT:
			seconds = TIMEOUT_TCP_TIME_WAIT_S;
			break;
		default:
			seconds = TIMEOUT_TCP_CLOSED_S;
		}
	} else if (protocol == IP_UDP) {
		seconds = state == STATE_UNREPLIED ? TIMEOUT_UDP_UNREPLIED_S :
						     TIMEOUT_UDP_ESTABLISHED_S;
	} else if (protocol == IP_ICMP || protocol == IP_ICMPV6) {
		seconds = TIMEOUT_ICMP_S;
	} else {
		seconds = state == STATE_UNREPLIED ? TIMEOUT_OTHER_UNREPLIED_S :
						     TIMEOUT_OTHER_ESTABLISHED_S;
	}
	return seconds * SECOND_NS;
}

static __always_inline int
session_track(struct session *s, const struct packet *p, __u8 direction)
{
	if (p->protocol == IP_TCP)
		return tcp_track(s, p, direction);
	if (s->state == STATE_UNREPLIED && direction != s->opened)
		s->state = STATE_ESTABLISHED;
	return TRACK_OK;
}

/* Zero for a packet that passes. */
static __always_inline int track_reason(int track)
{
	switch (track) {
	case TRACK_INVALID:
		return REASON_TCP_INVALID;
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

	__builtin_memcpy(key->local, egress ? p->source : p->destination, 16);
	__builtin_memcpy(key->remote, egress ? p->destination : p->source, 16);
	key->segment = segment;
	key->protocol = p->protocol;
	if (p->protocol == IP_TCP || p->protocol == IP_UDP) {
		key->local_port = egress ? p->source_port : p->destination_port;
		key->remote_port = egress ? p->destination_port : p->source_port;
	}
}

#endif
