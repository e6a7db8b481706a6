//! Every point of a move at which something that fails finds the two ends in another state than
//! before. Tests strike at each of them; the list is here so that a new one is not left out.

/// Makes an enum and the list of all that it has from the same lines: a stage or a fault that is
/// added cannot be missing from what tests iterate over.
macro_rules! listed {
    (
        $(#[$doc:meta])* $name:ident
        { $($(#[$item_doc:meta])* $item:ident,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$item,)*];
        }
    };
}

listed! {
    /// How far a move has come, in order.
    Stage {
        /// The source has signed the ticket and asked; the target has not answered.
        Asked,
        /// Both have signed.
        Admitted,
        /// The target's vnics are in hold and its QEMU waits; the source does not know it yet.
        Held,
        /// The first round is under way.
        Copying,
        /// The migration may begin, or goes on; the guest runs at the source.
        Copied,
        /// QEMU has stopped the guest and has not asked for what travels with it.
        Stopped,
        /// The vnics are fenced, and QEMU carries the record.
        Fenced,
        /// The target's QEMU asks with the record; the last sessions are still on their way.
        Loading,
        /// The target has everything and has asked for the commit.
        Asking,
        /// The source has granted it; the target does not know it yet.
        Granted,
        /// The target knows, and is about to open.
        Opening,
        /// The vnics are open; the guest has not run there yet.
        Opened,
        /// The guest runs at the target; the source does not know it yet.
        Runs,
        /// The source has signed the record and forgotten the guest.
        Recorded,
    }
}

listed! {
    /// What may fail, or be done by somebody, at any stage.
    Fault {
        /// The source's agent is killed and started again.
        SourceAgentKilled,
        /// The target's agent is killed and started again.
        TargetAgentKilled,
        /// The source's QEMU is killed.
        SourceQemuKilled,
        /// The target's QEMU is killed.
        TargetQemuKilled,
        /// The manager is killed.
        ManagerKilled,
        /// No frame passes between the hosts for a while.
        FabricCut,
        /// Somebody cancels the migration.
        Cancelled,
        /// The target's whole host goes down and comes back later.
        TargetHostDies,
    }
}
