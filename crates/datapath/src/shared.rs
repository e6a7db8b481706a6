//! What all vnics of a host share: created once, pinned, found again.

use crate::abi::{
    self, AddressBucket, AddressKey, AddressValue, Clock, DecisionBucket, HostTimeouts, Local,
    ReleaseInfo,
};
use crate::sys::{self, Map, Shape};
use crate::{Error, sys::Hook};
use libbpf_sys as c;
use lictor_types::Timeouts;
use nix::libc;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What this kernel offers beyond the least that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Multi-program attachment with pinned links (Linux 6.6).
    pub tcx: bool,
}

const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;

/// Mounts a BPF file system on a folder, unless there is one already.
///
/// # Errors
/// [`Error::System`] if the folder cannot be made or the mount is refused.
pub fn mount_bpffs(folder: &Path) -> Result<(), Error> {
    let failed = |source| Error::System {
        action: "mounting a BPF file system",
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    if is_bpffs(folder) {
        return Ok(());
    }
    let flags = nix::mount::MsFlags::MS_NOSUID
        | nix::mount::MsFlags::MS_NODEV
        | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), folder, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|error| failed(error.into()))
}

fn is_bpffs(folder: &Path) -> bool {
    nix::sys::statfs::statfs(folder)
        .is_ok_and(|info| info.filesystem_type().0 as libc::c_long == BPF_FS_MAGIC)
}

/// What is needed, each by the map that shows it: what it is called, and its shape.
const NEEDED: [(&str, Shape); 3] = [
    ("BPF maps with longest-prefix match", ADDRESSES_INNER),
    (
        "the BPF ring buffer",
        Shape {
            name: "probe",
            entries: 4096,
            ..EVENTS
        },
    ),
    (
        "memory-mapped BPF arrays inside of others",
        fixed("probe", 8),
    ),
];

/// Asks for each thing that is needed by making one.
fn require<T>(make: impl Fn(&Shape) -> io::Result<T>) -> Result<(), Error> {
    for (feature, shape) in &NEEDED {
        make(shape).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Permission(source),
            _ => Error::Kernel { feature, source },
        })?;
    }
    Ok(())
}

/// Asks the kernel for the least that is needed by using it.
pub(crate) fn check_kernel() -> Result<Features, Error> {
    require(|shape| sys::map_create(shape, None))?;
    // Interface 1 is the loopback of every network namespace.
    let tcx = match sys::tcx_programs(1, Hook::Ingress) {
        Ok(_) => true,
        Err(error) => !matches!(error.raw_os_error(), Some(libc::EINVAL)),
    };
    Ok(Features { tcx })
}

const fn array(name: &'static str, value: usize, entries: u32) -> Shape {
    Shape {
        kind: c::BPF_MAP_TYPE_ARRAY,
        name,
        key: 4,
        value,
        entries,
        flags: 0,
    }
}

/// An array of any length inside of another map.
const fn fixed(name: &'static str, value: usize) -> Shape {
    Shape {
        flags: c::BPF_F_MMAPABLE | c::BPF_F_INNER_MAP,
        ..array(name, value, 1)
    }
}

const fn outer(name: &'static str) -> Shape {
    let kind = c::BPF_MAP_TYPE_ARRAY_OF_MAPS;
    Shape {
        kind,
        name,
        key: 4,
        value: 4,
        entries: abi::SLOTS,
        flags: 0,
    }
}

pub(crate) const ADDRESSES_INNER: Shape = Shape {
    kind: c::BPF_MAP_TYPE_LPM_TRIE,
    name: "addresses_slot",
    key: size_of::<AddressKey>(),
    value: size_of::<AddressValue>(),
    entries: 1,
    flags: c::BPF_F_NO_PREALLOC,
};
pub(crate) const HOSTS_INNER: Shape = fixed("hosts_slot", size_of::<AddressBucket>());
pub(crate) const ATOMS_INNER: Shape = array(
    "atoms_slot",
    size_of::<abi::AtomBlock>(),
    abi::ATOM_BLOCKS as u32,
);
pub(crate) const DECISIONS_INNER: Shape = fixed("decisions_slot", size_of::<DecisionBucket>());
const LOCAL_PLACES: Shape = array("local_places", 8, abi::LOCAL_PLACES);
const EVENTS: Shape = Shape {
    kind: c::BPF_MAP_TYPE_RINGBUF,
    name: "events",
    key: 0,
    value: 0,
    entries: abi::EVENTS_BYTES,
    flags: 0,
};

