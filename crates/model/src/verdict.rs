//! The firewall of one vnic: the order of the steps, and what is counted.

mod adopt;

use crate::answer::Answers;
use crate::antispoof::{self, ROUTER_ADVERTISEMENT, Station};
use crate::counters::Counters;
use crate::event::{Event, Events, Log, Unreported};
use crate::extension::Fragment;
use crate::fragment::{self, Fragments};
use crate::guard;
use crate::icmp::{self, Purpose};
use crate::locals::Locals;
use crate::parse::{self, Content, Ip, Transport};
use crate::policy::{Judgement, Place, Tables};
use crate::sctp::{self, Tags};
use crate::session::{self, Session, Table};
use crate::tcp::{self, Side, Track};
use crate::terms::Terms;
use crate::window::Window;
use lictor_types::{
    Direction, Generation, HostTables, Link, Mac, Protocol, Reason, RuleId, Segment, SessionKey,
    SessionRecord, TcpState, Timeouts, Verdict, VnicId, VnicState, Would,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnic {
    /// Its number.
    pub vnic: VnicId,
    /// The guest's MAC.
    pub mac: Mac,
    /// The L2 domain.
    pub segment: Segment,
    /// The quota of sessions.
    pub sessions_max: u32,
    /// What it may be on its link beyond that.
    pub link: Link,
}

impl Vnic {
    /// Whether this is one of its own stations.
    pub(crate) fn is(&self, mac: Mac) -> bool {
        mac == self.mac || self.link.more_macs.contains(&Some(mac))
    }

    /// In one of its domains.
    pub(crate) fn place(&self, segment: Segment) -> Place {
        Place {
            vnic: self.vnic,
            segment,
            shared: self.link.shared,
        }
    }

    /// Whether this is one of its domains.
    pub(crate) fn is_in(&self, segment: Segment) -> bool {
        let mut vlans = self.link.vlans.iter().flatten();
        segment == self.segment || vlans.any(|vlan| vlan.segment == segment)
    }
}

/// A packet and its circumstances.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// From the guest or toward it.
    pub direction: Direction,
    /// The time since any fixed moment. It never goes back.
    pub at: Duration,
    /// From the Ethernet header to the last byte.
    pub bytes: &'a [u8],
    /// The vnic of this host by whose device it came in; none for the uplink. Of a packet from the
    /// guest nothing is asked.
    pub came_by: Option<VnicId>,
}

/// What is to happen to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Allow or deny.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// By which rule; [`RuleId::DEFAULT`] if none was asked or none names it.
    pub rule: RuleId,
    /// What would have happened, were it not for observe mode.
    pub would: Option<Would>,
    pub(crate) log: Log,
}

/// The stateful firewall of one vnic. It begins in hold and without tables.
#[derive(Debug, Clone)]
pub struct Firewall {
    vnic: Vnic,
    state: VnicState,
    tables: Option<Tables>,
    sessions: Table,
    counters: Counters,
    /// Of each rule with a limit: the sessions that it opened in this second.
    limits: BTreeMap<RuleId, Window>,
    events: Events,
    answers: Answers,
    /// The answer to the last packet.
    refusal: Option<Vec<u8>>,
    /// The conversation of the last packet, as far as it was understood.
    key: Option<SessionKey>,
    /// The report of the last packet.
    event: Option<Event>,
    timeouts: Timeouts,
    locals: Locals,
    fragments: Fragments,
    terms: Terms,
}

fn answer(reason: Reason, rule: RuleId) -> Answer {
    let denies = reason >= Reason::PolicyDeny;
    Answer {
        verdict: if denies {
            Verdict::Deny
        } else {
            Verdict::Allow
        },
        reason,
        rule,
        would: None,
        log: Log::default(),
    }
}

fn judged(judgement: &Judgement) -> Answer {
    Answer {
        would: judgement.would,
        log: judgement.log,
        ..answer(judgement.reason, judgement.rule)
    }
}

fn ruleless(reason: Reason) -> Answer {
    answer(reason, RuleId::DEFAULT)
}

