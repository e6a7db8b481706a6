//! Every system call, each behind a safe function. The only module with `unsafe` besides `abi`.

use crate::abi::Plain;
use libbpf_sys as c;
use nix::libc;
use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Rows of one batch call: enough to hide the cost of the call, little enough for the kernel's
/// temporary copies.
const BATCH_ROWS: usize = 4_096;
/// Rows of a map's first batch; each later one has twice as many, up to that.
const FIRST_ROWS: usize = 64;
/// Bytes of the values in one batch; larger values come in fewer rows.
const BATCH_BYTES: usize = 1 << 20;

const fn batch_rows<V>() -> usize {
    let fit = BATCH_BYTES / size_of::<V>();
    if fit < BATCH_ROWS { fit } else { BATCH_ROWS }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}

fn own(result: i32) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the call just returned this descriptor to us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// What a map is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kind: u32,
    pub(crate) name: &'static str,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

pub(crate) fn map_create(shape: &Shape, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let name = CString::new(shape.name).map_err(|_| io::ErrorKind::InvalidInput)?;
    let opts = c::bpf_map_create_opts {
        sz: size_of::<c::bpf_map_create_opts>() as c::size_t,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
        map_flags: shape.flags,
        ..Default::default()
    };
    let (key, value) = (shape.key as u32, shape.value as u32);
    // SAFETY: the name and the options live through the call.
    own(unsafe { c::bpf_map_create(shape.kind, name.as_ptr(), key, value, shape.entries, &opts) })
}

pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    // SAFETY: the path lives through the call.
    check(unsafe { c::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) }).map(drop)
}

pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    // SAFETY: the path lives through the call.
    own(unsafe { c::bpf_obj_get(path.as_ptr()) })
}

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    kinds: std::marker::PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Wraps a descriptor after asking the kernel whether its sizes are ours: every call below
    /// lets the kernel write that many bytes.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = map_info(fd.as_fd())?;
        if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the map has keys or values of another size",
            ));
        }
        Ok(Self {
            fd,
            kinds: std::marker::PhantomData,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let (key, into) = ((&raw const *key).cast(), (&raw mut value).cast());
        // SAFETY: `new` proved the sizes; both live through the call. Maps with a value per CPU
        // have their own function.
        let result = unsafe { c::bpf_map_lookup_elem(self.fd.as_raw_fd(), key, into) };
        match result {
            result if result == -libc::ENOENT => Ok(None),
            result => check(result).map(|_| Some(value)),
        }
    }

    /// The values of all CPUs.
    pub(crate) fn get_per_cpu(&self, key: &K, cpus: usize) -> io::Result<Vec<V>> {
        // The kernel rounds each value to eight bytes; those read this way are multiples of it.
        assert_eq!(
            size_of::<V>() % 8,
            0,
            "a value per CPU is a multiple of eight bytes"
        );
        let mut values = vec![V::default(); cpus];
        let (key, into) = ((&raw const *key).cast(), values.as_mut_ptr().cast());
        // SAFETY: there is room for one value for each possible CPU.
        check(unsafe { c::bpf_map_lookup_elem(self.fd.as_raw_fd(), key, into) })?;
        Ok(values)
    }

    pub(crate) fn set(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        let (key, value) = ((&raw const *key).cast(), (&raw const *value).cast());
        // SAFETY: `new` proved the sizes; both live through the call.
        let result = unsafe { c::bpf_map_update_elem(self.fd.as_raw_fd(), key, value, flags) };
        check(result).map(drop)
    }

    /// Whether there was such a row.
    pub(crate) fn remove(&self, key: &K) -> io::Result<bool> {
        let key: *const c_void = (&raw const *key).cast();
        // SAFETY: `new` proved the size; the key lives through the call.
        match unsafe { c::bpf_map_delete_elem(self.fd.as_raw_fd(), key) } {
            result if result == -libc::ENOENT => Ok(false),
            result => check(result).map(|_| true),
        }
    }

    /// Writes all rows or fails.
    pub(crate) fn fill(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "each key has a value");
        let opts = batch_opts();
        let rows = batch_rows::<V>();
        for (keys, values) in keys.chunks(rows).zip(values.chunks(rows)) {
            let mut count = keys.len() as u32;
            let (from, with) = (keys.as_ptr().cast(), values.as_ptr().cast());
            let fd = self.fd.as_raw_fd();
            // SAFETY: both slices have `count` rows of the sizes that `new` proved.
            check(unsafe { c::bpf_map_update_batch(fd, from, with, &mut count, &opts) })?;
            if count as usize != keys.len() {
                return Err(io::Error::other("the kernel took only a part of a batch"));
            }
        }
        Ok(())
    }

    /// Every row. The kernel returns short batches whenever a bucket does not fit; only ENOENT
    /// means the end, and ENOSPC means that one bucket is larger than the whole batch. Most maps
    /// have few rows, and to touch memory for many would take longer than to read them.
    pub(crate) fn rows(&self) -> io::Result<Vec<(K, V)>> {
        let mut rows = Vec::new();
        let mut size = FIRST_ROWS.min(batch_rows::<V>());
        // A cursor is as large as the largest key, whatever the map's kind.
        let (mut from, mut next) = ([0u8; 64], [0u8; 64]);
        assert!(
            size_of::<K>() <= from.len(),
            "the cursor has room for a key"
        );
        let mut started = false;
        let opts = batch_opts();
        loop {
            let mut keys = vec![K::default(); size];
            let mut values = vec![V::default(); size];
            let mut count = size as u32;
            let cursor = if started {
                from.as_mut_ptr().cast()
            } else {
                std::ptr::null_mut()
            };
            // SAFETY: both vectors have room for `count` rows; the cursors for the largest key.
            let result = unsafe {
                c::bpf_map_lookup_batch(
                    self.fd.as_raw_fd(),
                    cursor,
                    next.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &mut count,
                    &opts,
                )
            };
            if result == -libc::ENOSPC {
                size *= 2;
                continue;
            }
            if result != -libc::ENOENT {
                check(result)?;
            }
            let count = (count as usize).min(size);
            rows.extend(keys.drain(..count).zip(values.drain(..count)));
            if result == -libc::ENOENT {
                return Ok(rows);
            }
            from = next;
            started = true;
            size = size.max((2 * size).min(batch_rows::<V>()));
        }
    }
}

