/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SCTP: verification tags and states of one association, as far as the first chunk of each packet
 * shows (RFC 9260). Pure: nothing here reads a map.
 *
 * Of a side's session_end, `end` is the tag that its packets carry, if END_KNOWN; `acked` the tag
 * that it has named to begin anew, if END_NOTED.
 */
#ifndef LICTOR_SCTP_H
#define LICTOR_SCTP_H

#include "tcp.h"

#define CHUNK_INIT 1
#define CHUNK_INIT_ACK 2
#define CHUNK_HEARTBEAT 4
#define CHUNK_ABORT 6
#define CHUNK_SHUTDOWN 7
#define CHUNK_SHUTDOWN_ACK 8
#define CHUNK_COOKIE_ECHO 10
#define CHUNK_COOKIE_ACK 11
#define CHUNK_SHUTDOWN_COMPLETE 14
/* The T bit: the sender knows no tag of its own and gives back the receiver's (8.5.1). */
#define CHUNK_TAG_REFLECTED 1

static __always_inline void sctp_require(struct session *s, __u8 side, __u32 tag)
{
	s->tcp[side & 1].end = tag;
	s->flags[side & 1] |= END_KNOWN;
}

static __always_inline void sctp_note(struct session *s, __u8 side, __u32 tag)
{
	s->tcp[side & 1].acked = tag;
	s->flags[side & 1] |= END_NOTED;
}

/* 8.5.1: an INIT has no verification tag, everything else has one. A tag is never zero. */
static __always_inline int sctp_impossible(const struct packet *p)
{
	if (p->chunk == CHUNK_INIT)
		return p->sequence || !p->acknowledgement;
	return !p->sequence || (p->chunk == CHUNK_INIT_ACK && !p->acknowledgement);
}

/* An association begins with an INIT; another path of one with a HEARTBEAT (8.3). */
static __always_inline int sctp_opens(const struct packet *p)
{
	return p->chunk == CHUNK_INIT || p->chunk == CHUNK_HEARTBEAT;
}

static __always_inline void sctp_first(struct session *s, const struct packet *p)
{
	__u8 own = s->opened & 1;

	if (p->chunk == CHUNK_INIT)
		sctp_require(s, !own, p->acknowledgement);
	else
		sctp_require(s, own, p->sequence);
}

/* Once more, by the other side too, or by one that has restarted (5.2). */
static __always_inline int sctp_init(struct session *s, const struct packet *p, __u8 own)
{
	if (s->state >= STATE_TIME_WAIT)
		return TRACK_REOPEN;
	if (s->state != STATE_UNREPLIED) {
		sctp_note(s, own, p->acknowledgement);
		return TRACK_PASS;
	}
	sctp_require(s, !own, p->acknowledgement);
	return TRACK_OK;
}

/* Whether the tag is the one that this side's packets carry, or may be learnt: until an INIT is
 * answered, whoever sent it knows none.
 */
static __always_inline int
sctp_verified(const struct session *s, const struct packet *p, __u8 own)
{
	int ends = p->chunk == CHUNK_ABORT || p->chunk == CHUNK_SHUTDOWN_COMPLETE;
	int other_known = s->flags[!own] & END_KNOWN;

	if (ends && p->flags & CHUNK_TAG_REFLECTED)
		return !other_known || p->sequence == s->tcp[!own].end;
	if (s->flags[own & 1] & END_KNOWN)
		return p->sequence == s->tcp[own & 1].end;
	return own != (s->opened & 1) || s->state != STATE_UNREPLIED || !other_known;
}

/* What belongs to an association that begins anew beside the one that is known. */
static __always_inline int sctp_anew(struct session *s, const struct packet *p, __u8 own)
{
	__u32 tag;

	if (!(s->flags[!own] & END_NOTED) || p->sequence != s->tcp[!own].acked)
		return TRACK_INVALID;
	if (p->chunk == CHUNK_INIT_ACK) {
		sctp_note(s, own, p->acknowledgement);
		return TRACK_PASS;
	}
	if (p->chunk == CHUNK_ABORT)
		return TRACK_PASS;
	if (p->chunk != CHUNK_COOKIE_ECHO || !(s->flags[own & 1] & END_NOTED))
		return TRACK_INVALID;
	tag = s->tcp[own & 1].acked;
	sctp_require(s, own, p->sequence);
	sctp_require(s, !own, tag);
	s->tcp[0].acked = s->tcp[1].acked = 0;
	s->flags[0] &= ~END_NOTED;
	s->flags[1] &= ~END_NOTED;
	return TRACK_OK;
}

/* Before an association stands, or another path of it. */
static __always_inline int sctp_half_open(struct session *s, const struct packet *p, __u8 own)
{
	__u8 o = s->opened & 1;
	int asked = s->flags[!o] & END_KNOWN && !(s->flags[o] & END_KNOWN);

	switch (p->chunk) {
	case CHUNK_INIT_ACK:
		sctp_require(s, !own, p->acknowledgement);
		s->state = STATE_SYN_RECEIVED;
		return TRACK_OK;
	case CHUNK_COOKIE_ECHO:
		return s->state == STATE_UNREPLIED ? TRACK_INVALID : TRACK_OK;
	case CHUNK_COOKIE_ACK:
		if (s->state == STATE_UNREPLIED)
			return TRACK_INVALID;
		s->state = STATE_ESTABLISHED;
		return TRACK_OK;
	}
	if (own == o)
		return p->chunk == CHUNK_HEARTBEAT ? TRACK_OK : TRACK_PASS;
	/* An INIT is answered by an INIT-ACK. */
	if (s->state == STATE_UNREPLIED && asked)
		return TRACK_INVALID;
	s->state = STATE_ESTABLISHED;
	return TRACK_OK;
}

static __always_inline int sctp_standing(struct session *s, const struct packet *p)
{
	if (p->chunk == CHUNK_INIT_ACK)
		return TRACK_PASS;
	if (p->chunk == CHUNK_SHUTDOWN && s->state == STATE_ESTABLISHED)
		s->state = STATE_FIN_WAIT;
	if (p->chunk == CHUNK_SHUTDOWN_ACK && s->state == STATE_FIN_WAIT)
		s->state = STATE_TIME_WAIT;
	return TRACK_OK;
}

static __always_inline int sctp_track(struct session *s, const struct packet *p, __u8 direction)
{
	__u8 own = direction & 1;
	int track;

	if (sctp_impossible(p))
		return TRACK_INVALID;
	if (p->chunk == CHUNK_INIT)
		return sctp_init(s, p, own);
	if (!sctp_verified(s, p, own))
		return sctp_anew(s, p, own);
	if (p->chunk == CHUNK_ABORT || p->chunk == CHUNK_SHUTDOWN_COMPLETE) {
		s->state = STATE_CLOSED;
		return TRACK_OK;
	}
	track = s->state <= STATE_SYN_RECEIVED ? sctp_half_open(s, p, own) : sctp_standing(s, p);
	/* A tag that nobody told us, as after an import or on another path. */
	if (track != TRACK_INVALID)
		sctp_require(s, own, p->sequence);
	return track;
}

#endif
