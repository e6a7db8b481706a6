//! One change, and everything that was found out before stays: a rule changes the rows of the
//! destinations that it names, a guest's labels one column of bits, a move one bit.

use crate::AnalysisError;
use crate::again::Changed;
use crate::prove::Prover;
use crate::universe::Relabelled;
use lictor_policy::{Labels, Rule};
use std::sync::Arc;

impl Prover {
    /// Puts a rule in the place of another one: tier and rule, by their places in the policy.
    ///
    /// # Errors
    /// [`AnalysisError::NoPlace`] if there is no such rule; [`AnalysisError::Nodes`] if the new one
    /// tells too many classes apart.
    pub fn set_rule(&mut self, place: (usize, usize), rule: Rule) -> Result<(), AnalysisError> {
        let (tier, index) = place;
        let policy = Arc::make_mut(&mut self.policy);
        let no_place = AnalysisError::NoPlace(format!("rule {index} of tier {tier}"));
        let slot = policy
            .tiers
            .get_mut(tier)
            .and_then(|tier| tier.rules.get_mut(index))
            .ok_or(no_place)?;
        *slot = rule;
        let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let tier = &policy.tiers[tier];
        let changed = ((number(place.0), number(place.1)), tier, &tier.rules[index]);
        let over = (&mut self.universe, self.date);
        match self.relation.replace(changed, over) {
            Err(AnalysisError::Unknown(_)) => self.anew(),
            Err(error) => Err(error),
            Ok(nodes) => {
                self.forget(Changed::Rules(&nodes));
                Ok(())
            }
        }
    }

    /// Gives a guest other labels.
    ///
    /// # Errors
    /// [`AnalysisError::NoPlace`] if there is no such guest.
    pub fn relabel(&mut self, member: usize, labels: Labels) -> Result<(), AnalysisError> {
        let guest = Arc::make_mut(&mut self.estate).guests.get_mut(member);
        let guest = guest.ok_or_else(|| AnalysisError::NoPlace(format!("guest {member}")))?;
        guest.labels = labels.clone();
        let moved = self.universe.relabel(member, labels);
        self.regrouped(member, moved)
    }

    /// Puts a guest on another host, by its place in the estate.
    ///
    /// # Errors
    /// [`AnalysisError::NoPlace`] if there is no such guest or host.
    pub fn move_guest(&mut self, member: usize, host: usize) -> Result<(), AnalysisError> {
        let estate = Arc::make_mut(&mut self.estate);
        let name = estate.hosts.get(host).map(|host| host.name.clone());
        let name = name.ok_or_else(|| AnalysisError::NoPlace(format!("host {host}")))?;
        let guest = estate.guests.get_mut(member);
        let guest = guest.ok_or_else(|| AnalysisError::NoPlace(format!("guest {member}")))?;
        guest.host = Some(name);
        let moved = self.universe.put(member, u32::try_from(host).ok());
        self.regrouped(member, moved)
    }

    fn regrouped(&mut self, member: usize, moved: Option<Relabelled>) -> Result<(), AnalysisError> {
        let Some(moved) = moved else {
            return self.anew();
        };
        if moved.left == moved.joined {
            self.forget(Changed::Host(member));
            return Ok(());
        }
        if moved.fresh {
            self.relation.enter(&self.universe, moved.joined);
        }
        for (quantifier, overlay) in &mut self.overlays {
            for node in [moved.left, moved.joined] {
                let what = (node, *quantifier, self.date);
                overlay.look((&self.policy, &self.universe), what);
            }
        }
        self.forget(Changed::Member(member, moved));
        Ok(())
    }

    /// Begins anew: a change has asked for more than there was room for.
    fn anew(&mut self) -> Result<(), AnalysisError> {
        *self = Self::new(self.policy.clone(), self.estate.clone(), self.date)?;
        Ok(())
    }
}