/// The values of an array map, in this process's memory. Each word that the kernel's programs also
/// write is read and written as an atomic one; values are copied out and in whole, and a copy that
/// a program was writing to may be torn: the table's control words say when that matters.
#[derive(Debug)]
pub(crate) struct Mapped<V> {
    start: std::ptr::NonNull<c_void>,
    length: usize,
    values: usize,
    kind: std::marker::PhantomData<V>,
}

// SAFETY: the mapping belongs to no thread, and all access to it is atomic or by volatile copy.
unsafe impl<V> Send for Mapped<V> {}
// SAFETY: as above.
unsafe impl<V> Sync for Mapped<V> {}

impl<V: Plain> Mapped<V> {
    /// Maps the values of a map that was made with `BPF_F_MMAPABLE`.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let info = map_info(fd)?;
        if info.value_size as usize != size_of::<V>() || !size_of::<V>().is_multiple_of(8) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the map has values of another size",
            ));
        }
        let values = info.max_entries as usize;
        let bytes = (values * size_of::<V>()).next_multiple_of(PAGE_BYTES);
        let length = std::num::NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidData)?;
        use nix::sys::mman::{MapFlags, ProtFlags};
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let start =
            unsafe { nix::sys::mman::mmap(None, length, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self {
            start,
            length: bytes,
            values,
            kind: std::marker::PhantomData,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.values
    }

    fn at<W>(&self, index: usize, offset: usize) -> *mut W {
        assert!(index < self.values && offset + size_of::<W>() <= size_of::<V>());
        assert!(offset.is_multiple_of(align_of::<W>()));
        let byte = index * size_of::<V>() + offset;
        // SAFETY: inside the mapping, by the assertion; values are multiples of eight bytes and
        // begin on a page, so an aligned offset gives an aligned pointer.
        unsafe { self.start.as_ptr().cast::<u8>().add(byte).cast() }
    }

    /// A word of a value.
    pub(crate) fn word(&self, index: usize, offset: usize) -> &std::sync::atomic::AtomicU64 {
        // SAFETY: valid and aligned (`at`), for as long as the mapping, which `self` keeps.
        unsafe { std::sync::atomic::AtomicU64::from_ptr(self.at(index, offset)) }
    }

    /// Half a word of a value.
    pub(crate) fn half(&self, index: usize, offset: usize) -> &std::sync::atomic::AtomicU32 {
        // SAFETY: as for `word`.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(self.at(index, offset)) }
    }

    /// Has the processor fetch the lines of a part of a value that is used soon, and waits for
    /// none of them. Where this is not known to be possible they are fetched when they are used.
    pub(crate) fn fetch(&self, index: usize, offset: usize, bytes: usize) {
        assert!(index < self.values && offset + bytes <= size_of::<V>());
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let first = index * size_of::<V>() + offset;
            for byte in (first - first % LINE_BYTES..first + bytes).step_by(LINE_BYTES) {
                // SAFETY: inside the mapping, by the assertion and because it begins on a page;
                // nothing is read or written in the sense of the language.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(self.start.as_ptr().cast::<i8>().add(byte)) };
            }
        }
    }

    /// A copy of a part of a value: word by word, because a program may be writing there.
    pub(crate) fn load<W: Plain>(&self, index: usize, offset: usize) -> W {
        let from: *const u64 = self.words::<W>(index, offset);
        let mut part = std::mem::MaybeUninit::<W>::uninit();
        let into: *mut u64 = part.as_mut_ptr().cast();
        for word in 0..size_of::<W>() / size_of::<u64>() {
            // SAFETY: both have as many words (`words`), each of them aligned.
            unsafe { into.add(word).write(from.add(word).read_volatile()) };
        }
        // SAFETY: every word was written; any bytes are a `W`.
        unsafe { part.assume_init() }
    }

    /// Overwrites a part of a value, word by word.
    pub(crate) fn store<W: Plain>(&self, index: usize, offset: usize, part: &W) {
        let into = self.words::<W>(index, offset);
        let from: *const u64 = (&raw const *part).cast();
        for word in 0..size_of::<W>() / size_of::<u64>() {
            // SAFETY: both have as many words (`words`), each of them aligned.
            unsafe { into.add(word).write_volatile(from.add(word).read()) };
        }
    }

    /// A part of a value that is made of whole words.
    fn words<W: Plain>(&self, index: usize, offset: usize) -> *mut u64 {
        const {
            assert!(size_of::<W>().is_multiple_of(size_of::<u64>()));
            assert!(align_of::<W>() == align_of::<u64>());
        }
        self.at::<W>(index, offset).cast()
    }
}

