//! `lictor move`: check, admit, watch and give up moves on their source; list what became of them.

use crate::caller::Caller;
use crate::local::Agent;
use crate::output::{Answer, Cell, Ending, Page, Printing, Tone};
use crate::{CliError, Setting, container, evacuation, order, overriding};
use clap::{Args, Subcommand, ValueEnum};
use lictor_types::{GuestId, HostId};
use lictor_wire::api::{MoveEntry, MoveResult, MoveSigners};
use lictor_wire::local::{MovePhase, MoveStatus, Request, Response};
use serde_json::json;
use std::time::Duration;

/// Milliseconds between two looks at a move that is waited for.
const POLL_MS: u64 = 50;
/// Seconds that a move may be waited for.
pub const WAIT_S_MAX: u64 = 24 * 60 * 60;
const SECONDS: std::ops::RangeInclusive<u64> = 1..=WAIT_S_MAX;

/// Check, admit, watch, give up and list moves.
#[derive(Debug, Clone, Args)]
pub struct MoveArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Ask for leave to move a guest. Ends with 1 and every reason if it is refused.
    Admit {
        /// The guest.
        guest: GuestId,
        /// The host that it is to go to.
        #[arg(long)]
        to: HostId,
        /// Who asks; whoever runs this command if not given.
        #[arg(long, value_name = "WHO")]
        asked_by: Option<String>,
        #[command(flatten)]
        agent: Agent,
    },
    /// Say every reason against a move before anyone tries. Ends with 1 if there is one.
    Check {
        /// The guest.
        guest: GuestId,
        /// The host that it may go to.
        host: HostId,
        #[command(flatten)]
        agent: Agent,
    },
    /// Say how far a move is. Ends with 1 if it was given up.
    Status {
        /// The guest.
        guest: GuestId,
        /// Wait until the move has come so far.
        #[arg(long, value_enum)]
        wait: Option<Wait>,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(SECONDS))]
        timeout: u64,
        #[command(flatten)]
        agent: Agent,
    },
    /// Give a move up whose guest has not been stopped for it yet. Of a container also later: at
    /// its target if it has not run there, then at its source, where it goes on.
    Abandon {
        /// The guest.
        guest: GuestId,
        #[command(flatten)]
        agent: Agent,
    },
    /// Shut a container's vnics at its source: it is frozen, its move is copied, and it leaves now.
    Fence(container::Fence),
    /// Open a container's vnics at its target: it is there, frozen, and may run when this has
    /// ended.
    Open(container::Open),
    /// Say at its target that a container runs there.
    Complete(container::Complete),
    /// Bring a guest away from a host whose agent is broken, without its sessions: by an order that
    /// two persons sign.
    Evacuation {
        #[command(subcommand)]
        action: order::Action<evacuation::Write>,
    },
    /// Let one move of a guest be admitted although something speaks against it, such as a control
    /// that is missing at its target: by an order that two persons sign.
    Override {
        #[command(subcommand)]
        action: order::Action<overriding::Write>,
    },
    /// List moves, and stays on hosts without an agent, as the manager knows them.
    List {
        #[command(flatten)]
        caller: Caller,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// The first full copy of the sessions is at the target: the migration may begin.
    Copied,
    /// The guest runs at the target and the record is signed.
    Done,
}

impl Wait {
    const fn phase(self) -> MovePhase {
        match self {
            Self::Copied => MovePhase::Copied,
            Self::Done => MovePhase::Done,
        }
    }
}

pub(crate) fn run(args: &MoveArgs, setting: &Setting) -> Result<Answer, CliError> {
    match &args.action {
        Action::Admit {
            guest,
            to,
            asked_by,
            agent,
        } => {
            let asked_by = asked_by.clone().unwrap_or_else(|| setting.user.clone());
            let request = Request::MoveAdmit {
                guest: guest.clone(),
                target: to.clone(),
                asked_by,
            };
            admitted(agent, &agent.ask(&request)?)
        }
        Action::Check { guest, host, agent } => {
            let request = Request::MoveCheck {
                guest: guest.clone(),
                target: host.clone(),
            };
            checked(agent, &agent.ask(&request)?)
        }
        Action::Status {
            guest,
            wait,
            timeout,
            agent,
        } => watch(agent, guest, *wait, *timeout),
        Action::Abandon { guest, agent } => {
            let guest = guest.clone();
            match agent.ask(&Request::MoveAbandon { guest })? {
                Response::Abandoned => {
                    let page = Page::default().line("the move was given up; the guest stays here");
                    Ok(Answer::new(page, &json!({ "abandoned": true })))
                }
                other => Err(agent.unexpected(&other)),
            }
        }
        Action::Fence(args) => container::fence(args),
        Action::Open(args) => container::open(args),
        Action::Complete(args) => container::complete(args),
        Action::Evacuation { action } => order::run(action, setting.now_ms),
        Action::Override { action } => order::run(action, setting.now_ms),
        Action::List { caller } => Ok(list(&caller.open()?.client.moves()?)),
    }
}

