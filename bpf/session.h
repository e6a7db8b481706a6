/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The session table behind four functions, and what moves a session from state to state.
 *
 * No bpf_spin_lock: it costs 42 ns a packet. Counters are atomic; each end's window is written by
 * packets of both directions, and a lost race there only widens or narrows a window by the packets
 * that raced.
 */
#ifndef LICTOR_SESSION_H
#define LICTOR_SESSION_H

#include "maps.h"

#define SECOND_NS 1000000000ULL
/* What an acknowledgement may lag behind, as in the kernel's connection tracking: the largest
 * unscaled window and one segment.
 */
#define ACK_LAG_MIN 66000

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

static __always_inline int after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

static __always_inline void tcp_syn_seen(struct session_end *end, const struct packet *p)
{
	end->end = p->sequence + p->payload + 1;
	end->window_max = p->window ? p->window : 1;
	end->end_max = end->end + end->window_max;
	end->scale = p->scale ? p->scale - 1 : 0;
	end->flags = END_KNOWN | END_SCALE_KNOWN | (p->scale ? END_SCALE_OFFERED : 0);
}

/* RFC 9293, 3.10.7: flags that no sender combines. */
static __always_inline int tcp_flags_impossible(__u8 flags)
{
	if (flags & FLAG_SYN)
		return flags & (FLAG_FIN | FLAG_RST);
	/* Only a SYN or a RST may come without an acknowledgement. */
	return !(flags & (FLAG_ACK | FLAG_RST)) || (flags & (FLAG_FIN | FLAG_RST)) ==
						   (FLAG_FIN | FLAG_RST);
}

/* A window that nobody told us, as after an import: learn from this packet and let it pass. */
static __always_inline void
tcp_learn(struct session_end *sender, struct session_end *receiver, const struct packet *p)
{
	__u32 last = p->sequence + p->payload + !!(p->flags & (FLAG_SYN | FLAG_FIN));
	__u32 window = p->window;

	if (!(sender->flags & (END_KNOWN | END_SCALE_KNOWN)))
		sender->scale = 14;
	/* RFC 7323, 2.2: the window of a SYN is never scaled. */
	if (!(p->flags & FLAG_SYN))
		window <<= sender->scale & 15;
	if (!(sender->flags & END_KNOWN)) {
		sender->end = last;
		sender->window_max = window ? window : 1;
		sender->end_max = last + sender->window_max;
		sender->flags |= END_KNOWN;
	} else if (after(last, sender->end)) {
		sender->end = last;
	}
	if (p->flags & FLAG_ACK && (!(receiver->flags & END_KNOWN) ||
				    after(p->acknowledgement + window, receiver->end_max)))
		receiver->end_max = p->acknowledgement + window;
}

/* The four bounds of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), as
 * the kernel's connection tracking applies them. Returns whether the packet lies inside.
 */
static __always_inline int
tcp_window(struct session_end *sender, struct session_end *receiver, const struct packet *p)
{
	__u32 seq = p->sequence, last = seq + p->payload + !!(p->flags & (FLAG_SYN | FLAG_FIN));
	__u32 ack = p->acknowledgement, window = p->window, lag;

	if (!(p->flags & FLAG_ACK))
		ack = receiver->end;
	if (!(p->flags & FLAG_SYN))
		window <<= sender->scale & 15;
	lag = sender->window_max > ACK_LAG_MIN ? sender->window_max : ACK_LAG_MIN;
	if (after(seq, sender->end_max) ||
	    !after(last, sender->end - receiver->window_max - 1) ||
	    after(ack, receiver->end) || !after(ack, receiver->end - lag - 1))
		return 0;
	if (p->flags & FLAG_RST)
		return 1;
	if (after(last, sender->end))
		sender->end = last;
	if (after(last, sender->end_max))
		receiver->window_max += last - sender->end_max;
	if (sender->window_max < window)
		sender->window_max = window;
	if (after(ack + window, receiver->end_max - 1))
		receiver->end_max = ack + (window ? window : 1);
	return 1;
}

#define TRACK_OK 0
#define TRACK_PASS 1 /* let through, change nothing */
#define TRACK_REOPEN 2 /* a new conversation under the old key */
#define TRACK_INVALID 3

/* Before the answer: the SYN again, a SYN-ACK, a refusal, or leftovers of an older conversation
 * that the other end must see so that it can reset them.
 */
static __always_inline int
tcp_track_unreplied(struct session *s, const struct packet *p, __u8 direction)
{
	struct session_end *opener = &s->tcp[s->opened & 1], *other = &s->tcp[!(s->opened & 1)];
	int acknowledges = p->acknowledgement == opener->end || !(opener->flags & END_KNOWN);

	if (direction == s->opened) {
		if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
			tcp_syn_seen(opener, p);
			return TRACK_OK;
		}
		if (p->flags & FLAG_RST) {
			if (p->sequence == opener->end)
				s->state = STATE_CLOSED;
			return TRACK_PASS;
		}
		return TRACK_INVALID;
	}
	if (p->flags & FLAG_RST) {
		if (!(p->flags & FLAG_ACK) || !acknowledges)
			return TRACK_INVALID;
		s->state = STATE_CLOSED;
		return TRACK_OK;
	}
	if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN)
		return TRACK_INVALID;
	if (!(p->flags & FLAG_SYN) || !acknowledges)
		return TRACK_PASS;
	tcp_syn_seen(other, p);
	/* RFC 7323, 2.2: scaling holds only if both sides offered it. */
	if (!(opener->flags & other->flags & END_SCALE_OFFERED))
		opener->scale = other->scale = 0;
	opener->end_max = p->acknowledgement + (p->window ? p->window : 1);
	s->state = STATE_SYN_RECEIVED;
	return TRACK_OK;
}