impl<V> Drop for Mapped<V> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives this value.
        let _ = unsafe { nix::sys::mman::munmap(self.start, self.length) };
    }
}

/// BPF maps are mapped in pages of the least size there is.
const PAGE_BYTES: usize = 4_096;
/// What a processor fetches at once.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

fn map_info(fd: BorrowedFd<'_>) -> io::Result<c::bpf_map_info> {
    let mut info = c::bpf_map_info::default();
    let mut length = size_of::<c::bpf_map_info>() as u32;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    check(unsafe { c::bpf_map_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut length) })?;
    Ok(info)
}

fn batch_opts() -> c::bpf_map_batch_opts {
    c::bpf_map_batch_opts {
        sz: size_of::<c::bpf_map_batch_opts>() as c::size_t,
        ..Default::default()
    }
}

/// Has the processor fetch the first line of what is used soon, and waits for nothing, as
/// [`Mapped::fetch`] does.
pub(crate) fn fetch<T>(soon: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address reads and writes nothing in the sense of the language.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(soon.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = soon;
}

/// A map of maps, or an array whose value is a descriptor on the way in and an id on the way out.
pub(crate) fn inner_map(outer: &Map<u32, u32>, slot: u32) -> io::Result<Option<OwnedFd>> {
    let Some(id) = outer.get(&slot)? else {
        return Ok(None);
    };
    // SAFETY: takes and returns plain numbers.
    own(unsafe { c::bpf_map_get_fd_by_id(id) }).map(Some)
}

/// Puts a map into a slot of a map of maps.
pub(crate) fn set_inner(outer: &Map<u32, u32>, slot: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    outer.set(&slot, &(inner.as_raw_fd() as u32), 0)
}

pub(crate) fn prog_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = c::bpf_prog_info::default();
    let mut length = size_of::<c::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `length` bytes, and every pointer in `info` is null.
    check(unsafe { c::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut length) })?;
    Ok(info.id)
}

