//! What readers may list: how often rules were met, and which sessions live.

use super::Host;
use crate::AgentError;
use lictor_policy::{Compiled, End};
use lictor_types::{Generation, RuleId, Segment, SessionKey, SessionRecord, VnicName};
use lictor_wire::Binding;
use lictor_wire::api::{LISTING_BYTES_MAX, SessionListing};
use lictor_wire::local::{
    LiveSession, RULES_PER_ANSWER_MAX, RuleCounters, SESSIONS_BYTES_MAX, SessionPage,
};
use std::net::IpAddr;

impl Host {
    /// How many packets each rule of the loaded release has met, in the order of the rules' names;
    /// rules that met none are listed too.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if nothing is loaded.
    pub fn rule_counters(&self, first: usize) -> Result<RuleCounters, AgentError> {
        let (policy, generation) = self.loaded_policy()?;
        let counted = self.datapath.rule_counters()?;
        let mut rules: Vec<_> = policy
            .rules
            .iter()
            .map(|rule| (&rule.name, rule.id))
            .collect();
        rules.sort_unstable();
        let part = rules.iter().skip(first).take(RULES_PER_ANSWER_MAX);
        let packets = part.map(|(name, id)| {
            let count = counted.get(id).copied().unwrap_or_default();
            ((*name).clone(), count.packets + count.observed)
        });
        Ok(RuleCounters {
            source: policy.source,
            generation,
            packets: packets.collect(),
            total: rules.len(),
        })
    }

    /// The live sessions of a vnic in the order of their keys, as many as fit into one answer.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if no vnic of this name is attached or nothing is loaded.
    pub fn sessions(
        &self,
        name: &VnicName,
        after: Option<&SessionKey>,
    ) -> Result<SessionPage, AgentError> {
        let (policy, generation) = self.loaded_policy()?;
        let bound = self.bindings.by_name(name).filter(|(_, vnic)| {
            let statuses = self.datapath.status(vnic.vnic);
            statuses.is_ok()
        });
        let Some((binding, vnic)) = bound else {
            let what = format!("vnic {name} is not attached here; see `lictor host status`");
            return Err(AgentError::Refused(what));
        };
        let mut records = self.datapath.export(vnic.vnic)?;
        records.retain(|record| after.is_none_or(|after| record.key > *after));
        records.sort_unstable_by_key(|record| record.key);
        Ok(self.page((policy, generation), binding, &records).0)
    }

    /// The live sessions of every vnic, as many as one listing holds.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if nothing is loaded.
    pub fn all_sessions(&self) -> Result<SessionListing, AgentError> {
        let loaded = self.loaded_policy()?;
        let mut listing = SessionListing {
            host: self.config.host.clone(),
            pages: Vec::new(),
            left_out: 0,
        };
        let mut bytes = 0;
        let guests = self.bindings.guests();
        let vnics = guests.flat_map(|guest| guest.vnics.iter().map(move |vnic| (guest, vnic)));
        for (binding, vnic) in vnics.filter(|(_, vnic)| self.datapath.has(vnic.vnic)) {
            let mut records = self.datapath.export(vnic.vnic)?;
            records.sort_unstable_by_key(|record| record.key);
            let mut left = records.as_slice();
            while !left.is_empty() && bytes < LISTING_BYTES_MAX - SESSIONS_BYTES_MAX {
                let (page, long) = self.page(loaded, binding, left);
                left = &left[page.sessions.len()..];
                bytes += long;
                listing.pages.push(page);
            }
            listing.left_out += left.len() as u64;
        }
        Ok(listing)
    }

    /// The first of some sessions of a guest, and how many bytes they take.
    fn page(
        &self,
        (policy, generation): (&Compiled, Generation),
        binding: &Binding,
        records: &[SessionRecord],
    ) -> (SessionPage, usize) {
        let mut page = SessionPage {
            host: self.config.host.clone(),
            guest: binding.guest.clone(),
            labels: binding.labels.clone(),
            generation,
            sessions: Vec::new(),
            more: false,
        };
        let mut bytes = 0;
        for record in records {
            let session = self.session(policy, record);
            let long = serde_json::to_vec(&session).map_or(0, |text| text.len() + 1);
            if bytes + long > SESSIONS_BYTES_MAX && !page.sessions.is_empty() {
                page.more = true;
                break;
            }
            bytes += long;
            page.sessions.push(session);
        }
        (page, bytes)
    }

    fn session(&self, policy: &Compiled, record: &SessionRecord) -> LiveSession {
        let rule = Some(record.rule).filter(|id| *id != RuleId::DEFAULT);
        let named = rule.map(|id| {
            let known = policy.rule(id);
            known.map_or_else(|| id.to_string(), |rule| rule.name.clone())
        });
        LiveSession {
            key: record.key,
            opened: record.opened,
            state: record.state,
            remote: self.end(record.key.segment, record.key.remote),
            rule: named,
            packets: record.packets.iter().sum(),
        }
    }

    /// Whose an address is, by the tables that are loaded.
    fn end(&self, segment: Segment, address: IpAddr) -> End {
        let rows = self.desired.addresses.iter();
        let rows = rows.filter(|row| row.segment == segment && row.prefix.contains(&address));
        let row = rows.max_by_key(|row| row.prefix.prefix_len());
        let binding = row.and_then(|row| row.vnic).and_then(|vnic| {
            let mut guests = self.bindings.guests();
            guests.find(|guest| guest.vnics.iter().any(|one| one.vnic == vnic))
        });
        binding.map_or(End::Address(address), |one| End::Guest(one.labels.clone()))
    }

    fn loaded_policy(&self) -> Result<(&Compiled, Generation), AgentError> {
        let Some(release) = &self.release else {
            let what = "no release is loaded; publish one and see `lictor host status`";
            return Err(AgentError::Refused(what.into()));
        };
        Ok((&release.release().policy, release.release().generation))
    }
}