impl Firewall {
    /// A vnic in hold.
    #[must_use]
    pub fn new(vnic: Vnic) -> Self {
        Self {
            vnic,
            state: VnicState::Hold,
            tables: None,
            sessions: Table::new(vnic.sessions_max as usize),
            counters: Counters::default(),
            limits: BTreeMap::new(),
            events: Events::default(),
            answers: Answers::default(),
            refusal: None,
            key: None,
            event: None,
            timeouts: Timeouts::default(),
            locals: Locals::default(),
            fragments: Fragments::default(),
            terms: Terms::default(),
        }
    }

    /// Sets whether it forwards.
    pub fn set_state(&mut self, state: VnicState) {
        self.state = state;
    }

    /// Sets on which terms a conversation may begin.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Sets the host's time-outs. What lives keeps the time that it has until its next packet.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) {
        self.timeouts = *timeouts;
    }

    /// Tells it of a vnic on the same host, itself or another.
    pub fn set_local(&mut self, vnic: VnicId, state: VnicState) {
        self.locals.set(vnic, state);
    }

    /// Replaces the tables. Every session is judged again with its next packet.
    pub fn load(&mut self, tables: &HostTables) {
        let version = self.tables.as_ref().map_or(0, |tables| tables.version) + 1;
        self.tables = Some(Tables::new(tables, version));
    }

    /// The live sessions, by key.
    #[must_use]
    pub fn sessions(&self, now: Duration) -> Vec<SessionRecord> {
        self.sessions.records(now)
    }

    /// Takes sessions in that another host had. What has expired, belongs to another segment, is
    /// there already or finds no room is left out.
    pub fn import(&mut self, records: &[SessionRecord], now: Duration) {
        for record in records {
            let fits = self.vnic.is_in(record.key.segment) && record.expires_in_ms > 0;
            if fits && !self.sessions.contains(&record.key) {
                // A full table refuses the record; it is no error of the others.
                let _full = self
                    .sessions
                    .insert(record.key, session::taken_in(record, now), now);
            }
        }
    }

    /// Removes every session.
    pub fn purge(&mut self) {
        self.sessions.clear();
        self.fragments.clear();
    }

    /// Removes what has expired and still holds a place.
    pub fn sweep(&mut self, now: Duration) {
        self.sessions.sweep(now);
    }

    /// What was counted since the vnic exists.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was worth an event and is none.
    #[must_use]
    pub fn unreported(&self) -> Unreported {
        self.events.unreported
    }

    /// Judges a packet, and counts, reports and remembers it.
    pub fn judge(&mut self, frame: &Frame<'_>) -> Answer {
        self.refusal = None;
        self.key = None;
        let mut answer = self.decide(frame).unwrap_or_else(ruleless);
        if answer.verdict == Verdict::Deny && self.answers.expect(frame.bytes, frame.at) {
            answer = ruleless(Reason::Answer);
        }
        self.counters.count(frame, &answer);
        let counted = self.counters.rules.contains_key(&answer.rule);
        let told = (self.key, self.generation());
        self.event = self.events.report(frame, (&answer, counted), told);
        answer
    }

    /// Of the release in force.
    fn generation(&self) -> Generation {
        let release = self.tables.as_ref();
        release.map(|tables| tables.generation).unwrap_or_default()
    }

    /// The report of the last packet, if there is one.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// The answer to the last packet, if a rule rejects it and it can be answered.
    #[must_use]
    pub fn refusal(&self) -> Option<&[u8]> {
        self.refusal.as_deref()
    }

    /// The steps. An error is the reason of a packet that no rule was asked about.
    fn decide(&mut self, frame: &Frame<'_>) -> Result<Answer, Reason> {
        // 1. Unless the vnic is open, everything is dropped.
        match self.state {
            VnicState::Open => {}
            VnicState::Hold => return Err(Reason::Hold),
            VnicState::HandedOver => return Err(Reason::HandedOver),
            VnicState::Cut => return Err(Reason::Cut),
        }
        // 2. What is not understood is denied.
        let packet = parse::frame(frame.bytes, self.vnic.segment, &self.vnic.link)?;
        // 3. The MAC, whose liar is not worth a look-up.
        antispoof::mac(&self.vnic, &packet, frame.direction)?;
        // 4. The link's own protocols; all but the announcement ask who has an address.
        if let Content::Rarp(body) = packet.content {
            return Err(antispoof::rarp(body, &self.vnic, frame.direction));
        }
        let version = self.tables.as_ref().ok_or(Reason::NoRelease)?.version;
        if let Content::Ip(ip) = &packet.content
            && let Some(fragment) = ip.fragment
        {
            let key = fragment::Key::of(ip, fragment, packet.segment, frame.direction);
            if !fragment.first() {
                return self.follow(frame, (key, fragment), version);
            }
            let again = self.fragments.live(&key, frame.at).is_some();
            if again || antispoof::is_neighbour_message(ip) {
                return Err(Reason::BadFragment);
            }
        }
        let tables = self.tables.as_ref().ok_or(Reason::NoRelease)?;
        let station = Station {
            place: self.vnic.place(packet.segment),
            vnic: &self.vnic,
            locals: &self.locals,
            came_by: frame.came_by,
        };
        if let Some(reason) = antispoof::nd(&packet, tables, station, frame.direction) {
            return Err(reason);
        }
        match &packet.content {
            Content::Arp(body) => Err(antispoof::arp(body, tables, station, frame.direction)),
            Content::Rarp(_) => Err(Reason::EtherType),
            Content::Other(kind) => {
                let direction = frame.direction;
                let judgement = tables.judge_ether(station.place, self.vnic.mac, direction, *kind);
                Ok(judged(&self.limited(judgement, frame.at)))
            }
            Content::Ip(ip) => {
                let (answer, session) = self.conversation(frame, ip, packet.segment)?;
                if let Some(fragment) = ip.fragment
                    && answer.verdict == Verdict::Allow
                {
                    let key = fragment::Key::of(ip, fragment, packet.segment, frame.direction);
                    let judged = (session, answer.rule, version);
                    self.fragments
                        .remember((key, ip, fragment), judged, frame.at);
                }
                Ok(answer)
            }
        }
    }

    /// A later fragment: its datagram's first one was allowed, and still is.
    fn follow(
        &mut self,
        frame: &Frame<'_>,
        (key, fragment): (fragment::Key, Fragment),
        version: u64,
    ) -> Result<Answer, Reason> {
        let datagram = self.fragments.live(&key, frame.at);
        let (session, allowed) = datagram
            .map(|datagram| (datagram.session, datagram.version))
            .ok_or(Reason::Fragment)?;
        self.key = Some(session);
        let mut judged = None;
        if allowed != version {
            if self.sessions.live(&session, frame.at).is_none() {
                return Err(Reason::Fragment);
            }
            if let Some(revoked) = self.revoked(&session, frame.at) {
                return Ok(revoked);
            }
            let live = self.sessions.live(&session, frame.at);
            judged = live.map(|session| session.rule);
        }
        let datagram = self
            .fragments
            .live(&key, frame.at)
            .ok_or(Reason::Fragment)?;
        datagram.version = version;
        datagram.rule = judged.unwrap_or(datagram.rule);
        let rule = datagram.rule;
        if let Err(reason) = datagram.advance(fragment) {
            return Ok(answer(reason, rule));
        }
        let sent = datagram.sent();
        if let Some(last) = sent
            && let Some(session) = self.sessions.live(&session, frame.at)
            && session.state as u8 >= TcpState::Established as u8
        {
            session.sides[frame.direction as usize].sent_up_to(last);
        }
        if !fragment.more {
            self.fragments.forget(&key);
        }
        Ok(answer(Reason::FragmentFollows, rule))
    }

    /// 5 to 7: the session, or the policy and a new session.
    fn conversation(
        &mut self,
        frame: &Frame<'_>,
        ip: &Ip<'_>,
        segment: Segment,
    ) -> Result<(Answer, SessionKey), Reason> {
        if let Some(message) = guard::message(ip, &self.vnic, frame.direction)? {
            return self.dhcp(frame, ip, (message, segment));
        }
        if let Transport::Icmp(message) = &ip.transport
            && icmp::purpose(ip.protocol, message.kind) == Purpose::Error
        {
            let key = icmp::related(ip, message, segment, frame.direction);
            let key = key.ok_or(Reason::Unrelated)?;
            self.key = Some(key);
            let tables = self.tables.as_ref().ok_or(Reason::NoRelease)?;
            let source = tables.vnic_of(segment, ip.source);
            if frame.direction == Direction::Ingress && self.locals.lies(source, frame.came_by) {
                return Err(Reason::SpoofedLocal);
            }
            return self.related(frame, &key).map(|answer| (answer, key));
        }
        let key = self.key_of(frame, ip, segment);
        self.key = Some(key);
        if self.sessions.live(&key, frame.at).is_some()
            && let Some(answer) = self.established(frame, ip, &key)
        {
            return Ok((answer, key));
        }
        // Expired or ended: it makes room for its successor.
        self.sessions.remove(&key);
        Ok((self.begin(frame, ip, key), key))
    }

    /// A message of DHCP: by the rule under which the guest, if it is the client, may reach the
    /// server, or the client may reach the guest. Whoever has no address yet is known by the vnic's
    /// link-local one.
    fn dhcp(
        &mut self,
        frame: &Frame<'_>,
        ip: &Ip<'_>,
        (message, segment): (guard::Message, Segment),
    ) -> Result<(Answer, SessionKey), Reason> {
        let tables = self.tables.as_ref().ok_or(Reason::NoRelease)?;
        let place = self.vnic.place(segment);
        let egress = frame.direction == Direction::Egress;
        if egress && !guard::has_no_address(ip) && !tables.bound(place, ip.source) {
            return Err(Reason::SpoofedAddress);
        }
        let own = IpAddr::V6(self.vnic.mac.link_local());
        let (source, destination) = message.ports;
        let ends = match frame.direction {
            Direction::Egress => [(own, source), (ip.destination, destination)],
            Direction::Ingress => [(ip.source, source), (own, destination)],
        };
        let key = icmp::key(segment, ip.protocol, ends, frame.direction);
        self.key = Some(key);
        // What a server answers, the client may have asked.
        let asks = match egress == message.to_server {
            true => Direction::Egress,
            false => Direction::Ingress,
        };
        let judgement = tables.judge(&self.vnic, &key, asks, 0);
        if matches!(
            judgement.reason,
            Reason::SpoofedAddress | Reason::ForeignAddress
        ) {
            return Err(judgement.reason);
        }
        if !egress && self.locals.lies(judgement.remote, frame.came_by) {
            return Ok((answer(Reason::SpoofedLocal, judgement.rule), key));
        }
        let reason = match judgement.reason {
            Reason::PolicyAllow => Reason::Dhcp,
            reason => reason,
        };
        Ok((
            judged(&Judgement {
                reason,
                ..judgement
            }),
            key,
        ))
    }

    fn key_of(&self, frame: &Frame<'_>, ip: &Ip<'_>, segment: Segment) -> SessionKey {
        let ports = match ip.transport {
            Transport::Tcp(segment) => (segment.source, segment.destination),
            Transport::Udp {
                source,
                destination,
                ..
            }
            | Transport::Sctp {
                source,
                destination,
                ..
            } => (source, destination),
            Transport::Icmp(_) | Transport::Other => (0, 0),
        };
        let ends = [(ip.source, ports.0), (ip.destination, ports.1)];
        let mut key = icmp::key(segment, ip.protocol, ends, frame.direction);
        let Transport::Icmp(message) = &ip.transport else {
            return key;
        };
        let purpose = icmp::purpose(ip.protocol, message.kind);
        if matches!(purpose, Purpose::Echo | Purpose::Reply) {
            (key.local_port, key.remote_port) =
                icmp::echo_ports(purpose, message.id, frame.direction);
        }
        // A router's advertisement names a group; the vnic's own link-local address, which is
        // bound to every vnic, tells its identity instead.
        let advertised = frame.direction == Direction::Ingress
            && ip.source.is_ipv6()
            && message.kind == ROUTER_ADVERTISEMENT;
        if advertised && ip.destination.is_multicast() {
            key.local = IpAddr::V6(self.vnic.mac.link_local());
        }
        key
    }

    /// Judges a live session again if the tables are not those that allowed it, in the direction in
    /// which it was opened. Gives the answer of a session that is revoked, and removes it.
    fn revoked(&mut self, key: &SessionKey, now: Duration) -> Option<Answer> {
        let tables = self.tables.as_ref()?;
        let session = self.sessions.live(key, now)?;
        if session.version == Some(tables.version) {
            return None;
        }
        // Of ICMP, only an echo makes a session.
        let echo = Protocol::icmp_port(if key.local.is_ipv4() { 8 } else { 128 }, 0);
        let judgement = tables.judge(&self.vnic, key, session.opened, echo);
        if !judgement.allows() {
            self.sessions.remove(key);
            return Some(answer(Reason::Revoked, judgement.rule));
        }
        session.rule = judgement.rule;
        session.generation = tables.generation;
        session.epochs = (judgement.local_epoch, judgement.remote_epoch);
        session.version = Some(tables.version);
        session.peer = self.locals.here(judgement.remote);
        None
    }

    /// An ICMP error about a live session passes with it. It is not one of its packets.
    fn related(&mut self, frame: &Frame<'_>, key: &SessionKey) -> Result<Answer, Reason> {
        if let Some(revoked) = self.revoked(key, frame.at) {
            return Ok(revoked);
        }
        let session = self.sessions.live(key, frame.at);
        let rule = session.ok_or(Reason::Unrelated)?.rule;
        Ok(answer(Reason::Related, rule))
    }

    /// The answer to a packet of a live session; none if it begins anew under the old key.
    fn established(&mut self, frame: &Frame<'_>, ip: &Ip<'_>, key: &SessionKey) -> Option<Answer> {
        if let Some(revoked) = self.revoked(key, frame.at) {
            return Some(revoked);
        }
        let has_room = self.sessions.has_room(frame.at);
        let session = self.sessions.live(key, frame.at)?;
        if frame.direction == Direction::Ingress && self.locals.lies(session.peer, frame.came_by) {
            return Some(answer(Reason::SpoofedLocal, session.rule));
        }
        let before = *session;
        let track = match &ip.transport {
            Transport::Tcp(segment) => tcp::track(session, segment, frame.direction),
            Transport::Sctp { chunk, .. } => sctp::track(session, chunk, frame.direction),
            _ => {
                if session.state == TcpState::Unreplied && frame.direction != session.opened {
                    session.state = TcpState::Established;
                }
                Track::Fits
            }
        };
        match track {
            Track::Invalid => {
                let reason = match &ip.transport {
                    Transport::Sctp { .. } => Reason::SctpInvalid,
                    _ => Reason::TcpInvalid,
                };
                return Some(answer(reason, session.rule));
            }
            Track::Outside => return Some(answer(Reason::TcpWindow, session.rule)),
            Track::Impossible => return Some(answer(Reason::TcpFlags, session.rule)),
            Track::Reopens => return None,
            Track::Fits | Track::Passes | Track::InDoubt => {}
        }
        session.packets[frame.direction as usize] += 1;
        session.bytes[frame.direction as usize] += frame.bytes.len() as u64;
        session.last_seen = frame.at;
        // What changes nothing keeps nothing alive.
        if track != Track::Passes || session.state == TcpState::Closed {
            let state = match track {
                Track::InDoubt => TcpState::Closed,
                _ => session.state,
            };
            session.expires = frame.at + self.timeouts.of(key.protocol, state);
        }
        if !session.state.half_open() && !session.promoted {
            if !has_room {
                *session = before;
                return Some(answer(Reason::SessionTableFull, before.rule));
            }
            session.promoted = true;
        }
        Some(answer(Reason::Session, session.rule))
    }

    /// A packet without a session: the policy, and whether it may begin one.
    fn begin(&mut self, frame: &Frame<'_>, ip: &Ip<'_>, key: SessionKey) -> Answer {
        let Some(tables) = &self.tables else {
            return ruleless(Reason::NoRelease);
        };
        let kind = match &ip.transport {
            Transport::Icmp(message) => Protocol::icmp_port(message.kind, message.code),
            _ => 0,
        };
        let judgement = tables.judge(&self.vnic, &key, frame.direction, kind);
        let told = |reason| answer(reason, judgement.rule);
        // Spoofing is told apart from a missing session: the address comes first.
        if matches!(
            judgement.reason,
            Reason::SpoofedAddress | Reason::ForeignAddress
        ) {
            return told(judgement.reason);
        }
        let lies = self.locals.lies(judgement.remote, frame.came_by);
        if frame.direction == Direction::Ingress && lies {
            return told(Reason::SpoofedLocal);
        }
        let mut sides = [Side::default(); 2];
        let mut answered = true;
        let mut tags = [Tags::default(); 2];
        match &ip.transport {
            Transport::Tcp(segment) if segment.flags.impossible() => {
                return told(Reason::TcpFlags);
            }
            Transport::Tcp(segment) if !segment.flags.opens() => {
                return self.adopt(frame, (key, segment), judgement);
            }
            Transport::Tcp(segment) => sides[frame.direction as usize] = Side::of_syn(segment),
            Transport::Icmp(message) => match icmp::purpose(ip.protocol, message.kind) {
                Purpose::Reply => return told(Reason::NoSession),
                Purpose::Echo => {}
                // A message that nobody answers leaves nothing behind.
                Purpose::Error | Purpose::Other => answered = false,
            },
            Transport::Sctp { chunk, .. } if chunk.impossible() => {
                return told(Reason::SctpInvalid);
            }
            Transport::Sctp { chunk, .. } if !chunk.opens() => return told(Reason::NoSession),
            Transport::Sctp { chunk, .. } => tags = sctp::first(chunk, frame.direction),
            Transport::Udp { .. } | Transport::Other => {}
        }
        let judgement = self.limited(self.kept(judgement, frame.at), frame.at);
        if judgement.reason == Reason::Rejected {
            self.refusal = self.answers.make(frame.bytes, ip, frame.at);
        }
        if !judgement.allows() || !answered {
            return judged(&judgement);
        }
        self.open(frame, key, (judgement, sides, tags))
    }

    /// What a rule allows may begin only on the terms that its owner chose.
    fn kept(&self, judgement: Judgement, now: Duration) -> Judgement {
        match self.terms.against(now) {
            Some(reason) if judgement.reason == Reason::PolicyAllow => judgement.with(reason),
            _ => judgement,
        }
    }

    /// Takes one of the sessions that a rule may open in this second, or denies.
    fn limited(&mut self, judgement: Judgement, now: Duration) -> Judgement {
        if judgement.reason != Reason::PolicyAllow || judgement.limit == 0 {
            return judgement;
        }
        // Where the rule can't be kept track of, it has none left.
        if self.counters.rule(judgement.rule).is_none() {
            return judgement.with(Reason::Limited);
        }
        let window = self.limits.entry(judgement.rule).or_default();
        match window.take(now, judgement.limit) {
            true => judgement,
            false => judgement.with(Reason::Limited),
        }
    }

    fn open(
        &mut self,
        frame: &Frame<'_>,
        key: SessionKey,
        (judgement, sides, tags): (Judgement, [Side; 2], [Tags; 2]),
    ) -> Answer {
        let session = Session {
            tags,
            ..self.session(frame, &key, &judgement, sides)
        };
        if self.sessions.insert(key, session, frame.at).is_err() {
            return answer(Reason::SessionTableFull, judgement.rule);
        }
        if judgement.reason == Reason::PolicyAllow
            && let Some(rule) = self.counters.rule(judgement.rule)
        {
            rule.sessions += 1;
        }
        judged(&judgement)
    }

    /// The session that a packet makes, under what was judged of it.
    fn session(
        &self,
        frame: &Frame<'_>,
        key: &SessionKey,
        judgement: &Judgement,
        sides: [Side; 2],
    ) -> Session {
        let mut session = Session {
            state: TcpState::Unreplied,
            opened: frame.direction,
            peer: self.locals.here(judgement.remote),
            promoted: false,
            rule: judgement.rule,
            generation: self.generation(),
            epochs: (judgement.local_epoch, judgement.remote_epoch),
            version: self.tables.as_ref().map(|tables| tables.version),
            last_seen: frame.at,
            expires: frame.at + self.timeouts.of(key.protocol, TcpState::Unreplied),
            packets: [0; 2],
            bytes: [0; 2],
            sides,
            tags: [Tags::default(); 2],
        };
        session.packets[frame.direction as usize] = 1;
        session.bytes[frame.direction as usize] = frame.bytes.len() as u64;
        session
    }
}
