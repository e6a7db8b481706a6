//! Reads a pack's directory into memory.

use lictor_evidence::pack::Files;
use std::fs;
use std::path::Path;

/// Bytes of one pack. A year of a large cluster stays far below; more is a wrong directory.
const PACK_BYTES_MAX: u64 = 8 << 30;
/// Files of one pack, entry bundles and tiles included.
const FILES_MAX: usize = 1 << 20;
/// Directories inside each other.
const DEPTH_MAX: usize = 16;

/// Every file below the directory, by its path with slashes. Links are refused: a pack is itself
/// and nothing else.
pub(crate) fn read(root: &Path) -> Result<Files, String> {
    let mut files = Files::new();
    let mut room = PACK_BYTES_MAX;
    let mut open = vec![(root.to_path_buf(), String::new(), 0)];
    while let Some((directory, prefix, depth)) = open.pop() {
        let fault = |error: std::io::Error| format!("{}: {error}", directory.display());
        for item in fs::read_dir(&directory).map_err(fault)? {
            let item = item.map_err(fault)?;
            let name = item.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| format!("{prefix}{name:?}: not a UTF-8 name"))?;
            let (path, kind) = (format!("{prefix}{name}"), item.file_type().map_err(fault)?);
            if kind.is_dir() && depth < DEPTH_MAX {
                open.push((item.path(), format!("{path}/"), depth + 1));
                continue;
            }
            if !kind.is_file() {
                return Err(format!("{path}: neither a file nor a directory of a pack"));
            }
            let size = item.metadata().map_err(fault)?.len();
            room = room
                .checked_sub(size)
                .filter(|_| files.len() < FILES_MAX)
                .ok_or_else(|| format!("{path}: the directory is larger than a pack may be"))?;
            let bytes = fs::read(item.path()).map_err(|error| format!("{path}: {error}"))?;
            files.insert(path, bytes);
        }
    }
    Ok(files)
}