fn admitted(agent: &Agent, response: &Response) -> Result<Answer, CliError> {
    match response {
        Response::Admitted {
            ticket,
            deadline_ms,
        } => {
            let page = Page::default().fields([
                ("admitted", Cell::yes_no(true)),
                ("ticket", ticket.into()),
                ("good until", lictor_audit::utc(*deadline_ms).into()),
            ]);
            Ok(Answer::new(page, response))
        }
        Response::Refused { reasons } => {
            let page = Page::default().fields([("admitted", Cell::yes_no(false))]);
            let page = reasons.iter().fold(page, |page, reason| {
                page.line(Cell::toned(Tone::Bad, reason))
            });
            Ok(Answer::new(page, response).ending(Ending::No))
        }
        other => Err(agent.unexpected(other)),
    }
}

fn checked(agent: &Agent, response: &Response) -> Result<Answer, CliError> {
    let Response::Checked { reasons, controls } = response else {
        return Err(agent.unexpected(response));
    };
    let possible = reasons.is_empty();
    let page = Page::default().fields([("would be admitted", Cell::yes_no(possible))]);
    let page = reasons.iter().fold(page, |page, reason| {
        page.line(Cell::toned(Tone::Bad, reason))
    });
    let rows = controls.iter().map(|one| {
        [
            one.control.as_str().into(),
            Cell::yes_no(one.healthy),
            one.version.as_str().into(),
        ]
    });
    let page = if controls.is_empty() {
        page
    } else {
        page.section("the target's controls")
            .table(["control", "healthy", "version"], rows)
    };
    let ending = if possible { Ending::Done } else { Ending::No };
    Ok(Answer::new(page, response).ending(ending))
}

/// Looks until the move is far enough or over. The number of looks is the limit, not a clock.
fn watch(
    agent: &Agent,
    guest: &GuestId,
    wait: Option<Wait>,
    timeout_s: u64,
) -> Result<Answer, CliError> {
    let looks = wait.map_or(1, |_| timeout_s * 1_000 / POLL_MS);
    let mut seen = None;
    for look in 0..looks {
        if look > 0 {
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
        let guest = guest.clone();
        let found = match agent.ask(&Request::MoveStatus { guest })? {
            Response::Move(found) => found,
            other => return Err(agent.unexpected(&other)),
        };
        let far_enough = wait.is_none_or(|wait| found.phase >= wait.phase());
        if far_enough || found.phase == MovePhase::Aborted {
            return Ok(status(&found));
        }
        seen = Some(found.phase);
    }
    let seen = seen.map_or_else(|| "nowhere".into(), |phase| name(phase).to_owned());
    Err(agent.error(format!(
        "after {timeout_s} s the move of {guest} is only at {seen}; wait longer with --timeout, \
         or give it up with `lictor move abandon`"
    )))
}

fn status(found: &MoveStatus) -> Answer {
    let (tone, ending) = match found.phase {
        MovePhase::Aborted => (Tone::Bad, Ending::No),
        MovePhase::Done => (Tone::Good, Ending::Done),
        _ => (Tone::Plain, Ending::Done),
    };
    let page = Page::default().fields([
        ("guest", (&found.guest).into()),
        ("phase", Cell::toned(tone, name(found.phase))),
        ("sessions sent", found.sessions_sent.into()),
        ("cause", Cell::optional(found.cause.as_ref())),
    ]);
    Answer::new(page, found).ending(ending)
}

const fn name(phase: MovePhase) -> &'static str {
    match phase {
        MovePhase::Admitted => "admitted",
        MovePhase::Copying => "copying",
        MovePhase::Copied => "copied",
        MovePhase::Fenced => "fenced",
        MovePhase::Committed => "committed",
        MovePhase::Done => "done",
        MovePhase::Aborted => "aborted",
    }
}

fn list(moves: &[MoveEntry]) -> Answer {
    let rows = moves.iter().map(|one| {
        let tone = match one.outcome {
            MoveResult::Committed => Tone::Good,
            MoveResult::Aborted | MoveResult::Refused => Tone::Doubt,
            MoveResult::StateLost | MoveResult::Unprotected => Tone::Bad,
        };
        let sessions = one.sessions.as_ref().map(|sessions| {
            let refused: u64 = sessions.refused.values().sum();
            format!("{}/{}/{refused}", sessions.sent, sessions.accepted)
        });
        [
            (&one.guest).into(),
            Cell::optional(one.from.as_ref()),
            (&one.to).into(),
            Cell::toned(tone, one.outcome.name()),
            lictor_audit::utc(one.time_ms).into(),
            Cell::optional(sessions),
            Cell::optional(one.pause_us),
            one.unprotected_ms.into(),
            Cell::optional(one.signers.map(signers)),
            Cell::optional(one.asked_by.as_ref()),
            one.reasons.join("; ").into(),
        ]
    });
    let head = [
        "guest",
        "from",
        "to",
        "outcome",
        "when",
        "sent/accepted/refused",
        "pause us",
        "unprotected ms",
        "signed by",
        "asked by",
        "reasons",
    ];
    Answer::new(Page::default().table(head, rows), &moves)
}

const fn signers(signers: MoveSigners) -> &'static str {
    match signers {
        MoveSigners::Neither => "nobody",
        MoveSigners::Source => "the source alone",
        MoveSigners::Target => "the target alone",
        MoveSigners::Both => "both",
    }
}
