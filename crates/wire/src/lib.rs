//! What managers, agents and people send each other: releases, bindings, tickets, records.
#![forbid(unsafe_code)]
