//! Conversations that are taken up in their midst, because the host that knew them has died.

use super::{Answer, Firewall, Frame, answer, judged};
use crate::parse::Segment;
use crate::policy::Judgement;
use crate::tcp::{self, Side};
use lictor_types::{Direction, Reason, SessionKey, TcpState};

impl Firewall {
    /// The answer to a segment that begins nothing. Who opened its conversation is not known: the
    /// policy is asked as if its sender had, then as if the other end had. Until both ends were
    /// heard it is as liberal as what arrives without windows.
    pub(super) fn adopt(
        &mut self,
        frame: &Frame<'_>,
        (key, segment): (SessionKey, &Segment),
        judgement: Judgement,
    ) -> Answer {
        let now = frame.at;
        if now >= self.terms.adopt_until || !segment.flags.goes_on() {
            return answer(Reason::NoSession, judgement.rule);
        }
        let opened = match (judgement.reason, frame.direction) {
            (Reason::PolicyAllow, direction) => direction,
            (_, Direction::Egress) => Direction::Ingress,
            (_, Direction::Ingress) => Direction::Egress,
        };
        let judgement = match &self.tables {
            Some(tables) => tables.judge(&self.vnic, &key, opened, 0),
            None => judgement,
        };
        if judgement.reason != Reason::PolicyAllow {
            return answer(Reason::NoSession, judgement.rule);
        }
        let judgement = self.kept(judgement, now);
        let judgement = self.limited(judgement, now);
        if !judgement.allows() {
            return judged(&judgement);
        }
        let mut session = self.session(frame, &key, &judgement, [Side::default(); 2]);
        session.opened = opened;
        session.state = TcpState::Established;
        session.promoted = true;
        session.expires = now + self.timeouts.of(key.protocol, TcpState::Established);
        tcp::track(&mut session, segment, frame.direction);
        if self.sessions.insert(key, session, now).is_err() {
            return answer(Reason::SessionTableFull, judgement.rule);
        }
        if judgement.reason != Reason::PolicyAllow {
            return judged(&judgement);
        }
        if let Some(rule) = self.counters.rule(judgement.rule) {
            rule.sessions += 1;
        }
        judged(&Judgement {
            reason: Reason::Adopted,
            ..judgement
        })
    }
}