/// The shared maps, open.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) active: Map<u32, u64>,
    pub(crate) addresses: Map<u32, u32>,
    pub(crate) hosts: Map<u32, u32>,
    pub(crate) atoms: Map<u32, u32>,
    pub(crate) decisions: Map<u32, u32>,
    pub(crate) release_info: Map<u32, ReleaseInfo>,
    pub(crate) host_counters: Map<u32, u64>,
    pub(crate) timeouts: Map<u32, HostTimeouts>,
    pub(crate) clock: Map<u32, Clock>,
    pub(crate) locals: Map<u32, Local>,
    pub(crate) local_places: Map<u32, u64>,
    pub(crate) events: OwnedFd,
}

impl Shared {
    /// Opens or makes every shared map below the folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let nest = |shape: &Shape, inner: &Shape| -> Result<OwnedFd, Error> {
            let inner = sys::map_create(inner, None).map_err(creating)?;
            pinned(folder, shape, Some(inner.as_fd()))
        };
        let flat = |shape: &Shape| pinned(folder, shape, None);
        let info = array("release_info", size_of::<ReleaseInfo>(), abi::SLOTS);
        let shared = Self {
            active: wrap(flat(&array("active", 8, 1))?)?,
            addresses: wrap(nest(&outer("addresses"), &ADDRESSES_INNER)?)?,
            hosts: wrap(nest(&outer("hosts"), &HOSTS_INNER)?)?,
            atoms: wrap(nest(&outer("atoms"), &ATOMS_INNER)?)?,
            decisions: wrap(nest(&outer("decisions"), &DECISIONS_INNER)?)?,
            release_info: wrap(flat(&info)?)?,
            host_counters: wrap(flat(&array("host_counters", 8, abi::HOST_COUNTERS))?)?,
            timeouts: wrap(flat(&array("timeouts", size_of::<HostTimeouts>(), 1))?)?,
            clock: wrap(flat(&array("clock", size_of::<Clock>(), 1))?)?,
            locals: wrap(flat(&array("locals", size_of::<Local>(), abi::LOCALS_MAX))?)?,
            local_places: wrap(flat(&LOCAL_PLACES)?)?,
            events: flat(&EVENTS)?,
        };
        // None of them is zero once they were set.
        if shared.timeouts()? == HostTimeouts::default().read() {
            shared.set_timeouts(&Timeouts::default())?;
        }
        Ok(shared)
    }

    pub(crate) fn timeouts(&self) -> Result<Timeouts, Error> {
        let raw = self.timeouts.get(&0).map_err(|source| Error::System {
            action: "reading the time-outs",
            source,
        })?;
        Ok(raw.unwrap_or_default().read())
    }

    pub(crate) fn set_timeouts(&self, timeouts: &Timeouts) -> Result<(), Error> {
        let raw = HostTimeouts::of(timeouts);
        self.timeouts
            .set(&0, &raw, 0)
            .map_err(|source| Error::System {
                action: "writing the time-outs",
                source,
            })
    }

    /// The descriptor of the map that the program knows by this name.
    pub(crate) fn fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        Some(match name {
            "active" => self.active.fd(),
            "addresses" => self.addresses.fd(),
            "hosts" => self.hosts.fd(),
            "atoms" => self.atoms.fd(),
            "decisions" => self.decisions.fd(),
            "release_info" => self.release_info.fd(),
            "host_counters" => self.host_counters.fd(),
            "timeouts" => self.timeouts.fd(),
            "clock" => self.clock.fd(),
            "locals" => self.locals.fd(),
            "local_places" => self.local_places.fd(),
            "events" => self.events.as_fd(),
            _ => return None,
        })
    }
}

