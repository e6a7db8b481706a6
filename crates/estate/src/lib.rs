//! What is there: links, QEMU guests, one module per environment.
#![forbid(unsafe_code)]
