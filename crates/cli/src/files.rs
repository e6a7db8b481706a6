//! Files: read within a limit, secrets for their owner only, nothing overwritten by accident.

use crate::CliError;
use lictor_evidence::pack::Files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path};

/// Bytes of a release or of a binding log.
pub const RELEASE_BYTES_MAX: usize = lictor_types::MESSAGE_BYTES_MAX;
/// Bytes of a text that a person writes: a site or a guest.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// Bytes of a key, a certificate or a trust file.
pub const KEY_BYTES_MAX: usize = 1 << 20;
/// Bytes of one pack on disk.
const PACK_BYTES_MAX: u64 = 8 << 30;
/// Files of one pack, entry bundles and tiles included.
const PACK_FILES_MAX: usize = 1 << 20;
/// Directories of a pack inside each other.
const PACK_DEPTH_MAX: usize = 16;

const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;
const SECRET_DIR_MODE: u32 = 0o700;

/// Reads a file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: usize) -> Result<Vec<u8>, CliError> {
    let failed = |error: std::io::Error| CliError::io(path, &error);
    let mut bytes = Vec::new();
    let room = max as u64 + 1;
    let file = File::open(path).map_err(failed)?;
    file.take(room).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(CliError::file(
            path,
            format!("longer than {max} bytes; is it the right file?"),
        ));
    }
    Ok(bytes)
}

/// What a file of people holds: JSON that they can read, with an end of line.
///
/// # Panics
/// If a key of a map is no string, which is so for nothing that is written here.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("only string keys");
    bytes.push(b'\n');
    bytes
}

/// Reads a text.
pub(crate) fn read_text(path: &Path, max: usize) -> Result<String, CliError> {
    text(path, read(path, max)?)
}

/// What was read, if it is a text.
pub(crate) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, CliError> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::file(path, format!("byte {at} is not UTF-8; expected a text"))
    })
}

/// Reads a secret, and refuses one that others could have read.
pub(crate) fn read_secret(path: &Path) -> Result<String, CliError> {
    let metadata = fs::metadata(path).map_err(|error| CliError::io(path, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CliError::file(
            path,
            format!("mode {mode:o} lets others use this key; expected 600, see `chmod 600`"),
        ));
    }
    read_text(path, KEY_BYTES_MAX)
}

/// Reads JSON, and says what it should have been.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T, CliError> {
    serde_json::from_slice(&read(path, RELEASE_BYTES_MAX)?)
        .map_err(|error| CliError::file(path, format!("{error}; expected {what}")))
}

/// Reads TOML that a person wrote. The parser's own message shows line and column.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    let text = read_text(path, TEXT_BYTES_MAX)?;
    toml::from_str(&text).map_err(|error| CliError::file(path, format!("\n{error}")))
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    create(path, bytes, PUBLIC_MODE)
}

/// Writes a file that must not be there yet and that only its owner may read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    create(path, bytes, SECRET_MODE)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CliError> {
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| CliError::io(path, &error))
}

/// Replaces a file as a whole: whoever reads it meanwhile sees the old or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let write = || {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(bytes)?;
        let mode = fs::Permissions::from_mode(PUBLIC_MODE);
        file.as_file().set_permissions(mode)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(|error| CliError::io(path, &error))
}

/// Makes a directory that only its owner enters; one that is there already is taken as it is.
pub(crate) fn secret_directory(path: &Path) -> Result<(), CliError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(SECRET_DIR_MODE);
    builder
        .create(path)
        .map_err(|error| CliError::io(path, &error))
}

/// Every file of a pack, by its path with slashes. Links are refused: a pack is itself and nothing
/// else.
pub(crate) fn read_pack(root: &Path) -> Result<Files, CliError> {
    let mut files = Files::new();
    let mut room = PACK_BYTES_MAX;
    let mut open = vec![(root.to_path_buf(), String::new(), 0)];
    while let Some((directory, prefix, depth)) = open.pop() {
        let failed = |error: std::io::Error| CliError::io(&directory, &error);
        for item in fs::read_dir(&directory).map_err(failed)? {
            let item = item.map_err(failed)?;
            let (name, file) = (item.file_name(), item.path());
            let refused = |why: &str| CliError::file(&file, why);
            let name = name.to_str().ok_or_else(|| refused("not a UTF-8 name"))?;
            let path = format!("{prefix}{name}");
            let kind = item.file_type().map_err(failed)?;
            if kind.is_dir() && depth < PACK_DEPTH_MAX {
                open.push((item.path(), format!("{path}/"), depth + 1));
                continue;
            }
            if !kind.is_file() {
                return Err(refused("neither a file nor a directory of a pack"));
            }
            room = room
                .checked_sub(item.metadata().map_err(failed)?.len())
                .filter(|_| files.len() < PACK_FILES_MAX)
                .ok_or_else(|| refused("the directory is larger than a pack may be"))?;
            let bytes = fs::read(&file).map_err(|error| CliError::io(&file, &error))?;
            files.insert(path, bytes);
        }
    }
    Ok(files)
}

/// Writes a pack into a new directory. Its paths came over the network: none may leave it.
pub(crate) fn write_pack(root: &Path, files: &Files) -> Result<(), CliError> {
    for path in files.keys() {
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
        if path.is_empty() || !Path::new(path).components().all(inside) {
            let what = format!("the manager sent the path {path:?}, which leaves the directory");
            return Err(CliError::file(root, what));
        }
    }
    fs::create_dir(root).map_err(|error| CliError::io(root, &error))?;
    for (path, bytes) in files {
        let file = root.join(path);
        let folder = file.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(|error| CliError::io(folder, &error))?;
        create(&file, bytes, PUBLIC_MODE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_at_itself_and_fails_one_above() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        write_new(&path, b"12345").expect("written");
        assert_eq!(read(&path, 5).expect("fits"), b"12345");
        let error = read(&path, 4).expect_err("too long").to_string();
        assert!(error.contains("longer than 4 bytes"), "{error}");
    }

    #[test]
    fn nothing_is_overwritten_and_a_secret_is_for_its_owner() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("key");
        write_secret(&path, b"secret").expect("written");
        let error = write_secret(&path, b"other").expect_err("is there");
        assert!(error.to_string().contains("choose another path"), "{error}");
        assert_eq!(read_secret(&path).expect("for its owner"), "secret");
        let open = fs::Permissions::from_mode(0o640);
        fs::set_permissions(&path, open).expect("changed");
        let error = read_secret(&path).expect_err("for the group too");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_pack_stays_in_its_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let check = |path: &str| {
            let root = dir.path().join("pack");
            let files = Files::from([(path.to_owned(), b"x".to_vec())]);
            let error = write_pack(&root, &files).expect_err("leaves it");
            assert!(
                error.to_string().contains("leaves the directory"),
                "{error}"
            );
            assert!(!root.exists());
        };
        for path in ["../x", "/etc/x", "a/../../x", "./x", ""] {
            check(path);
        }
        let root = dir.path().join("pack");
        let files = Files::from([("a/b/c".to_owned(), b"x".to_vec())]);
        write_pack(&root, &files).expect("written");
        assert_eq!(read_pack(&root).expect("read"), files);
    }
}
