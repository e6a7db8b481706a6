//! An empty qcow2 disk, written by hand: a snapshot needs a disk that can hold it, and the lab
//! should not need another package for 256 KiB of zeros.

use anyhow::{Context, Result};
use std::path::Path;

const CLUSTER: usize = 65_536;
const DISK: u64 = 256 << 20;

/// Writes the disk: one cluster each for header, reference count table, reference counts, L1 table.
///
/// # Errors
/// The file cannot be written.
pub fn create(path: &Path) -> Result<()> {
    let mut disk = vec![0_u8; 4 * CLUSTER];
    let cluster = |number: usize| (number * CLUSTER) as u64;
    put(&mut disk, 0, b"QFI\xfb");
    put(&mut disk, 4, &3_u32.to_be_bytes());
    put(&mut disk, 20, &16_u32.to_be_bytes());
    put(&mut disk, 24, &DISK.to_be_bytes());
    put(&mut disk, 36, &1_u32.to_be_bytes());
    put(&mut disk, 40, &cluster(3).to_be_bytes());
    put(&mut disk, 48, &cluster(1).to_be_bytes());
    put(&mut disk, 56, &1_u32.to_be_bytes());
    // 2^4 = 16 bits per reference count, and the length of a version 3 header.
    put(&mut disk, 96, &4_u32.to_be_bytes());
    put(&mut disk, 100, &104_u32.to_be_bytes());
    put(&mut disk, CLUSTER, &cluster(2).to_be_bytes());
    for used in 0..4 {
        put(&mut disk, 2 * CLUSTER + 2 * used, &1_u16.to_be_bytes());
    }
    std::fs::write(path, disk).with_context(|| format!("cannot write {}", path.display()))
}

fn put(disk: &mut [u8], offset: usize, bytes: &[u8]) {
    disk[offset..offset + bytes.len()].copy_from_slice(bytes);
}