/// Which side of the device, as tc names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    fn tcx(self) -> u32 {
        match self {
            Self::Ingress => c::BPF_TCX_INGRESS,
            Self::Egress => c::BPF_TCX_EGRESS,
        }
    }

    fn clsact(self, ifindex: u32) -> c::bpf_tc_hook {
        c::bpf_tc_hook {
            sz: size_of::<c::bpf_tc_hook>() as c::size_t,
            ifindex: ifindex as i32,
            attach_point: match self {
                Self::Ingress => c::BPF_TC_INGRESS,
                Self::Egress => c::BPF_TC_EGRESS,
            },
            ..Default::default()
        }
    }
}

/// Attaches before every program that is there already. The link holds until its last pin and
/// descriptor are gone.
pub(crate) fn tcx_attach(prog: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    let opts = c::bpf_link_create_opts {
        sz: size_of::<c::bpf_link_create_opts>() as c::size_t,
        flags: c::BPF_F_BEFORE,
        ..Default::default()
    };
    let (prog, target) = (prog.as_raw_fd(), ifindex as i32);
    // SAFETY: the options live through the call.
    own(unsafe { c::bpf_link_create(prog, target, hook.tcx(), &opts) })
}

/// The programs of a tcx hook in the order in which they run.
pub(crate) fn tcx_programs(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut opts = c::bpf_prog_query_opts {
        sz: size_of::<c::bpf_prog_query_opts>() as c::size_t,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    opts.__bindgen_anon_1.count = ids.len() as u32;
    // SAFETY: the kernel writes at most `count` ids.
    check(unsafe { c::bpf_prog_query_opts(ifindex as i32, hook.tcx(), &mut opts) })?;
    // SAFETY: both members of the union are the same plain number.
    let count = unsafe { opts.__bindgen_anon_1.count } as usize;
    Ok(ids[..count.min(ids.len())].to_vec())
}

const CLSACT_HANDLE: u32 = 1;
pub(crate) const CLSACT_PRIORITY: u32 = 1;

fn tc_opts() -> c::bpf_tc_opts {
    c::bpf_tc_opts {
        sz: size_of::<c::bpf_tc_opts>() as c::size_t,
        handle: CLSACT_HANDLE,
        priority: CLSACT_PRIORITY,
        ..Default::default()
    }
}

pub(crate) fn clsact_attach(prog: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<()> {
    let mut place = hook.clsact(ifindex);
    // SAFETY: the hook lives through the call.
    let result = unsafe { c::bpf_tc_hook_create(&mut place) };
    if result != -libc::EEXIST {
        check(result)?;
    }
    let mut opts = c::bpf_tc_opts {
        prog_fd: prog.as_raw_fd(),
        flags: c::BPF_TC_F_REPLACE,
        ..tc_opts()
    };
    // SAFETY: both live through the call.
    check(unsafe { c::bpf_tc_attach(&place, &mut opts) }).map(drop)
}

/// The id of the program at our place, if one is there.
pub(crate) fn clsact_program(ifindex: u32, hook: Hook) -> io::Result<Option<u32>> {
    let place = hook.clsact(ifindex);
    let mut opts = tc_opts();
    // SAFETY: both live through the call.
    match unsafe { c::bpf_tc_query(&place, &mut opts) } {
        result if [-libc::ENOENT, -libc::EINVAL, -libc::ENODEV].contains(&result) => Ok(None),
        result => check(result).map(|_| Some(opts.prog_id)),
    }
}

pub(crate) fn clsact_detach(ifindex: u32, hook: Hook) -> io::Result<()> {
    let place = hook.clsact(ifindex);
    let opts = tc_opts();
    // SAFETY: both live through the call.
    match unsafe { c::bpf_tc_detach(&place, &opts) } {
        result if [-libc::ENOENT, -libc::EINVAL, -libc::ENODEV].contains(&result) => Ok(()),
        result => check(result).map(drop),
    }
}

/// Words of `struct __sk_buff`, with room for what newer kernels add, and where its `cb` begins.
const SK_BUFF_WORDS: usize = 64;
const SK_BUFF_INGRESS_IFINDEX: usize = 9;
const SK_BUFF_CB: usize = 12;

/// What a program made of a packet.
#[derive(Debug)]
pub(crate) struct TestRun {
    pub(crate) returned: i32,
    /// The first words of its control block.
    pub(crate) words: [u32; 4],
    /// The packet as it left it.
    pub(crate) packet: Vec<u8>,
}

/// A program may make a packet longer by no more than this.
const TEST_ROOM: usize = 256;

/// What a test run says of a packet besides its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given {
    /// The device by which it came in.
    pub(crate) ingress_ifindex: u32,
    /// Zero, or what says that it is a proof.
    pub(crate) proof: u64,
}

/// Runs a program on a packet of which this is given.
pub(crate) fn test_run(prog: BorrowedFd<'_>, packet: &[u8], about: Given) -> io::Result<TestRun> {
    let mut given = [0u32; SK_BUFF_WORDS];
    given[SK_BUFF_INGRESS_IFINDEX] = about.ingress_ifindex;
    given[SK_BUFF_CB] = about.proof as u32;
    given[SK_BUFF_CB + 1] = (about.proof >> 32) as u32;
    let mut context = [0u32; SK_BUFF_WORDS];
    let mut out = vec![0; packet.len() + TEST_ROOM];
    let mut opts = c::bpf_test_run_opts {
        sz: size_of::<c::bpf_test_run_opts>() as c::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        data_out: out.as_mut_ptr().cast(),
        data_size_out: out.len() as u32,
        ctx_in: given.as_ptr().cast(),
        ctx_size_in: size_of_val(&given) as u32,
        ctx_out: context.as_mut_ptr().cast(),
        ctx_size_out: size_of_val(&context) as u32,
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: the packets and the context live through the call and have the stated sizes.
    check(unsafe { c::bpf_prog_test_run_opts(prog.as_raw_fd(), &mut opts) })?;
    let mut words = [0; 4];
    words.copy_from_slice(&context[SK_BUFF_CB..SK_BUFF_CB + 4]);
    out.truncate(opts.data_size_out as usize);
    Ok(TestRun {
        returned: opts.retval as i32,
        words,
        packet: out,
    })
}

/// Waits until every program that runs now has returned (`synchronize_rcu`, membarrier(2)).
pub(crate) fn wait_for_programs() -> io::Result<()> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// As many values as the kernel keeps for a per-CPU map.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    // SAFETY: takes nothing, returns a number.
    check(unsafe { c::libbpf_num_possible_cpus() }).map(|count| count as usize)
}

/// The kernel's coarse monotonic clock: the one that the programs read.
pub(crate) fn now_ns() -> io::Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The bytes of an event, if there are as many as it needs.
pub(crate) fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: `T` is plain, so any bytes are a value; the source has as many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast(), bytes.len());
    }
    Some(value)
}

/// Takes a link off its device now. A link whose device is gone is detached already.
pub(crate) fn link_detach(fd: std::os::fd::RawFd) {
    // SAFETY: takes and returns plain numbers; a failure leaves the link to its last descriptor.
    unsafe { c::bpf_link_detach(fd) };
}
