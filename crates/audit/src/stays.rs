//! Where guests were, out of what hosts, records and the manager claim.

use lictor_evidence::PlacedBy;
use lictor_types::{GuestId, HostId};

/// A guest at a host for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// Who.
    pub guest: GuestId,
    /// Where.
    pub host: HostId,
    /// Why there.
    pub by: PlacedBy,
    /// Whether an agent enforces there.
    pub protected: bool,
    /// Since when.
    pub since_ms: u64,
    /// Until when; `None` if it still is there.
    pub until_ms: Option<u64>,
    /// The entry that says so.
    pub index: u64,
}

/// A claim about a placement, before stays are made of them.
pub(crate) struct Placement {
    pub(crate) index: u64,
    pub(crate) time_ms: u64,
    pub(crate) guest: GuestId,
    pub(crate) host: HostId,
    pub(crate) claim: Claim,
}

/// What is said of a guest and a host.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    /// It is there: why, and whether an agent enforces there.
    Placed(PlacedBy, bool),
    /// A record says that it moved there and that the target opened.
    Moved,
    /// It left.
    Left,
}

/// Stays by guest and time, out of claims in any order.
pub(crate) fn stays(mut placements: Vec<Placement>) -> Vec<Stay> {
    placements.sort_by(|a, b| (&a.guest, a.time_ms, a.index).cmp(&(&b.guest, b.time_ms, b.index)));
    let mut stays: Vec<Stay> = Vec::new();
    for Placement {
        index,
        time_ms,
        guest,
        host,
        claim,
    } in placements
    {
        let open = stays
            .last_mut()
            .filter(|stay| stay.guest == guest && stay.until_ms.is_none());
        match (&open, claim) {
            // Being told again where it is changes nothing, unless protection changed: nobody moves
            // to where they are.
            (Some(stay), Claim::Placed(PlacedBy::Found | PlacedBy::Move, protected))
                if stay.host == host && stay.protected == protected =>
            {
                continue;
            }
            // The target's own word about itself is better than the record's.
            (Some(stay), Claim::Moved) if stay.host == host => continue,
            // The old host's farewell may arrive after the new host's welcome.
            (Some(stay), Claim::Left) if stay.host != host => continue,
            _ => {}
        }
        if let Some(stay) = open {
            stay.until_ms = Some(time_ms);
        }
        let (by, protected) = match claim {
            Claim::Placed(by, protected) => (by, protected),
            Claim::Moved => (PlacedBy::Move, true),
            Claim::Left => continue,
        };
        stays.push(Stay {
            guest,
            host,
            by,
            protected,
            since_ms: time_ms,
            until_ms: None,
            index,
        });
    }
    stays
}
