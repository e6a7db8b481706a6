//! Drift: the kernel is read back, what differs is put right, and evidence says which of both
//! worked.

use super::Host;
use crate::AgentError;
use lictor_datapath::{Error, HookState, Hooks, VnicStatus};
use lictor_evidence::Body;
use lictor_types::GuestId;
use std::collections::BTreeMap;

/// What was found and could not be put right, by its subject. At most one for each vnic and one
/// for the tables: it is rebuilt in every round.
pub(super) type Unrepaired = BTreeMap<String, String>;

/// Something that is not as it was loaded.
struct Difference {
    subject: String,
    expected: String,
    found: String,
}

impl Difference {
    fn into_body(self, repaired: bool) -> Body {
        Body::Drift {
            subject: self.subject,
            expected: self.expected,
            found: self.found,
            repaired,
        }
    }
}

impl Host {
    /// Reads everything back and repairs what differs, with evidence of both. What cannot be
    /// repaired, such as a program of somebody else before ours, is recorded when it is first seen
    /// and whenever it changes. Returns the guests whose last device has gone.
    ///
    /// # Errors
    /// [`AgentError`] if the kernel cannot be read, the tables cannot be loaded again, or the
    /// evidence cannot be written.
    pub fn reconcile(&mut self, now_ms: u64) -> Result<Vec<GuestId>, AgentError> {
        self.plan_for_now(now_ms)?;
        let look = self.look()?;
        let expected = self.desired.digest();
        if self.release.is_some() && look.tables != expected {
            // Loading reads back and compares: that it works means that it is repaired.
            self.datapath.load(&self.desired.clone())?;
            let difference = Difference {
                subject: "the tables of this host".to_owned(),
                expected: expected.to_string(),
                found: look.tables.to_string(),
            };
            self.record(difference.into_body(true), now_ms)?;
        }
        let known = std::mem::take(&mut self.unrepaired);
        let mut gone = Vec::new();
        for status in look.vnics.iter().filter(|status| !status.hooks.intact()) {
            gone.extend(self.repair(status, &known, now_ms)?);
        }
        Ok(gone)
    }

    fn repair(
        &mut self,
        status: &VnicStatus,
        known: &Unrepaired,
        now_ms: u64,
    ) -> Result<Option<GuestId>, AgentError> {
        let mut difference = Difference {
            subject: format!("the hooks of vnic {}", status.spec.name),
            expected: said(&intact()),
            found: said(&status.hooks),
        };
        match self.datapath.attach(&status.spec) {
            Ok(_) if self.datapath.verify_hooks(status.spec.vnic)?.intact() => {
                self.record(difference.into_body(true), now_ms)?;
            }
            // Whoever put a program before ours may put it there again: it is not ours to remove.
            Ok(_) => self.left_as_found(difference, known, now_ms)?,
            Err(Error::NoDevice { .. }) => return self.device_gone(status, now_ms),
            // The other vnics are to be repaired all the same.
            Err(error) => {
                let why = AgentError::from(error).chain();
                difference.found.push_str(&format!("; {why}"));
                self.left_as_found(difference, known, now_ms)?;
            }
        }
        Ok(None)
    }

    /// Once for each distinct difference: what stays as it was is no news.
    fn left_as_found(
        &mut self,
        difference: Difference,
        known: &Unrepaired,
        now_ms: u64,
    ) -> Result<(), AgentError> {
        let (subject, found) = (difference.subject.clone(), difference.found.clone());
        let news = known.get(&subject) != Some(&found);
        if news {
            self.record(difference.into_body(false), now_ms)?;
        }
        self.unrepaired.insert(subject, found);
        Ok(())
    }

    /// The device went with its guest.
    fn device_gone(
        &mut self,
        status: &VnicStatus,
        now_ms: u64,
    ) -> Result<Option<GuestId>, AgentError> {
        self.datapath.detach(status.spec.vnic)?;
        let Some((binding, _)) = self.bindings.by_name(&status.spec.name) else {
            return Ok(None);
        };
        let (guest, vnic) = (binding.guest.clone(), status.spec.vnic);
        let cause = "its device is gone".to_owned();
        let body = Body::VnicDetached {
            guest: guest.clone(),
            vnic,
            cause,
        };
        self.record(body, now_ms)?;
        Ok(self.vnics_of(&guest).is_empty().then_some(guest))
    }
}

fn intact() -> Hooks {
    let first = HookState {
        attached: true,
        foreign_before: 0,
    };
    Hooks {
        egress: first,
        ingress: first,
    }
}

fn said(hooks: &Hooks) -> String {
    let hook = |state: HookState| match (state.attached, state.foreign_before) {
        (false, _) => "not attached".to_owned(),
        (true, 0) => "first".to_owned(),
        (true, others) => format!("after {others} of others"),
    };
    format!(
        "egress {}, ingress {}",
        hook(hooks.egress),
        hook(hooks.ingress)
    )
}
