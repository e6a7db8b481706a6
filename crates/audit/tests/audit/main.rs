//! The checks and the report over a small deployment.

mod checks;
mod moves;
mod report;
mod world;
