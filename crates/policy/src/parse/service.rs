//! Services: `tcp/443`, `udp/1000-2000`, `icmp/echo`, `ip/47`, `any`, or a name.

use super::{Kind, Noun, Parsed, Parser, short};
use crate::{PortRange, Service, Span, diagnostic::Problem};
use lictor_types::Protocol;

impl<'a> Parser<'a> {
    /// `service NAME = ITEM...`
    pub(super) fn service_definition(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a service's name")?;
        if name == "any" || is_protocol(&name) {
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
        if word.contains('/') || is_protocol(word) {
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

    /// `tcp`, `tcp/443`, `tcp/1-9`, `gre`. `None` if it was reported.
    fn ports(&mut self, word: &'a str, span: Span) -> Option<PortRange> {
        if let Some(range) = PortRange::numbered(word) {
            return Some(range);
        }
        let (name, ports) = match word.split_once('/') {
            Some((name, ports)) => (name, Some(ports)),
            None => (word, None),
        };
        let Some(protocol) = PortRange::protocol_of(name) else {
            self.unknown_protocol(name, span);
            return None;
        };
        let Some(ports) = ports else {
            return self.whole(protocol, span);
        };
        let Some(range) = PortRange::ports_of(protocol, ports) else {
            self.no_ports(protocol, word, span);
            return None;
        };
        if let Some(own) = range.named() {
            let message = format!("`{}` is not written as a number", short(word));
            let problem = Problem::new("bad-service", span, message);
            self.report(problem.expected(format!("write {own}")));
            return None;
        }
        Some(range)
    }

    /// A protocol without a slash: all its ports.
    fn whole(&mut self, protocol: Protocol, span: Span) -> Option<PortRange> {
        let (message, expected, help) = match protocol {
            Protocol::Other => (
                "`ip` alone is not a service",
                "expected ip/NUMBER",
                "write `any` for every packet, or ip/47 for one protocol",
            ),
            Protocol::Ether => (
                "`ether` alone is not a service",
                "expected ether/0xTYPE",
                "name each EtherType that is wanted, such as ether/0x88cc",
            ),
            _ => return Some(PortRange::all(protocol)),
        };
        let problem = Problem::new("bad-service", span, message);
        self.report(problem.expected(expected).help(help));
        None
    }

    fn no_ports(&mut self, protocol: Protocol, word: &str, span: Span) {
        let expected = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => {
                "expected a type (or `echo`) from 0 to 255, or a range such as 1-9, or a type and \
                 its codes such as 3/4"
                    .to_owned()
            }
            Protocol::Ether => {
                "expected an EtherType such as 0x88cc, or a range, from 0x0600".to_owned()
            }
            _ => {
                let what = match protocol {
                    Protocol::Other => "a protocol number",
                    _ => "a port",
                };
                let max = protocol.port_max();
                format!("expected {what} from 0 to {max}, or a range such as 1-9")
            }
        };
        let message = format!("`{}` has no valid ports", short(word));
        self.report(Problem::new("bad-service", span, message).expected(expected));
    }

    fn unknown_protocol(&mut self, name: &str, span: Span) {
        let problem = Problem::new(
            "bad-service",
            span,
            format!("unknown protocol `{}`", short(name)),
        )
        .expected("expected tcp, udp, sctp, udplite, icmp, icmpv6, ip or ether");
        let problem = if PortRange::numbered(name).is_some() {
            problem.help(format!("write {name} alone: it has no ports"))
        } else {
            problem.nearest(
                name,
                ["tcp", "udp", "sctp", "udplite", "icmp", "icmpv6", "ether"],
                "a service is written tcp/443, udp/53, icmp/8, icmpv6/128, gre or ip/47",
            )
        };
        self.report(problem);
    }
}

fn is_protocol(name: &str) -> bool {
    PortRange::protocol_of(name).is_some() || PortRange::numbered(name).is_some()
}
