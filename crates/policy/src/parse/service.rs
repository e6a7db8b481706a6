//! Services: `tcp/443`, `udp/1000-2000`, `icmp/echo`, `ip/47`, `any`, or a name.

use super::{Failed, Kind, Noun, Parsed, Parser, short};
use crate::{PortRange, Service, Span, diagnostic::Problem};
use lictor_types::Protocol;

/// Protocols that people expect by name, and how they are written.
const NUMBERED: [(&str, u8); 4] = [("gre", 47), ("esp", 50), ("ah", 51), ("sctp", 132)];

impl<'a> Parser<'a> {
    /// `service NAME = ITEM...`
    pub(super) fn service_definition(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a service's name")?;
        if name == "any" || protocol(&name).is_some() {
            let message = format!("`{name}` can't be a service: it has a meaning of its own");
            self.report(
                Problem::new("reserved-name", span, message).expected("choose another name"),
            );
        }
        let fresh = self.define(Noun::Service, &name, span);
        self.expect(Kind::Equals, "=")?;
        let mut ranges = Vec::new();
        let mut any = false;
        while !self.list_ends() {
            any = true;
            let Some(word) = self.word() else { break };
            let span = self.advance().span;
            ranges.extend(self.ports(word, span));
            self.eat(Kind::Comma);
        }
        if !any {
            return self.unexpected("a protocol and port such as tcp/443");
        }
        if fresh {
            self.policy.services.insert(name, Service::new(ranges));
        }
        Ok(())
    }

    /// What follows the word `service` in a rule or intent: one or more items. An item after the
    /// first needs a comma, or a slash by which it can be told from a clause.
    pub(super) fn service(&mut self) -> Parsed<Service> {
        let mut ranges = self.service_item()?;
        loop {
            let comma = self.eat(Kind::Comma);
            let slash = self.word().is_some_and(|word| word.contains('/'));
            if !comma && !slash {
                return Ok(Service::new(ranges));
            }
            ranges.extend(self.service_item()?);
        }
    }

    fn service_item(&mut self) -> Parsed<Vec<PortRange>> {
        let Some(word) = self.word() else {
            return self
                .unexpected("a service: a name, `any`, or a protocol and port such as tcp/443");
        };
        let span = self.advance().span;
        if word == "any" {
            return Ok(Service::any().ranges().to_vec());
        }
        if word.contains('/') || protocol(word).is_some() || word == "ip" {
            return Ok(self.ports(word, span).into_iter().collect());
        }
        if let Some(service) = self.policy.services.get(word) {
            return Ok(service.ranges().to_vec());
        }
        if !self.defined.contains_key(&(Noun::Service, word.to_owned())) {
            self.unknown(Noun::Service, word, span);
        }
        Ok(Vec::new())
    }

    /// `tcp`, `tcp/443`, `tcp/1-9`. `None` if it was reported.
    fn ports(&mut self, word: &'a str, span: Span) -> Option<PortRange> {
        let (name, ports) = match word.split_once('/') {
            Some((name, ports)) => (name, Some(ports)),
            None => (word, None),
        };
        let Some(protocol) = protocol(name) else {
            let report = self.unknown_protocol(name, span);
            return report.ok();
        };
        let Some(ports) = ports else {
            if protocol == Protocol::Other {
                let problem = Problem::new("bad-service", span, "`ip` alone is not a service")
                    .expected("expected ip/NUMBER")
                    .help("write `any` for every packet, or ip/47 for one protocol");
                self.report(problem);
                return None;
            }
            return Some(PortRange {
                protocol,
                first: 0,
                last: protocol.port_max(),
            });
        };
        let range = range(protocol, ports);
        if range.is_none() {
            let max = protocol.port_max();
            let what = match protocol {
                Protocol::Tcp | Protocol::Udp => "a port",
                Protocol::Icmp | Protocol::Icmpv6 => "a type (or `echo`)",
                Protocol::Other => "a protocol number",
            };
            let message = format!("`{}` has no valid ports", short(word));
            let problem = Problem::new("bad-service", span, message).expected(format!(
                "expected {what} from 0 to {max}, or a range such as 1-9"
            ));
            self.report(problem);
        }
        let range = range?;
        let single = (range.first == range.last)
            .then(|| u8::try_from(range.first).ok())
            .flatten();
        let own = single
            .map(Protocol::from_ip)
            .filter(|own| *own != Protocol::Other);
        if let (Protocol::Other, Some(own)) = (protocol, own) {
            let message = format!("`{}` is {own}, which has ports of its own", short(word));
            self.report(
                Problem::new("bad-service", span, message).expected(format!("write {own}")),
            );
            return None;
        }
        Some(range)
    }

    fn unknown_protocol<T>(&mut self, name: &str, span: Span) -> Parsed<T> {
        let problem = Problem::new(
            "bad-service",
            span,
            format!("unknown protocol `{}`", short(name)),
        )
        .expected("expected tcp, udp, icmp, icmpv6 or ip");
        let problem = match NUMBERED.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => problem.help(format!("write ip/{number}")),
            None => problem.nearest(
                name,
                ["tcp", "udp", "icmp", "icmpv6"],
                "a service is written tcp/443, udp/53, icmp/8, icmpv6/128 or ip/47",
            ),
        };
        self.report(problem);
        Err(Failed)
    }
}

fn protocol(name: &str) -> Option<Protocol> {
    Some(match name {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        "icmpv6" => Protocol::Icmpv6,
        "ip" => Protocol::Other,
        _ => return None,
    })
}

fn range(protocol: Protocol, text: &str) -> Option<PortRange> {
    let single = |port| PortRange {
        protocol,
        first: port,
        last: port,
    };
    match (protocol, text) {
        // Echo request: RFC 792 and RFC 4443, section 4.1.
        (Protocol::Icmp, "echo") => return Some(single(8)),
        (Protocol::Icmpv6, "echo") => return Some(single(128)),
        _ => {}
    }
    let number = |text: &str| -> Option<u16> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.filter(|number| *number <= protocol.port_max())
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some(PortRange {
        protocol,
        first,
        last,
    })
}
