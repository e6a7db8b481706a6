//! Writes the guest's initramfs: a cpio archive in the "newc" format that the kernel unpacks.

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(&Entry {
            name,
            mode: DIRECTORY,
            device: (0, 0),
            data: &[],
        });
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(&Entry {
            name,
            mode: PROGRAM,
            device: (0, 0),
            data,
        });
    }

    pub(crate) fn device(&mut self, name: &str, device: (u32, u32)) {
        self.entry(&Entry {
            name,
            mode: CHARACTER_DEVICE,
            device,
            data: &[],
        });
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(&Entry {
            name: "TRAILER!!!",
            mode: 0,
            device: (0, 0),
            data: &[],
        });
        self.bytes
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        self.entries += 1;
        let size = |bytes: usize| u32::try_from(bytes).expect("a guest file is far below 4 GiB");
        let (major, minor) = entry.device;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check: the order of Documentation/driver-api/early-userspace/buffer-format.rst.
        let fields = [
            self.entries,
            entry.mode,
            0,
            0,
            1,
            0,
            size(entry.data.len()),
            0,
            0,
            major,
            minor,
            size(entry.name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.data);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_header_that_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.file("a", b"xyz");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081ed"), "{text}");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..116], b"xyz\0");
        assert!(
            text[116..].starts_with("070701") && text.contains("TRAILER!!!"),
            "{text}"
        );
        assert!(bytes.len().is_multiple_of(4));
    }
}