static __always_inline int
tcp_track(struct session *s, const struct packet *p, __u8 direction)
{
	__u8 own = direction & 1;
	struct session_end *sender = &s->tcp[own], *receiver = &s->tcp[!own];

	if (tcp_flags_impossible(p->flags))
		return TRACK_INVALID;
	if (s->state == STATE_UNREPLIED && (s->tcp[s->opened & 1].flags & END_KNOWN))
		return tcp_track_unreplied(s, p, direction);
	if ((p->flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
		if (s->state >= STATE_TIME_WAIT)
			return TRACK_REOPEN;
		/* RFC 5961, 4.2: the receiver challenges it and tells us by its answer. */
		return direction == s->opened ? TRACK_PASS : TRACK_INVALID;
	}
	if (p->flags & FLAG_SYN && direction == s->opened)
		return TRACK_INVALID;
	if (!(sender->flags & END_KNOWN) || !(receiver->flags & END_KNOWN))
		tcp_learn(sender, receiver, p);
	else if (!tcp_window(sender, receiver, p))
		return TRACK_INVALID;
	if (p->flags & FLAG_RST) {
		s->state = STATE_CLOSED;
	} else if (p->flags & FLAG_FIN) {
		sender->flags |= END_FIN;
		/* A reset is the end; only a SYN begins anew. */
		if (s->state != STATE_CLOSED)
			s->state = receiver->flags & END_FIN ? STATE_TIME_WAIT : STATE_FIN_WAIT;
	} else if (s->state <= STATE_SYN_RECEIVED && direction == s->opened) {
		s->state = STATE_ESTABLISHED;
	}
	return TRACK_OK;
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

#define ICMP_NOT 0
#define ICMP_ECHO 1
#define ICMP_REPLY 2
#define ICMP_ERROR 3
#define ICMP_OTHER 4

/* RFC 792 and RFC 4443, section 4; errors are those that name an inner packet and are still sent.
 * */ static __always_inline int icmp_kind(__u8 protocol, __u8 type)
{
	if (protocol == IP_ICMP) {
		switch (type) {
		case 8:
			return ICMP_ECHO;
		case 0:
			return ICMP_REPLY;
		case 3:
		case 11:
		case 12:
			return ICMP_ERROR;
		}
		return ICMP_OTHER;
	}
	if (protocol != IP_ICMPV6)
		return ICMP_NOT;
	switch (type) {
	case 128:
		return ICMP_ECHO;
	case 129:
		return ICMP_REPLY;
	case 1:
	case 2:
	case 3:
	case 4:
		return ICMP_ERROR;
	}
	return ICMP_OTHER;
}

static __always_inline __u16 echo_side(int kind, __u8 direction)
{
	int guest_asked = (kind == ICMP_ECHO) == (direction == DIRECTION_EGRESS);

	return guest_asked ? ECHO_GUEST_ASKED : ECHO_GUEST_WAS_ASKED;
}

/* The key of the conversation that an ICMP error speaks of. The inner packet went the other way.
 * Only the addressee of the inner packet or a router may complain, and only to its sender (RFC
 * 1122, 3.2.2). The guest is no router.
 */
static __always_inline int
related_key(struct __sk_buff *skb, const struct packet *p, __u32 segment, __u8 direction,
	    struct session_key *key)
{
	/* Toward the guest an error quotes what the guest sent, from it what it was sent. */
	int quotes_own = direction == DIRECTION_INGRESS;
	__u8 *source = quotes_own ? key->local : key->remote;
	__u8 *destination = quotes_own ? key->remote : key->local;
	__u32 at = p->l4 + sizeof(struct icmp);
	__be16 ports[4] = {};
	int kind;

	if (p->family == 4) {
		struct ipv4 header;

		if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)) ||
		    header.version_length >> 4 != 4 || (header.version_length & 15) < 5)
			return 0;
		/* Only a first fragment has ports. */
		if (header.fragment & bpf_htons(0x1fff))
			return 0;
		map_ipv4(source, header.source);
		map_ipv4(destination, header.destination);
		key->protocol = header.protocol;
		at += (header.version_length & 15) * 4;
	} else {
		struct ipv6 header;

		if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)) ||
		    bpf_ntohl(header.version_class_flow) >> 28 != 6)
			return 0;
		__builtin_memcpy(source, header.source, 16);
		__builtin_memcpy(destination, header.destination, 16);
		key->protocol = header.next;
		at += sizeof(header);
	}
	/* Bytes after the IP packet's end are no part of the quote. */
	if (at + sizeof(ports) > p->l4 + p->l4_bytes ||
	    bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return 0;
	key->segment = segment;
	if (key->protocol == IP_TCP || key->protocol == IP_UDP) {
		key->local_port = bpf_ntohs(quotes_own ? ports[0] : ports[1]);
		key->remote_port = bpf_ntohs(quotes_own ? ports[1] : ports[0]);
	}
	kind = icmp_kind(key->protocol, bpf_ntohs(ports[0]) >> 8);
	if (kind == ICMP_ECHO || kind == ICMP_REPLY) {
		key->local_port = bpf_ntohs(ports[2]);
		key->remote_port = echo_side(kind, !direction);
	} else if (kind != ICMP_NOT) {
		return 0;
	}
	if (direction == DIRECTION_INGRESS)
		return same16(key->local, p->destination);
	/* Without the second half a guest could tell anybody anything in an error's body. */
	return same16(key->local, p->source) && same16(key->remote, p->destination);
}

#endif