fn creating(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EPERM) => Error::Permission(source),
        _ => Error::System {
            action: "creating a BPF map",
            source,
        },
    }
}

fn wrap<K: abi::Plain, V: abi::Plain>(fd: OwnedFd) -> Result<Map<K, V>, Error> {
    Map::new(fd).map_err(|source| Error::System {
        action: "checking a shared BPF map",
        source,
    })
}

fn pinned(folder: &Path, shape: &Shape, inner: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let path = folder.join(shape.name);
    if path.exists() {
        return sys::open_pin(&path).map_err(|source| Error::Pin {
            path: path.clone(),
            action: "opened",
            source,
        });
    }
    let map = sys::map_create(shape, inner).map_err(creating)?;
    sys::pin(map.as_fd(), &path).map_err(|source| Error::Pin {
        path: path.clone(),
        action: "made",
        source,
    })?;
    Ok(map)
}

/// What is in a folder; nothing if there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    });
    match list {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|source| Error::Pin {
            path: folder.to_owned(),
            action: "read",
            source,
        }),
    }
}

/// The layout whose pins lie in this folder.
fn layout_of(folder: &Path) -> Option<u32> {
    let name = folder.file_name()?.to_str()?;
    name.strip_prefix('v')?.parse().ok()
}

/// Two builds would both guard a device, and each call the other's program a stranger's.
fn refuse_other_layouts(root: &Path) -> Result<(), Error> {
    let own = abi::ABI;
    for folder in entries(root)? {
        if layout_of(&folder).is_none_or(|layout| layout == own) {
            continue;
        }
        let path = folder.join("vnics");
        let vnics = entries(&path)?.len();
        if vnics > 0 {
            return Err(Error::Layout { path, vnics, own });
        }
    }
    Ok(())
}

/// Makes the folders of this layout below the pin root.
pub(crate) fn folders(root: &Path) -> Result<PathBuf, Error> {
    if !is_bpffs(root) {
        // A folder below a BPF file system is as good as its root.
        let parent = root.parent().filter(|parent| is_bpffs(parent));
        if parent.is_none() {
            return Err(Error::NotBpffs {
                path: root.to_owned(),
            });
        }
    }
    refuse_other_layouts(root)?;
    let folder = root.join(format!("v{}", abi::ABI));
    fs::create_dir_all(folder.join("vnics")).map_err(|source| Error::Pin {
        path: folder.clone(),
        action: "made",
        source,
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel says that refuses the map of this place.
    fn refused(place: usize, error: i32) -> String {
        let made = std::cell::Cell::new(0);
        let make = |_: &Shape| {
            made.set(made.get() + 1);
            match made.get() == place {
                true => Err(io::Error::from_raw_os_error(error)),
                false => Ok(()),
            }
        };
        let told = require(make).expect_err("a refusal");
        assert_eq!(made.get(), place, "nothing is asked after a refusal");
        told.to_string()
    }

    #[test]
    fn a_kernel_that_lacks_something_is_refused_by_name() {
        for (place, feature) in [
            "BPF maps with longest-prefix match",
            "the BPF ring buffer",
            "memory-mapped BPF arrays inside of others",
        ]
        .into_iter()
        .enumerate()
        {
            let expected = format!(
                "this kernel lacks {feature}; Linux 6.1 or newer with BPF and cls_bpf is needed"
            );
            assert_eq!(refused(place + 1, libc::EINVAL), expected);
        }
    }

    #[test]
    fn a_process_that_may_not_use_bpf_is_told_what_it_needs() {
        for error in [libc::EPERM, libc::EACCES] {
            assert_eq!(
                refused(1, error),
                "the kernel refuses BPF to this process; run as root, or with CAP_BPF, \
                 CAP_NET_ADMIN"
            );
        }
    }
}
