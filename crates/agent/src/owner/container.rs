//! Containers that move. No QEMU asks for their state and loads it: whoever freezes them, carries
//! them over and thaws them says so at the agents' sockets, and carries what the source has signed.
//! Both ends are the machines of any other move.

use super::Owner;
use super::leaving::parse;
use crate::AgentError;
use crate::input::{Answer, Now, Reply};
use crate::moves::{source, target};
use lictor_types::GuestId;
use lictor_wire::local::{ContainerStep, MovePhase, Response};
use std::path::Path;

/// What the kernel says of a cgroup; cgroups of version 1 have no such file.
const EVENTS: &str = "cgroup.events";
const GIVEN_UP: &str = "given up by the management layer";

impl Owner {
    /// Whether a guest has no QEMU: none is known, and its devices are veths.
    pub(super) fn is_container(&self, guest: &GuestId) -> Result<bool, AgentError> {
        let qemu = self.watches.contains_key(guest) || self.host.custody().qmp(guest).is_some();
        Ok(!qemu && self.host.has_veths_only(guest)?)
    }

    fn container(&self, guest: &GuestId) -> Result<(), AgentError> {
        if self.is_container(guest)? {
            return Ok(());
        }
        Err(AgentError::Refused(format!(
            "guest {guest} is no container here: its QEMU fences and opens it, or none of its \
             veths is attached"
        )))
    }

    pub(super) fn container_steps(
        &mut self,
        guest: &GuestId,
        step: &ContainerStep,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let allowed = match step {
            ContainerStep::Fence { cgroup } => self.may_fence(guest, cgroup.as_deref()),
            ContainerStep::Open { .. } | ContainerStep::Complete => self.container(guest),
        };
        let answer = match (allowed, step) {
            // The container stands still: all its vnics are fenced, and what is left is sent.
            (Ok(()), ContainerStep::Fence { .. }) => {
                return self.save(guest, Answer::Caller(reply, fenced), now);
            }
            // It is here and stands still: what its source has signed decides.
            (Ok(()), ContainerStep::Open { record }) => {
                let answer = Answer::Caller(reply, |()| Response::Opened);
                return self.load(guest, &super::leaving::json(record)?, answer, now);
            }
            (Ok(()), ContainerStep::Complete) => self.complete_container(guest, now),
            (Err(error), _) => Err(error),
        };
        let answer = answer.unwrap_or_else(|error| Response::Error {
            error: error.chain(),
        });
        let _ = reply.send(answer);
        Ok(())
    }

    fn may_fence(&self, guest: &GuestId, cgroup: Option<&Path>) -> Result<(), AgentError> {
        self.container(guest)?;
        let leaving = self.leaving.get(guest).filter(|one| !one.has_ended());
        let phase = leaving.map(|one| one.machine.phase());
        if phase != Some(MovePhase::Copied) {
            return Err(AgentError::Refused(format!(
                "guest {guest} cannot be fenced now: admit its move, attach it at its target, and \
                 wait until `lictor move status` says `copied`"
            )));
        }
        cgroup.map_or(Ok(()), frozen)
    }

    /// The container runs here.
    fn complete_container(&mut self, guest: &GuestId, now: Now) -> Result<Response, AgentError> {
        let arriving = self.arriving.get(guest);
        if arriving.is_some_and(|one| one.machine.is_open()) {
            self.arrive(guest, target::Event::GuestResumed, now)?;
        }
        if self.host.custody().held(guest) {
            return Ok(Response::Completed);
        }
        Err(AgentError::Refused(format!(
            "guest {guest} does not run here by a move: open it first, with the record of its \
             source (`lictor move open`)"
        )))
    }

    /// At its source a container that was fenced goes on, once its target does not have it; at its
    /// target one that has not run is let go of. Nothing if neither is the case.
    pub(super) fn abandon_container(
        &mut self,
        guest: &GuestId,
        now: Now,
    ) -> Result<Option<Response>, AgentError> {
        if self
            .leaving
            .get(guest)
            .is_some_and(super::Leaving::is_fenced)
        {
            self.set_cause(guest, GIVEN_UP.into());
            self.leave(guest, source::Event::GuestResumed, now)?;
            return self.goes_on(guest).map(Some);
        }
        if self
            .arriving
            .get(guest)
            .is_some_and(|one| !one.machine.ended())
        {
            self.because(guest, GIVEN_UP);
            self.arrive(guest, target::Event::GuestGone, now)?;
            let ended = self.arriving.get(guest);
            let ended = ended.is_some_and(|one| one.machine.ended());
            return Ok(ended.then_some(Response::Abandoned));
        }
        Ok(None)
    }

    fn goes_on(&self, guest: &GuestId) -> Result<Response, AgentError> {
        let leaving = self.leaving.get(guest).filter(|one| !one.has_ended());
        let Some(leaving) = leaving else {
            return Ok(Response::Abandoned);
        };
        let target = &leaving.ticket.target;
        Err(AgentError::Refused(format!(
            "guest {guest} stays shut: host {target} was let open it. Give the move up there too; \
             it opens here as soon as that host has said that it does not have the guest"
        )))
    }
}

fn fenced(state: Vec<u8>) -> Response {
    match parse(&state) {
        Ok(record) => Response::Fenced { record },
        Err(error) => Response::Error {
            error: error.chain(),
        },
    }
}

/// That a cgroup of version 2 is frozen, by the kernel's word.
fn frozen(cgroup: &Path) -> Result<(), AgentError> {
    let path = cgroup.join(EVENTS);
    let events = std::fs::read_to_string(&path).map_err(|error| AgentError::io(&path, &error))?;
    if events.lines().any(|line| line == "frozen 1") {
        return Ok(());
    }
    Err(AgentError::Refused(format!(
        "{} says that the container is not frozen; write 1 to {} and wait until it is",
        path.display(),
        cgroup.join("cgroup.freeze").display(),
    )))
}
