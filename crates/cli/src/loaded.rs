//! `lictor explain --vnic`: what the program that this host has loaded says about one packet.

use crate::CliError;
use crate::local::Agent;
use crate::output::{Answer, Cell, Page, Tone};
use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use lictor_types::{Direction, Probe, Verdict, VnicName};
use lictor_wire::local::{Explained, Request, Response};

/// A packet and the vnic whose program is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct Loaded {
    /// Ask the loaded program of this vnic instead. Nothing is sent, counted or remembered.
    #[arg(long, value_name = "VNIC", requires = "packet",
          conflicts_with_all = ["policy", "release", "from", "to", "service", "date"])]
    vnic: Option<VnicName>,
    /// The packet, such as "tcp 10.0.0.1:4000 > 10.0.0.2:80" (a SYN; or syn-ack, ack, fin, rst
    /// behind it), "udp ...", "sctp ...", "icmp/8 10.0.0.1 > 10.0.0.2", "ip/47 ...".
    #[arg(long, requires = "vnic")]
    packet: Option<Probe>,
    /// Which way the packet goes; without it, from the guest if its source is the guest's.
    #[arg(long, requires = "vnic", value_parser = directions())]
    direction: Option<Direction>,
    #[command(flatten)]
    agent: Agent,
}

fn directions() -> impl clap::builder::TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(["egress", "ingress"]).map(|name| match name.as_str() {
        "egress" => Direction::Egress,
        _ => Direction::Ingress,
    })
}

impl Loaded {
    pub(crate) fn run(&self) -> Result<Answer, CliError> {
        let (Some(vnic), Some(packet)) = (&self.vnic, self.packet) else {
            return Err(CliError::argument("--vnic", "expected it with --packet"));
        };
        let request = Request::Explain {
            vnic: vnic.clone(),
            packet,
            direction: self.direction,
        };
        match self.agent.ask(&request)? {
            Response::Explained(one) => Ok(page(&one)),
            other => Err(self.agent.unexpected(&other)),
        }
    }
}

fn page(one: &Explained) -> Answer {
    let good = one.verdict == Verdict::Allow;
    let rows = one
        .steps
        .iter()
        .map(|step| [step.step.as_str().into(), step.says.as_str().into()]);
    let page = Page::default()
        .fields([
            ("verdict", Cell::toned(Tone::good_if(good), one.verdict)),
            ("reason", one.reason.into()),
            ("rule", Cell::optional(one.rule_name.as_ref())),
            (
                "would",
                Cell::optional(one.would.map(|would| would.verdict)),
            ),
            ("says", "the program that is loaded".into()),
        ])
        .section("on its way")
        .table(["step", "what it meets"], rows);
    Answer::new(page, one)
}
