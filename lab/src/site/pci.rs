//! The guests of `examples/pci/`: the demo and the tests of whole flows share them.

use super::Guest;

/// Serves the portal, asks the database.
pub const WEB: Guest = Guest {
    name: "web",
    number: 10,
    labels: &[("zone", "cde"), ("tier", "web"), ("app", "pay")],
    vnics: 1,
};

/// Holds the payments.
pub const DB: Guest = Guest {
    name: "db",
    number: 11,
    labels: &[("zone", "cde"), ("tier", "db"), ("app", "pay")],
    vnics: 1,
};

/// An office machine that has no business here.
pub const CORP: Guest = Guest {
    name: "corp",
    number: 12,
    labels: &[("zone", "corp"), ("app", "office")],
    vnics: 1,
};

/// Settles at night; its owner lets it run where no agent is.
pub const BATCH: Guest = Guest {
    name: "batch",
    number: 13,
    labels: &[("zone", "cde"), ("tier", "batch"), ("app", "pay")],
    vnics: 1,
};

/// Uses the portal.
pub const CLIENT: Guest = Guest {
    name: "client",
    number: 14,
    labels: &[("zone", "dmz"), ("tier", "client")],
    vnics: 1,
};
