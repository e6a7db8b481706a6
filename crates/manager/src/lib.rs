//! The manager: inventory, releases, moves and evidence behind one API.
#![forbid(unsafe_code)]
