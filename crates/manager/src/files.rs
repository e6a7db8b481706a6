//! Files of the manager's directory. What `init` writes it never overwrites.

use crate::error::ManagerError;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o700;

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ManagerError + 'a {
    move |source| ManagerError::File {
        action,
        path: path.into(),
        source,
    }
}

/// Makes a directory for its owner only, as inventory and evidence lie in it; one that is there
/// already keeps its mode.
pub(crate) fn create_dir(dir: &Path) -> Result<(), ManagerError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIR_MODE);
    builder.create(dir).map_err(failed("creating", dir))
}

/// Writes a file that must not be there yet, durably.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ManagerError> {
    write(path, bytes, PUBLIC_MODE)
}

/// Writes a file that only its owner may read, durably.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), ManagerError> {
    write(path, bytes, SECRET_MODE)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ManagerError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // The name is durable only once the directory is.
        path.parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(failed("writing", path))
}

/// Reads a text.
pub(crate) fn read(path: &Path) -> Result<String, ManagerError> {
    std::fs::read_to_string(path).map_err(failed("reading", path))
}

/// Reads a secret, and refuses one that others could have read.
pub(crate) fn read_secret(path: &Path) -> Result<String, ManagerError> {
    let metadata = std::fs::metadata(path).map_err(failed("reading", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let detail = format!("mode {mode:o} lets others read this secret; expected 600");
        return Err(ManagerError::Content {
            path: path.into(),
            detail,
        });
    }
    read(path)
}

/// Takes the directory for one process. The lock ends with the process, however that ends.
pub(crate) fn lock(dir: &Path) -> Result<File, ManagerError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(SECRET_MODE)
        .open(&path)
        .map_err(failed("opening", &path))?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => ManagerError::Content {
            path: path.clone(),
            detail: "another manager runs on this directory; end it first".into(),
        },
        std::fs::TryLockError::Error(source) => ManagerError::File {
            action: "locking",
            path: path.clone(),
            source,
        },
    })?;
    Ok(file)
}
