//! Measures Lictor beside what it replaces, in one run.
//!
//! Absolute numbers depend on the machine and its neighbours, so everything that is compared is
//! measured alternately, in a new random order each round, and compared within the round. Costs are
//! processor time, not wall time: a neighbour that takes the processor away costs none of ours.
#![forbid(unsafe_code)]

pub mod clock;
pub mod datapath;
pub mod injector;
pub mod moves;
pub mod policy;
pub mod program;
pub mod report;
pub mod world;
