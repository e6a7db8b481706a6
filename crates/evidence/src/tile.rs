//! C2SP tlog-tiles: paths and bytes of hash tiles and entry bundles.

use crate::{EvidenceError, Tree};
use lictor_types::{Digest, EVIDENCE_ENTRY_BYTES_MAX};
use std::collections::BTreeMap;

/// Hashes of a full tile, entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Tree levels that one tile spans.
const TILE_HEIGHT: usize = 8;

/// `x001/x234/067` for 1234067: at most a thousand names in one directory.
fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

fn path(level: &str, index: u64, width: u64) -> String {
    let partial = if width == TILE_WIDTH {
        String::new()
    } else {
        format!(".p/{width}")
    };
    format!("tile/{level}/{}{partial}", index_path(index))
}

/// Where a tile of hashes lies. `width` is the number of hashes in it, 1 to 256.
#[must_use]
pub fn tile_path(level: u8, index: u64, width: u64) -> String {
    path(&level.to_string(), index, width)
}

/// Where a bundle of entries lies.
#[must_use]
pub fn bundle_path(index: u64, width: u64) -> String {
    path("entries", index, width)
}

/// How many tiles or bundles `size` items fill, and how wide each is.
pub fn widths(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(TILE_WIDTH))
        .map(move |index| (index, TILE_WIDTH.min(size - index * TILE_WIDTH)))
}

/// All hash tiles of a tree.
#[must_use]
pub fn tiles(tree: &Tree) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for level in 0..=u8::MAX {
        let row = tree.row(usize::from(level) * TILE_HEIGHT);
        if row.is_empty() {
            break;
        }
        for (hashes, (index, width)) in row
            .chunks(TILE_WIDTH as usize)
            .zip(widths(row.len() as u64))
        {
            let bytes = hashes.iter().flat_map(|hash| hash.0).collect();
            files.insert(tile_path(level, index, width), bytes);
        }
    }
    files
}

/// The hashes in a tile.
///
/// # Errors
/// [`EvidenceError::Tile`] if the bytes are not whole hashes.
pub fn decode_tile(bytes: &[u8]) -> Result<Vec<Digest>, EvidenceError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(EvidenceError::Tile(format!(
            "{} bytes are not whole hashes",
            bytes.len()
        )));
    }
    Ok(hashes.iter().map(|hash| Digest(*hash)).collect())
}

/// The bytes of a bundle: each entry after its length in two bytes.
///
/// # Errors
/// [`EvidenceError::Entry`] if an entry is longer than the length can say.
pub fn encode_bundle<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, EvidenceError> {
    let mut bytes = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        bytes.extend_from_slice(&entry_length(entry)?.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

pub(crate) fn entry_length(entry: &[u8]) -> Result<u16, EvidenceError> {
    let (found, max) = (entry.len(), EVIDENCE_ENTRY_BYTES_MAX);
    u16::try_from(found).map_err(|_| {
        EvidenceError::Entry(format!(
            "{found} bytes; at most {max} fit; log a digest instead"
        ))
    })
}

/// The entries of a bundle, and the bytes left over after the last whole one.
#[must_use]
pub fn split_bundle(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut entries, mut rest) = (Vec::new(), bytes);
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let Some((entry, tail)) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        else {
            break;
        };
        entries.push(entry);
        rest = tail;
    }
    (entries, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::leaf_hash;

    #[test]
    fn paths_equal_the_published_crates() {
        for (level, index, width) in [(0, 0, 256), (0, 67, 3), (1, 1_234_067, 256), (2, 999, 255)] {
            let theirs =
                tlog_tiles::Tile::new(8, level, index, u32::try_from(width).expect("small"), false);
            // The published crate writes the older path with the height; the rest is the same.
            let theirs = theirs.path().replacen("tile/8/", "tile/", 1);
            assert_eq!(tile_path(level, index, width), theirs);
        }
        assert_eq!(bundle_path(1_234_067, 7), "tile/entries/x001/x234/067.p/7");
    }

    #[test]
    fn tiles_hold_every_leaf_and_every_complete_subtree() {
        let leaves: Vec<_> = (0..600_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let files = tiles(&Tree::from_leaves(leaves.clone()));
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "tile/0/000",
                "tile/0/001",
                "tile/0/002.p/88",
                "tile/1/000.p/2"
            ]
        );
        let first = decode_tile(&files["tile/0/000"]).expect("whole");
        assert_eq!(first, leaves[..256]);
        let upper = decode_tile(&files["tile/1/000.p/2"]).expect("whole");
        assert_eq!(upper[0], Tree::from_leaves(first).root());
    }

    #[test]
    fn bundles_round_trip_up_to_the_longest_entry() {
        let entries = [vec![], vec![1], vec![7; EVIDENCE_ENTRY_BYTES_MAX]];
        let bytes = encode_bundle(&entries).expect("fits");
        let (read, rest) = split_bundle(&bytes);
        assert_eq!(read, entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert!(rest.is_empty());
        assert!(encode_bundle(&[vec![0; EVIDENCE_ENTRY_BYTES_MAX + 1]]).is_err());
        assert_eq!(split_bundle(&bytes[..bytes.len() - 1]).0.len(), 2);
    }
}
