//! The agent of one host.
//!
//! What exists: [`moves`], the protocol by which a guest's sessions change hosts, as two pure state
//! machines. The shell that connects them to the kernel, to QEMU and to other agents is not built yet.
#![forbid(unsafe_code)]

pub mod moves;
